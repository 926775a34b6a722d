package faults

import (
	"testing"

	"sluice/internal/lab"
)

// world is the rig with a gateway that forwards and conversations that never
// stop.
type world struct {
	*rig
	g        *gateway
	near     *stream  // masqueraded, to a host on the outside link
	far      *stream  // masqueraded, by way of the default route
	excluded *stream  // with its true source, by way of a route
	tcp      *session // masqueraded
}

func newWorld(r *rig, more string) *world {
	r.Helper()
	w := &world{rig: r, g: r.start(config(more), "--detach-on-exit")}
	w.near = r.stream("near", r.top.Client1, lab.Server1Address, 64)
	w.far = r.stream("far", r.top.Client2, farAddress, 64)
	w.excluded = r.stream("excluded", r.top.Client2, lab.ExcludedAddress, 64)
	w.tcp = r.session(r.top.Client1, lab.Server1Address)
	for s, want := range map[*stream]string{w.near: lab.GatewayOutside, w.far: lab.GatewayOutside, w.excluded: lab.Client2Address} {
		if a := s.goesOn(patience); a.source.Addr().String() != want {
			r.Fatalf("%s is seen as %s", s.name, a.source)
		}
	}
	return w
}

// allGoOn waits for every conversation, and returns what the servers saw of the
// two masqueraded ones.
func (w *world) allGoOn() (near, far answer) {
	w.Helper()
	near, far = w.near.goesOn(resume), w.far.goesOn(resume)
	w.excluded.goesOn(resume)
	w.tcp.goesOn()
	return near, far
}

// fault runs one fault: the conversations go on before it and after it, and the
// flows are the same ones then.
func (w *world) fault(name string, f func()) {
	w.run(name, func() {
		near, far := w.allGoOn()
		f()
		near2, far2 := w.allGoOn()
		if near2.source != near.source || far2.source != far.source {
			w.Errorf("external ports changed: near %s to %s, far %s to %s", near.source, near2.source, far.source, far2.source)
		}
		w.g.healthy()
	})
}

// change is a fault that ends masqueraded flows, since the address that they had
// goes. What comes after it are new ones.
func (w *world) change(name string, f func()) {
	w.run(name, func() {
		w.allGoOn()
		f()
		w.resolved()
		w.tcp.conn.Close()
		w.tcp = w.session(w.top.Client1, lab.Server1Address)
		w.allGoOn()
		w.g.healthy()
	})
}

// TestFaults breaks one thing after another under one gateway.
func TestFaults(t *testing.T) {
	r := newRig(t)
	w := newWorld(r, "")
	for _, nic := range []string{lab.InsideNIC, lab.OutsideNIC} {
		w.fault(nic+" down and up", func() { w.downAndUp(nic) })
		w.fault(nic+" loses its carrier", func() { w.carrier(nic) })
	}
	w.fault("inside deleted and recreated", func() { w.recreate(lab.InsideNIC) })
	w.fault("inside renamed and back", func() { w.rename(lab.InsideNIC) })
	w.change("outside deleted and recreated", func() { w.recreate(lab.OutsideNIC) })
	w.fault("outside renamed and back", func() { w.rename(lab.OutsideNIC) })
	w.fault("another device is called inside", func() { w.replace(lab.InsideNIC) })

	w.fault("another address comes and goes", w.anotherAddress)
	w.change("the address changes and changes back", w.changedAddress)
	w.change("the address goes", w.goneAddress)
	w.fault("default route goes and comes back", w.defaultRoute)
	w.fault("route moves", w.movedRoute)
	w.fault("the next hop's MAC changes", w.movedNextHop)
	w.fault("neighbour fails and comes back", w.failedNeighbour)
	w.fault("MTU lowered and raised", w.mtu)

	w.fault("the process is stopped and continued", w.stopped)
	w.fault("routing events are lost", w.overrun)
	w.fault("more frames than there is room for", w.flood)
	w.fault("the uplink takes no more", w.fullUplink)
	w.fault("another daemon on the same interfaces", w.second)
	w.fault("reload of a file with mistakes", w.badReload)
	w.fault("reload that excludes a network", w.goodReload)
	r.end(w.g)
}
