package gateway

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/internal/fib"
	"sluice/internal/verdict"
)

// TestForeignSources: RFC 2827, RFC 1812 5.3.8. Where foreign sources are dropped, an
// inside interface passes on what comes from addresses that routes lead to by one, and
// nothing else; the outside and one-armed interfaces are not concerned.
func TestForeignSources(t *testing.T) {
	foreign := ip("198.51.100.50") // reached by the default route
	later := func(f from) []byte {
		l := f.ipv4(layers.IPProtocolUDP)
		l.FragOffset = 100
		return f.frame(t, l, payload("fragment"))
	}
	strict := func(_ *rig, s *Snapshot) { s.DropForeign = true }
	for _, tt := range []struct {
		name   string
		option rigOption
		on     fib.PortID
		frame  []byte
		passes bool
	}{
		{"of the network itself", strict, insidePort, from{src: client, dst: server, sport: 1, dport: 2}.udp(t), true},
		{"that is reached outside", strict, insidePort, from{src: foreign, dst: server, sport: 1, dport: 2}.udp(t), false},
		{"a fragment of one", strict, insidePort, later(from{src: foreign, dst: server}), false},
		{"to an external address", strict, insidePort, from{src: foreign, dst: external, sport: 1, dport: 2}.udp(t), false},
		{"that is reached nowhere", func(r *rig, s *Snapshot) {
			r.builder.SetRoutes(fib.Connected([]fib.Interface{*s.Routes.Interface(insidePort), *s.Routes.Interface(outsidePort)}))
			s.Routes, s.DropForeign = r.builder.Build(), true
		}, insidePort, from{src: foreign, dst: ip("192.0.2.254"), sport: 1, dport: 2}.udp(t), false},
		{"that routes lead to inside", func(r *rig, s *Snapshot) {
			r.builder.SetRoutes(append(fib.Connected([]fib.Interface{*s.Routes.Interface(insidePort), *s.Routes.Interface(outsidePort)}),
				fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Paths: []fib.Path{{Ifindex: 2, Gateway: router}}},
				fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("198.51.100.50/32"), Paths: []fib.Path{{Ifindex: 1, Gateway: client2}}}))
			s.Routes, s.DropForeign = r.builder.Build(), true
		}, insidePort, from{src: foreign, dst: server, sport: 1, dport: 2}.udp(t), true},
		{"from outside", strict, outsidePort, from{src: excluded, dst: client, sport: 1, dport: 2}.udp(t), true},
		{"by a one-armed interface", func(_ *rig, s *Snapshot) {
			s.DropForeign, s.Roles[insidePort], s.Roles[outsidePort] = true, RoleBoth, RoleBoth
		}, insidePort, from{src: foreign, dst: excluded, sport: 1, dport: 2}.udp(t), true},
		{"where they are routed", func(*rig, *Snapshot) {}, insidePort, from{src: foreign, dst: server, sport: 1, dport: 2}.udp(t), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.option)
			r.send(tt.on, tt.frame)
			left := len(r.forwarded(insidePort)) + len(r.forwarded(outsidePort))
			if dropped := r.drops(verdict.ForeignSource) == 1; dropped == tt.passes || (left == 1) != tt.passes {
				t.Errorf("%d packets left; drops %v", left, r.allDrops())
			}
		})
	}
}
