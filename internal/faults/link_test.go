package faults

import (
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
)

// toGateway is the port of each switch that the gateway is plugged into.
const toGateway = "gateway"

// arpRepeat is net.ipv4.neigh.default.retrans_time_ms.
const arpRepeat = time.Second

// switchOf is the switch that an interface of the gateway is plugged into.
func (w *world) switchOf(nic string) *lab.Namespace {
	if nic == lab.InsideNIC {
		return w.top.InsideSwitch
	}
	return w.top.OutsideSwitch
}

// downAndUp: nothing passes while the link is down, the host spins on nothing,
// and all goes on when it is up. The routes that the kernel took away with the
// link are put back, as a network manager would.
func (w *world) downAndUp(nic string) {
	routes := w.routesOf(nic)
	w.must(w.top.Gateway.SetDown(nic))
	w.near.stops()
	w.g.degraded("interface " + nic + " is down")
	w.quiet()
	w.must(w.top.Gateway.SetUp(nic))
	w.restore(routes)
	w.resolved()
}

// carrier: the far end goes down and up again.
func (w *world) carrier(nic string) {
	sw := w.switchOf(nic)
	w.must(sw.SetDown(toGateway))
	w.near.stops()
	w.g.degraded("interface " + nic + " is down")
	w.quiet()
	w.must(sw.SetUp(toGateway))
	w.resolved()
}

// resolved waits for what may go on a second later than all else: the switch
// forwards a little later than there is a carrier, and an ARP request that is
// lost meanwhile is repeated by the kernel.
func (w *world) resolved() {
	w.Helper()
	w.near.goesOn(resume + arpRepeat)
	w.far.goesOn(resume + arpRepeat)
	w.excluded.goesOn(resume + arpRepeat)
}

// quiet: a worker that cannot send does not use its CPU up for that.
func (w *world) quiet() {
	w.Helper()
	for _, k := range w.g.status().Workers {
		if !k.Running || k.HeartbeatAgeSeconds > 1 {
			w.Errorf("worker %d: %+v", k.ID, k)
		}
	}
}

// recreate deletes the device and makes another of the same name.
func (w *world) recreate(nic string) {
	sw, old := w.switchOf(nic), w.link(nic)
	addresses, err := w.netlink().AddrList(old, netlink.FAMILY_V4)
	w.must(err)
	routes := w.routesOf(nic)
	mark := w.g.log.mark()
	w.must(w.netlink().LinkDel(old))
	w.near.stops()
	w.g.said(mark, "interface is gone")
	w.g.degraded("interface " + nic + " is down or gone")

	// The neighbours keep the address that they know. The new device is plugged
	// in when Sluice has it: until then its frames would be the kernel's, which
	// forwards here.
	mark = w.g.log.mark()
	w.must(lab.Veth(w.top.Gateway, nic, sw, toGateway, lab.VethOptions{MACA: old.Attrs().HardwareAddr}))
	w.g.said(mark, "interface is back")
	if nic == lab.OutsideNIC {
		w.watch(sw, toGateway)
	}
	for _, a := range addresses {
		w.must(w.top.Gateway.AddAddress(nic, a.IPNet.String()))
	}
	w.restore(routes)
	w.plug(sw, toGateway)
	w.resolved()
}

// rename gives the device another name and then its own again. It counts as down
// meanwhile, and not as one that the kernel may forward by.
func (w *world) rename(nic string) {
	l := w.link(nic)
	w.must(w.netlink().LinkSetName(l, "elsewhere"))
	w.near.stops()
	w.g.degraded("interface " + nic + " is down or gone")
	if words := strings.Join(w.g.status().Unsupported, "; "); !strings.Contains(words, nic+" is called elsewhere now") {
		w.Errorf("status does not say where %s is: %s", nic, words)
	}
	w.must(w.netlink().LinkSetName(l, nic))
}

// replace has another device take the name of one that stays, under another. The
// old one is then nobody's any more, and the kernel may forward by it: it is
// unplugged.
func (w *world) replace(nic string) {
	old, sw := w.link(nic), w.switchOf(nic)
	w.must(sw.SetDown(toGateway))
	w.must(w.netlink().LinkSetName(old, "elsewhere"))
	w.near.stops()
	mark := w.g.log.mark()
	w.must(w.netlink().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nic, TxQLen: -1}, PeerName: "unplugged"}))
	w.g.said(mark, "it is down: ip link set "+nic+" up")
	w.g.degraded(nic + ": it is down")
	w.must(w.netlink().LinkSetUp(w.link("unplugged")))
	w.must(w.netlink().LinkSetUp(w.link(nic)))
	w.g.said(mark, "interface is back")
	if w.steered("elsewhere") || !w.steered(nic) {
		w.Error("the steering program did not move")
	}
	mark = w.g.log.mark()
	w.must(w.netlink().LinkDel(w.link(nic)))
	w.g.said(mark, "interface is gone")
	w.must(w.netlink().LinkSetName(old, nic))
	w.g.said(mark, "interface is back")
	w.must(sw.SetUp(toGateway))
	w.resolved()
}

// routesOf are the routes by way of a gateway on an interface, which vanish with
// it.
func (w *world) routesOf(nic string) (routes []netlink.Route) {
	w.Helper()
	all, err := w.netlink().RouteList(w.link(nic), netlink.FAMILY_V4)
	w.must(err)
	for _, r := range all {
		if r.Gw != nil {
			routes = append(routes, netlink.Route{Dst: r.Dst, Gw: r.Gw})
		}
	}
	return routes
}

func (w *world) restore(routes []netlink.Route) {
	w.Helper()
	for i := range routes {
		w.must(w.netlink().RouteReplace(&routes[i]))
	}
}
