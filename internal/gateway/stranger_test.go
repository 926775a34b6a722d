package gateway

import (
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/nat"
)

// TestStrangerOnNewAddress: a packet for an address on the outside link began a
// forwarded flow before the address became an external one. That flow does not
// keep the port from being used towards that peer.
func TestStrangerOnNewAddress(t *testing.T) {
	r := newRig(t)
	added := ip("192.0.2.50")
	r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: added, State: fib.Resolved, MAC: routerMAC})
	r.reroute()
	r.send(outsidePort, from{src: server, dst: added, sport: 53, dport: 4000}.udp(t))
	r.one(outsidePort)

	x := conntrack.NewExternal(added, nil)
	if err := r.table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	r.publish(func(s *Snapshot) { s.Pools[outsidePort] = nat.NewPool(x) })
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	if v := r.one(outsidePort); src(v) != "192.0.2.50" {
		t.Errorf("left as %s", src(v))
	}
	r.send(outsidePort, from{src: server, dst: added, sport: 53, dport: 4000}.udp(t))
	r.one(insidePort)
}
