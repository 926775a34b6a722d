package gateway

import (
	"net/netip"
	"testing"

	"sluice/internal/fib"
	"sluice/internal/verdict"
)

// While the way inside is gone, only the default route matches inside addresses.
// What comes from outside for them does not turn back there: outside would see
// addresses that are hidden from it, as a destination or in the quote of an ICMP
// error. The flows live on.
func TestNothingTurnsBackOutside(t *testing.T) {
	r := newRig(t)
	request := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, request)
	left := r.one(outsidePort)
	port := uint16(left.udp.SrcPort)
	answer := from{src: server, dst: external, sport: 53, dport: port}.udp(t)
	failure := from{src: router, dst: external}.quote(t, 3, 1, left.raw, 28)
	direct := from{src: excluded, dst: client, sport: 9, dport: 9}.udp(t) // policy hides nothing from it

	r.builder.SetRoutes([]fib.Route{{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"),
		Paths: []fib.Path{{Ifindex: 2, Gateway: router}}}})
	r.reroute()
	for i, frame := range [][]byte{answer, failure, direct} {
		r.send(outsidePort, frame)
		r.none(verdict.NoRoute)
		if n := r.drops(verdict.NoRoute); n != uint64(i+1) {
			t.Errorf("packet %d: %d drops, %v", i, n, r.allDrops())
		}
	}

	r.interfaces(true)
	r.reroute()
	for _, frame := range [][]byte{answer, failure} {
		r.send(outsidePort, frame)
		if v := r.one(insidePort); v.packet.Dst != client {
			t.Errorf("to %v, want the client", fib.Addr(v.packet.Dst))
		}
	}
}
