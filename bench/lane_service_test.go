package bench

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/lab"
	"sluice/internal/packet"
	"sluice/nat"
)

// TestInspectorOfServices: the frame of a DSR flow passes with the right option
// alone, and an answer with the service as its source.
func TestInspectorOfServices(t *testing.T) {
	const first = 1 << 40
	frameOf := func(e expectation) []byte {
		w := newTester(nil, nil, nil, strangeMAC, insideMAC[:], &e)
		b := make([]byte, dsr.OptionLen+frameLength)
		w.write(b[dsr.OptionLen:], first)
		return b
	}
	l := &lane{peer: PeerDSR, expect: expectation{src: address(clientAddress), dst: address(serverAddress), ttl: 64}}
	l.expectService()
	direct := l.expect
	b := frameOf(direct)
	var p packet.Packet
	packet.Parse(b[dsr.OptionLen:], &p)
	nat.Rewrite(b[dsr.OptionLen:], &p, conntrack.Tuple{Src: p.Src, Dst: direct.dst, SrcPort: p.SrcPort, DstPort: discardPort, Proto: p.Proto})
	bare := append([]byte(nil), b[dsr.OptionLen:]...)
	dsr.Insert(b, direct.to, direct.port, dsr.CiliumOrder)
	if wrong := newInspector(direct, first, 1).wrong(b); wrong != "" {
		t.Error(wrong)
	}
	for at := 12; at < len(b); at++ {
		b[at] ^= 0x10
		if newInspector(direct, first, 1).wrong(b) == "" {
			t.Errorf("byte %d changed, and the frame passes", at)
		}
		b[at] ^= 0x10
	}
	if newInspector(direct, first, 1).wrong(bare) == "" {
		t.Error("a frame without the option passes")
	}
	other := direct
	other.port++
	if wrong := newInspector(other, first, 1).wrong(b); !strings.Contains(wrong, "option") {
		t.Errorf("another service's option: %q", wrong)
	}

	l = &lane{peer: PeerSNAT, expect: expectation{src: address(clientAddress), dst: address(serverAddress), ttl: 64}}
	l.expectService()
	answered := l.expect
	b = frameOf(answered)[dsr.OptionLen:]
	if newInspector(answered, first, 1).wrong(b) == "" {
		t.Error("a request passes for an answer")
	}
	for i := range 4 {
		b[l3+12+i], b[l3+16+i] = b[l3+16+i], b[l3+12+i]
	}
	own := binary.BigEndian.Uint16(b[l4:])
	binary.BigEndian.PutUint16(b[l4:], binary.BigEndian.Uint16(b[l4+2:]))
	binary.BigEndian.PutUint16(b[l4+2:], own)
	answered.ttl = 64
	if wrong := newInspector(answered, first, 1).wrong(b); wrong != "" {
		t.Error(wrong)
	}
}

// TestAnsweredLane: the server sends back what comes, and what comes back to the
// client is right.
func TestAnsweredLane(t *testing.T) {
	lab.RequireRoot(t)
	lab.RequireProgram(t, "nft", "nftables")
	s, err := newSite(&Options{Binary: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(s.dir)
	w := &wireRun{processor: newProcessor(), o: &Options{Sample: 50 * time.Millisecond}, contest: &balancing}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, peer := range []Peer{PeerFullNAT, PeerDNAT} {
		if err := w.start(t.Context(), s, peer); err != nil {
			t.Fatal(err)
		}
		l := w.lanes[len(w.lanes)-1]
		if l.check.Sent != inspected || l.check.Received != inspected || l.check.Wrong != 0 {
			t.Errorf("%s: %+v", peer, l.check)
		}
		if p := l.tester.run(w.o.Sample, window); p.sent == 0 || p.received != p.sent {
			t.Errorf("%s: %+v", peer, p)
		}
	}
	if len(w.report().Ratios) != 0 {
		t.Error("a ratio to a peer that is not there")
	}
}
