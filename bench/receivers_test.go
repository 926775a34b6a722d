package bench

import (
	"os"
	"testing"

	"sluice/internal/lab"
)

func TestSNMP(t *testing.T) {
	const text = "Ip: Forwarding\nIp: 1\nTcp: OutSegs RetransSegs MaxConn\nTcp: 17 4 -1\nUdp: OutSegs\nUdp: 9\n"
	got := snmpOf(text, "Tcp")
	if got["OutSegs"] != 17 || got["RetransSegs"] != 4 || got["MaxConn"] != -1 || len(got) != 3 {
		t.Errorf("%v", got)
	}
	for _, broken := range []string{"", "Tcp: OutSegs", "Tcp: OutSegs\nTcp: 1 2 3\n", "Tcp: OutSegs\nTcp: x\n"} {
		snmpOf(broken, "Tcp")
	}
}

// TestReceivers: all connections get everything, twice, and what the server sent is
// at least that.
func TestReceivers(t *testing.T) {
	lab.RequireRoot(t)
	s, err := newSite(&Options{Binary: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(s.dir)
	p, err := s.invite(t.Context(), PeerKernel)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		if err := p.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const least = receivers * receiverBytes / 1460
	for i := range p.sent {
		if p.sent[i].value < least || p.seconds[i].value <= 0 || p.again[i].value > 0.5 {
			t.Errorf("%.0f segments in %.3f s, %.2f of them again", p.sent[i].value, p.seconds[i].value, p.again[i].value)
		}
	}
	if len(p.empty) != 0 {
		t.Error("the kernel has no rings to lose frames by")
	}
	if _, err := s.invite(t.Context(), PeerSluice); err == nil {
		t.Error("a gateway that does not start was invited")
	}
}
