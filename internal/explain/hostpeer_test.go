package explain

import (
	"slices"
	"strings"
	"testing"

	"sluice/internal/control"
	"sluice/internal/packet"
	"sluice/nat"
)

// TestHostPeer: what the host itself speaks with a peer is refused to inside hosts,
// and the words say what of the host it is.
func TestHostPeer(t *testing.T) {
	g, _, _ := live(t)
	g.Snapshot.Host = nat.NewHostPeers([]nat.HostPeer{{Proto: packet.ProtoGRE, Local: addr("192.0.2.2"), Peer: addr("1.1.1.1"), By: "gre device gre1"}, {Proto: 89, By: "raw socket"}})
	for _, tc := range []struct{ question, verdict, stage, says string }{
		{"47 10.20.30.5 1.1.1.1", "drop: host-peer", "translation", "the host itself speaks protocol 47 with 1.1.1.1 by 192.0.2.2 (gre device gre1): the answers are its own"},
		{"89 10.20.30.5 1.1.1.1", "drop: host-peer", "translation", "the host itself speaks protocol 89 with anybody by 192.0.2.2 (raw socket)"},
		{"47 10.20.30.5 1.1.1.2", "masquerade to 192.0.2.2", "translation", "protocol 47 is translated by address"},
		{"47 1.1.1.1 192.0.2.2", "pass to kernel", "steering", "kernel-host-address"},
	} {
		e, err := Explain(g, ask(t, tc.question))
		if err != nil {
			t.Fatal(err)
		}
		if e.Verdict != tc.verdict || !slices.ContainsFunc(e.Decisions, func(d control.Decision) bool {
			return d.Stage == tc.stage && strings.Contains(d.Text, tc.says)
		}) {
			t.Errorf("%s: %s, want %s and %s: %s\n%s", tc.question, e.Verdict, tc.verdict, tc.stage, tc.says, steps(&e))
		}
	}
}
