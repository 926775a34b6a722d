package explain

import (
	"slices"
	"strings"
	"testing"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestFlags: what becomes of a segment that is no SYN, with and without a flow that
// it belongs to, and which line decides.
func TestFlags(t *testing.T) {
	g, _, x := live(t)
	w := g.Table.Worker(0)
	key := conntrack.Tuple{Src: addr("10.20.30.5"), Dst: addr("10.8.0.1"), SrcPort: 5000, DstPort: 443, Proto: packet.ProtoTCP}
	if _, _, _, r := w.Create(&conntrack.NewFlow{Original: key, Reply: key.Reverse(), Kind: conntrack.Forward, OutPort: 1, TCPFlags: packet.TCPSyn}, 1000); r != verdict.None {
		t.Fatal(r)
	}
	w.Offline()
	var ports [1024]uint64
	ports[8080/64] = 1 << (8080 % 64)
	x.Reserve(conntrack.ByHost, packet.ProtoTCP, &ports)
	for _, tc := range []struct {
		question, flags, verdict, stage, says string
		pickUp                                bool
	}{
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "", "masquerade to 192.0.2.2:40000", "translation", "port 40000 is free", false},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "syn", "masquerade to 192.0.2.2:40000", "parse", "TCP: SYN", false},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "syn,ece,cwr", "masquerade to 192.0.2.2:40000", "parse", "TCP: SYN", false},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "ack", "drop: tcp-without-flow", "translation", "masquerade.tcp-pickup: off", false},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "psh,ack", "masquerade to 192.0.2.2:40000", "translation", "adopted (masquerade.tcp-pickup: outbound)", true},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "rst", "drop: tcp-without-flow", "translation", "a reset ends a connection", true},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "syn,ack", "drop: tcp-without-flow", "translation", "answers a SYN that never passed", true},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "syn,fin", "drop: bad-tcp-flags", "parse", "TCP: FIN SYN", false},
		{"tcp 10.20.30.5:40000 1.1.1.1:443", "none", "drop: bad-tcp-flags", "parse", "TCP: no flags", false},
		{"tcp 10.20.30.5:5000 10.8.0.1:443", "rst,ack", "forward", "flow", "belongs to a flow", false},
		{"tcp 10.20.30.5:6000 10.8.0.1:443", "ack", "forward", "policy", "10.8.0.0/16", false},
		{"tcp 1.1.1.1:443 192.0.2.2:8080", "syn", "pass to kernel", "steering", "kernel-", false},
	} {
		q := ask(t, tc.question)
		q.Flags = tc.flags
		g.Snapshot.PickUp = tc.pickUp
		e, err := Explain(g, q)
		if err != nil {
			t.Fatal(err)
		}
		if e.Verdict != tc.verdict || !slices.ContainsFunc(e.Decisions, func(d control.Decision) bool {
			return d.Stage == tc.stage && strings.Contains(d.Text, tc.says)
		}) {
			t.Errorf("%s %q: %s, want %s and %s: %s\n%s", tc.question, tc.flags, e.Verdict, tc.verdict, tc.stage, tc.says, steps(&e))
		}
	}
}
