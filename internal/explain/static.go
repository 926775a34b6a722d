package explain

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/verdict"
	"sluice/nat"
)

// AssumeForwards gives the gateway of a file its port-forwards. An address of an
// interface, which the file does not say, is assumedAddress.
func (g *Gateway) AssumeForwards(list []nat.PortForward) error {
	if len(list) == 0 {
		return nil
	}
	g.Snapshot.Static = nat.NewStatic(list)
	for i := range list {
		if addr := list[i].External; g.Table.External(addr) == nil {
			if err := g.Table.AddExternal(conntrack.NewExternal(addr, nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tellStatic is about a packet to an external endpoint that port-forwards has.
func (a *account) tellStatic() {
	d := &a.outcome.Decision
	to := endpoint(a.p.Proto, d.Target.Dst, d.Target.DstPort)
	what := "forwards " + endpoint(a.p.Proto, a.p.Dst, a.p.DstPort) + " to "
	if d.Static.OneToOne() {
		what = "one-to-one: " + fib.Addr(d.Static.External).String() + " belongs to "
		to = fib.Addr(d.Static.Inside).String()
	}
	if d.Reason == verdict.HairpinDisabled || d.Reason == verdict.SpoofedSource {
		to = fib.Addr(d.Static.Inside).String()
	}
	a.decide(stageAddress, d.Static.Line, "port-forwards %s%s", what, to)
	if d.Reason == verdict.HairpinDisabled {
		a.decide(stageAddress, a.Config.Line("masquerade.hairpin"), "the sender is inside, and masquerade.hairpin is false")
	}
}

// tellStaticSource is about a source that port-forwards has an external endpoint
// for.
func (a *account) tellStaticSource() {
	d := &a.outcome.Decision
	line := 0
	if d.Static != nil && d.Static.Inside == a.p.Src {
		line = d.Static.Line
	}
	a.decide(stageTranslate, line, "port-forwards has %s for %s: its own flows leave with that, towards every destination",
		endpoint(a.p.Proto, d.Target.Src, d.Target.SrcPort), endpoint(a.p.Proto, a.p.Src, a.p.SrcPort))
}

// tellAddressOnly is about the claim of a protocol without ports.
func (a *account) tellAddressOnly(m *nat.Forecast) {
	line := a.Config.Line("masquerade.other-protocols")
	if m.Reason == verdict.HostPeer {
		a.tellHostPeer(m.External.Address(), a.p.Dst)
		return
	}
	if m.Reason == verdict.PeerTaken {
		a.decide(stageTranslate, line, "protocol %d has no ports, and another inside host has it towards %s on every external address", a.p.Proto, fib.Addr(a.p.Dst))
		return
	}
	a.decide(stageTranslate, line, "protocol %d is translated by address: this inside host has it towards %s on that address alone (masquerade.other-protocols: address-only)", a.p.Proto, fib.Addr(a.p.Dst))
}

// tellHostPeer is about a protocol without ports that the host itself speaks with
// the peer by an external address.
func (a *account) tellHostPeer(external, peer uint32) {
	h := a.Snapshot.Host.Find(a.p.Proto, external, peer)
	if h == nil {
		return // it ended a moment ago
	}
	with := "with anybody"
	if h.Peer != 0 {
		with = "with " + fib.Addr(peer).String()
	}
	a.decide(stageTranslate, a.addressLine(external), "the host itself speaks protocol %d %s by %s (%s): the answers are its own", a.p.Proto, with, fib.Addr(external), h.By)
}
