package faults

import (
	"fmt"
	"net"
	"syscall"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
)

// The outside interface's other addresses, during the tests.
const (
	secondAddress = "198.51.100.22"
	otherAddress  = "198.51.100.23"
)

// anotherAddress: a further address is nothing to masqueraded flows.
func (w *world) anotherAddress() {
	a := w.address(secondAddress + "/24")
	w.must(w.netlink().AddrAdd(w.link(lab.OutsideNIC), a))
	w.far.goesOn(resume)
	w.must(w.netlink().AddrDel(w.link(lab.OutsideNIC), a))
}

// changedAddress: `auto` follows to another address, and back. The flows of the
// one that is gone have ended; none leaves with it any more.
func (w *world) changedAddress() {
	outside := w.link(lab.OutsideNIC)
	before, after := w.address(lab.GatewayOutside+"/24"), w.address(otherAddress+"/24")
	routes := w.routesOf(lab.OutsideNIC)
	w.must(w.netlink().AddrAdd(outside, after)) // secondary, until the primary goes
	w.must(w.top.Gateway.Sysctl("net/ipv4/conf/"+lab.OutsideNIC+"/promote_secondaries", "1"))
	w.must(w.netlink().AddrDel(outside, before))
	w.restore(routes)
	w.near.until(resume, "is seen as the new address", seenAs(otherAddress))
	w.far.until(resume, "is seen as the new address", seenAs(otherAddress))
	w.ended(lab.GatewayOutside)

	w.must(w.netlink().AddrAdd(outside, before))
	w.must(w.netlink().AddrDel(outside, after))
	w.restore(routes)
	w.near.until(resume, "is seen as the old address", seenAs(lab.GatewayOutside))
	w.far.until(resume, "is seen as the old address", seenAs(lab.GatewayOutside))
	w.ended(otherAddress)
}

// goneAddress: without an address nothing is masqueraded, and status says why.
func (w *world) goneAddress() {
	outside, a := w.link(lab.OutsideNIC), w.address(lab.GatewayOutside+"/24")
	routes := w.routesOf(lab.OutsideNIC)
	w.must(w.netlink().AddrDel(outside, a))
	w.near.stops()
	w.ended(lab.GatewayOutside)
	w.must(w.netlink().AddrAdd(outside, a))
	w.restore(routes)
}

func seenAs(address string) func(answer) bool {
	return func(a answer) bool { return a.source.Addr().String() == address }
}

// ended waits until no flow has the external address any more.
func (w *world) ended(address string) {
	w.Helper()
	w.eventually("flows of "+address+" end", func() error {
		for _, f := range w.g.flows() {
			if f.Reply.Dst.String() == address {
				return fmt.Errorf("%+v", f)
			}
		}
		return nil
	})
}

// defaultRoute: without it what it led to is dropped by name; the rest goes on.
func (w *world) defaultRoute() {
	before := w.g.drops("no-route")
	w.must(w.netlink().RouteDel(w.route("default", lab.RouterAddress)))
	w.far.stops()
	w.near.goesOn(resume)
	w.excluded.goesOn(resume)
	w.g.dropped("no-route", before)
	w.must(w.netlink().RouteAdd(w.route("default", lab.RouterAddress)))
}

// movedRoute: live flows take the new way, with the same external port, and the
// old one again.
func (w *world) movedRoute() {
	if a := w.far.goesOn(resume); a.by != "router" {
		w.Fatalf("the far address is served by %s", a.by)
	}
	w.must(w.netlink().RouteReplace(w.route("default", lab.Server2Address)))
	w.far.until(resume, "takes the new way", servedBy("server2"))
	w.must(w.netlink().RouteReplace(w.route("default", lab.RouterAddress)))
	w.far.until(resume, "takes the old way", servedBy("router"))
}

func servedBy(name string) func(answer) bool { return func(a answer) bool { return a.by == name } }

// movedNextHop: the router gets another hardware address and says so, as one
// that takes over does (gratuitous ARP).
func (w *world) movedNextHop() {
	router := w.top.Excluded
	w.must(router.Sysctl("net/ipv4/conf/"+lab.HostNIC+"/arp_notify", "1"))
	l, err := router.Netlink().LinkByName(lab.HostNIC)
	w.must(err)
	w.must(router.Netlink().LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 0x42}))
	w.far.goesOn(resume)
	w.must(router.Netlink().LinkSetHardwareAddr(l, l.Attrs().HardwareAddr))
}

// failedNeighbour: a server is off. What is for it is dropped by name, what is
// for others is not kept waiting. When it is on again, it says so.
func (w *world) failedNeighbour() {
	server := w.top.Server1
	w.must(server.Sysctl("net/ipv4/conf/"+lab.HostNIC+"/arp_notify", "1"))
	// The kernel's patience is seconds; shorten it.
	w.must(w.top.Gateway.Sysctl("net/ipv4/neigh/"+lab.OutsideNIC+"/retrans_time_ms", "50"))
	before := w.g.drops("neighbour-unresolved")
	w.must(server.SetDown(lab.HostNIC))
	w.must(w.netlink().NeighDel(&netlink.Neigh{LinkIndex: w.link(lab.OutsideNIC).Attrs().Index, IP: net.ParseIP(lab.Server1Address)}))
	w.g.dropped("neighbour-unresolved", before)
	w.far.goesOn(resume)
	w.must(server.SetUp(lab.HostNIC))
	w.must(server.AddRoute("default", lab.GatewayOutside))
	w.resolved()
}

// mtu: packets that no longer fit are dropped by name, until they fit again.
// Smaller ones go on. An MTU that the frames of the workers cannot take shows in
// status.
func (w *world) mtu() {
	large := w.stream("large", w.top.Client1, lab.Server1Address, 1440)
	large.goesOn(resume)
	before := w.g.drops("fragmentation-needed")
	w.must(w.netlink().LinkSetMTU(w.link(lab.OutsideNIC), 1400))
	large.stops()
	w.near.goesOn(resume)
	w.g.dropped("fragmentation-needed", before)
	w.must(w.netlink().LinkSetMTU(w.link(lab.OutsideNIC), 1500))
	large.goesOn(resume)

	w.must(w.netlink().LinkSetMTU(w.link(uplinkNIC), 3000))
	w.g.degraded("interface " + uplinkNIC + " has MTU 3000")
	w.must(w.netlink().LinkSetMTU(w.link(uplinkNIC), 1500))
}

// overrun: while the process is stopped, more routing events come than its
// socket has room for; the last of them, and with it a moved route, is lost.
func (w *world) overrun() {
	mark := w.g.log.mark()
	w.g.signal(syscall.SIGSTOP)
	lo := w.link("lo")
	for i := range 6000 {
		w.must(w.netlink().LinkSetAlias(lo, fmt.Sprint("event ", i)))
	}
	w.must(w.netlink().RouteReplace(w.route("default", lab.Server2Address)))
	w.g.signal(syscall.SIGCONT)
	w.g.said(mark, "routing events were lost")
	w.far.until(resume, "takes the new way", servedBy("server2"))
	w.must(w.netlink().RouteReplace(w.route("default", lab.RouterAddress)))
	w.far.until(resume, "takes the old way", servedBy("router"))
}
