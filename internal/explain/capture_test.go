package explain

import (
	"strings"
	"testing"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestComment: each fate in explain's words, with the fields that apply and no
// others.
func TestComment(t *testing.T) {
	g := &Gateway{Config: &config.Config{Interfaces: []config.Interface{{Name: "eth1"}, {Name: "eth0"}}}}
	before := conntrack.Tuple{Src: addr("10.0.0.5"), SrcPort: 4000, Dst: addr("1.1.1.1"), DstPort: 443, Proto: packet.ProtoTCP}
	masqueraded, balanced := before, before
	masqueraded.Src, masqueraded.SrcPort = addr("192.0.2.1"), 2000
	balanced.Dst, balanced.DstPort = addr("10.0.2.3"), 8080
	flow := func(kind conntrack.Kind, d conntrack.Direction) gateway.Captured {
		c := gateway.Captured{IPv4: true, Before: before, Left: true, After: masqueraded, Fate: gateway.Sent, Out: 1, Queue: 2, HasFlow: true, ID: 31, Generation: 4}
		c.Flow = gateway.FlowFound{Kind: kind, Direction: d, State: conntrack.TCPSynSent}
		return c
	}
	sent := flow(conntrack.Masquerade, conntrack.Original)
	snat, dsr := flow(conntrack.ServiceSNAT, conntrack.Original), flow(conntrack.ServiceDSR, conntrack.Original)
	snat.After, dsr.After = balanced, balanced
	pieces := sent
	pieces.Fragments, pieces.ID, pieces.Queue = 3, 0, -1
	waited := sent
	waited.In = fib.NoPort
	dropped := gateway.Captured{IPv4: true, Before: before, Reason: verdict.TTLExpired, Error: gateway.TimeExceeded, Out: fib.NoPort, Queue: -1}
	malformed := gateway.Captured{Reason: verdict.FrameTooShort, Out: fib.NoPort, Queue: -1}
	punted := dropped
	punted.Fate, punted.Error = gateway.Punted, gateway.NoError
	tail := "flow: 31.4; kind: masquerade; state: syn-sent; direction: original; in: eth1; out: eth0; worker: 7; queue: 2"
	for _, tt := range []struct {
		name       string
		captured   gateway.Captured
		begin, end string
	}{
		{"masquerade", sent, "verdict: masquerade to 192.0.2.1:2000; before: tcp 10.0.0.5:4000 > 1.1.1.1:443; after: tcp 192.0.2.1:2000 > 1.1.1.1:443; " + tail, tail},
		{"reply", flow(conntrack.Masquerade, conntrack.Reply), "verdict: forward; before: ", "; direction: reply; in: eth1; out: eth0; worker: 7; queue: 2"},
		{"snat", snat, "verdict: balance to 10.0.2.3:8080 (snat); before: ", "queue: 2"},
		{"dsr", dsr, "verdict: balance to 10.0.2.3:8080 (dsr); before: ", "queue: 2"},
		{"in fragments", pieces, "verdict: masquerade to ", "; fragments: 3; flow: ended; kind: masquerade; state: syn-sent; direction: original; in: eth1; out: eth0; worker: 7"},
		{"waited", waited, "verdict: send what waited, or the gateway's own; after: tcp ", "; direction: original; out: eth0; worker: 7; queue: 2"},
		{"dropped", dropped, "verdict: drop: ttl-expired; reason: ttl-expired (", "); error: icmp time-exceeded to the sender; before: tcp 10.0.0.5:4000 > 1.1.1.1:443; in: eth1; worker: 7"},
		{"malformed", malformed, "verdict: drop: frame-too-short; reason: frame-too-short (", "); in: eth1; worker: 7"},
		{"punted", punted, "verdict: pass to kernel; reason: ttl-expired (", "; in: eth1; worker: 7"},
		{"ARP", gateway.Captured{Fate: gateway.Answered, Out: 0, Queue: 0}, "verdict: answer ARP; in: eth1; out: eth1; worker: 7; queue: 0", "queue: 0"},
		{"waits", gateway.Captured{Fate: gateway.Waiting, Out: fib.NoPort, Queue: -1}, "verdict: wait for the first fragment; in: eth1; worker: 7", "7"},
		{"searches", gateway.Captured{Fate: gateway.Searching, Out: fib.NoPort, Queue: -1}, "verdict: wait for a port; in: eth1; worker: 7", "7"},
		{"handed over", gateway.Captured{Fate: gateway.HandedOver, Out: fib.NoPort, Queue: -1}, "verdict: hand over to another worker; in: eth1; worker: 7", "7"},
	} {
		got := Comment(g, 7, &tt.captured)
		if !strings.HasPrefix(got, tt.begin) || !strings.HasSuffix(got, tt.end) {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
	// Fields are told apart by "; ", whatever a reason's explanation says.
	for r := range verdict.Count {
		c := gateway.Captured{Reason: r, Out: fib.NoPort, Queue: -1}
		for _, field := range strings.Split(Comment(g, 0, &c), "; ") {
			if name, _, ok := strings.Cut(field, ": "); !ok || strings.Contains(name, " ") {
				t.Errorf("%s: the field %q has no name", r, field)
			}
		}
	}
}
