package daemon

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// TestExplainLab asks a running gateway about packets, then sends them: each
// must do what was said, as whoever receives it sees it.
func TestExplainLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newPuntLab(t, program)
	const port = ":40000"
	client1, client2 := l.udp(l.Client1, lab.Client1Address+port), l.udp(l.Client2, lab.Client2Address+port)
	server, stranger := l.udp(l.Server1, lab.Server1Address+port), l.udp(l.Server2, lab.Server2Address+port)
	excluded := l.udp(l.Excluded, lab.ExcludedAddress+port)
	host := l.udp(l.Gateway, lab.GatewayOutside+":5000")
	outside := lab.GatewayOutside + port

	e := l.explain(lab.Client1Address+port, lab.Server1Address+port, "masquerade to "+outside)
	if e.Translated == nil || e.Translated.Src.String() != lab.GatewayOutside || e.Translated.Sport != 40000 {
		t.Errorf("translated %+v", e.Translated)
	}
	l.arrives(client1, lab.Server1Address+port, server, outside)
	e = l.explain(lab.Client1Address+port, lab.Server1Address+port, "masquerade to "+outside)
	if !strings.Contains(decisions(e), "belongs to a flow, masquerade") {
		t.Errorf("the flow is not found:\n%s", decisions(e))
	}
	l.explain(lab.Server1Address+port, outside, "forward")
	l.arrives(server, outside, client1, lab.Server1Address+port)

	// The port is taken for the other client, and is not open to a stranger.
	l.explain(lab.Client2Address+port, lab.Server1Address+port, "masquerade to "+lab.GatewayOutside+":*")
	if from := l.arrives(client2, lab.Server1Address+port, server, ""); from.Addr().String() != lab.GatewayOutside || from.Port() == 40000 {
		t.Errorf("the server sees %s", from)
	}
	l.explain(lab.Server2Address+port, outside, "drop: filtered")
	before := l.drops("filtered")
	l.write(stranger, outside, []byte("x"))
	for deadline := time.Now().Add(3 * time.Second); l.drops("filtered") == before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what should be filtered was not")
		}
	}

	l.explain(lab.Client1Address+port, lab.ExcludedAddress+port, "forward")
	l.arrives(client1, lab.ExcludedAddress+port, excluded, lab.Client1Address+port)
	l.explain(lab.Server2Address+port, lab.GatewayOutside+":5000", "pass to kernel")
	l.arrives(stranger, lab.GatewayOutside+":5000", host, lab.Server2Address+port)
}

// explain asks about a UDP packet and expects a verdict.
func (l *puntLab) explain(src, dst, verdict string) control.Explanation {
	l.t.Helper()
	e, err := l.client.Explain(l.t.Context(), udpQuestion(src, dst))
	if err != nil {
		l.t.Fatal(err)
	}
	if e.Verdict != verdict {
		l.t.Errorf("%s to %s: %s, want %s\n%s", src, dst, e.Verdict, verdict, decisions(e))
	}
	return e
}

// udpQuestion is about a UDP packet.
func udpQuestion(src, dst string) control.Question {
	return control.Question{Proto: "udp", Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

// arrives sends a packet and expects it at a socket, from an address unless that
// is "".
func (l *puntLab) arrives(from *net.UDPConn, to string, at *net.UDPConn, source string) netip.AddrPort {
	l.t.Helper()
	l.write(from, to, []byte("x"))
	if err := at.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	_, seen, err := at.ReadFromUDPAddrPort(make([]byte, 16))
	if err != nil {
		l.t.Fatal(err)
	}
	if source != "" && seen.String() != source {
		l.t.Errorf("%s sees %s, want %s", at.LocalAddr(), seen, source)
	}
	return seen
}

func decisions(e control.Explanation) string {
	var b strings.Builder
	for _, d := range e.Decisions {
		b.WriteString(d.Stage + ": " + d.Text + "\n")
	}
	return b.String()
}
