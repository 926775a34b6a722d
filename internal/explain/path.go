package explain

import (
	"net"
	"net/netip"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// steered words what the steering program does with the packet, and reports
// whether a worker gets it.
func (a *account) steered() bool {
	p := xdp.Steered{Destination: a.p.Dst}
	if x := a.Table.External(a.p.Dst); x != nil {
		p.Kind = xdp.AddrPool
		p.Peered = packet.Portless(a.p.Proto) && a.Table.Peered(a.p.Dst, a.p.Src, a.p.Proto)
		if a.Snapshot.Routes.Local(a.p.Dst) {
			p.Kind = xdp.AddrShared
		}
		// An echo request has no port here: it is for the host.
		p.Held = a.p.Proto != packet.ProtoICMP && x.Held(a.p.Proto, a.p.DstPort)
		// A socket that listens takes what opens a connection, and leaves the
		// answers to NAT's connections alone.
		p.HostSocket = x.ReservedBy(conntrack.ByHost, a.p.Proto, a.p.DstPort) && !(a.p.Proto == packet.ProtoTCP && !a.syn && a.belongs())
	}
	if a.serves(a.p.Dst) {
		if p.Kind == 0 {
			p.Kind = xdp.AddrPool
			if a.Snapshot.Routes.Local(a.p.Dst) {
				p.Kind = xdp.AddrShared
			}
		}
		p.Service = a.Snapshot.Balance.Find(a.p.Dst, a.p.DstPort, a.p.Proto) != nil
	}
	var longest netip.Prefix
	for _, r := range a.Snapshot.Routes.Steer() {
		if r.Prefix.Contains(fib.Addr(a.p.Dst)) && (!p.Routed || r.Prefix.Bits() > longest.Bits()) {
			longest, p.Routed, p.ToWorker = r.Prefix, true, r.ToWorker
		}
	}
	toWorker, name, text := p.Foretell()
	who := "to the kernel"
	if toWorker {
		who = "to a worker"
	}
	a.decide(stageSteering, 0, "%s: %s (%s)", who, text, name)
	return toWorker
}

// belongs reports whether there is a flow that the packet belongs to.
func (a *account) belongs() (found bool) {
	a.Table.Look(func(w *conntrack.Worker) {
		flow, _ := w.Find(conntrack.Tuple{Src: a.p.Src, Dst: a.p.Dst, SrcPort: a.p.SrcPort, DstPort: a.p.DstPort, Proto: a.p.Proto}, a.Now)
		found = flow != nil
	})
	return found
}

// tellDecision is about a packet that begins a flow, in the order of
// gateway.Snapshot's decision.
func (a *account) tellDecision() {
	d := &a.outcome.Decision
	if !a.Assumed {
		a.decide(stageFlow, 0, "belongs to no flow: it would begin one")
	}
	switch d.Reason {
	case verdict.MartianSource, verdict.MartianDestination, verdict.LandAttack, verdict.OwnSource:
		return
	}
	a.tellSide()
	if d.Reason == verdict.ForeignSource {
		a.decide(stageSource, a.Config.Line("masquerade.foreign-sources"), "from inside, and no route leads to %s there (masquerade.foreign-sources: drop)", fib.Addr(a.p.Src))
		return
	}
	if d.External != nil {
		a.tellExternal()
	} else if a.serves(a.p.Dst) {
		a.tellService()
	}
	if !d.Routed {
		return
	}
	a.tellRoute(&d.Hop)
	if d.Hop.Type != fib.Forward || !d.Hop.Up {
		return
	}
	switch {
	case d.Backend != nil:
		if d.Reason == verdict.None {
			a.tellBalanced()
		}
		return
	case d.Reason == verdict.SpoofedSource:
		a.decide(stageSource, 0, "from outside, and the route to its source leads inside")
	case d.Asked == gateway.Forwards:
		a.tellPolicy(a.p.Src, a.p.Dst, d.Policy)
	case d.Asked == gateway.Backwards:
		a.decide(stagePolicy, 0, "from outside to the inside source %s: passes only if %s sees its true address", fib.Addr(a.p.Dst), fib.Addr(a.p.Src))
		a.tellPolicy(a.p.Dst, a.p.Src, d.Policy)
	case d.External == nil && !d.Inside:
		a.decide(stagePolicy, 0, "from outside, to no source of masquerade.sources: passes as it is")
	case d.External == nil:
		a.decide(stagePolicy, a.roleLine(d.Hop.Port), "does not leave outside: never masqueraded")
	}
	a.tellPickUp()
	switch {
	case d.Reason != verdict.None:
	case d.Maps:
		a.tellMapping()
	case d.Kind == conntrack.PortForward && d.Target.Src != a.p.Src:
		a.tellStaticSource()
	}
	if d.Reason == verdict.HostPeer {
		a.tellHostPeer(d.Target.Src, d.Target.Dst)
	}
	if a.outcome.Reason == verdict.SourceLimit && (!d.Maps || packet.Portless(a.p.Proto)) {
		a.tellLimit()
	}
}

// tellLimit is about a source that has as many flows as it may.
func (a *account) tellLimit() {
	a.decide(stageTranslate, a.Config.Line("masquerade.max-flows-per-source"), "%s has as many flows as masquerade.max-flows-per-source allows (%d)", fib.Addr(a.p.Src), a.Config.Masquerade.MaxFlowsPerSource)
}

// tellSide is about the side that the packet comes from.
func (a *account) tellSide() {
	if a.Snapshot.Roles[a.in] != gateway.RoleBoth {
		return
	}
	if r, ok := covering(a.Config.Masquerade.Sources, a.p.Src); ok {
		a.decide(stageSource, r.Line, "from inside: role both, and %s is in masquerade.sources (%s)", fib.Addr(a.p.Src), r.Prefix)
		return
	}
	a.decide(stageSource, 0, "from outside: role both, and %s is not in masquerade.sources", fib.Addr(a.p.Src))
}

// tellExternal is about a packet to an address that flows are masqueraded to.
func (a *account) tellExternal() {
	d := &a.outcome.Decision
	at := endpoint(a.p.Proto, a.p.Dst, a.p.DstPort)
	a.decide(stageAddress, a.addressLine(a.p.Dst), "%s is an external address: flows are masqueraded to it", fib.Addr(a.p.Dst))
	if d.Static != nil {
		a.tellStatic()
		return
	}
	if d.Reason == verdict.HostOwned && a.Snapshot.Host.Find(a.p.Proto, a.p.Dst, a.p.Src) != nil && packet.Portless(a.p.Proto) {
		a.tellHostPeer(a.p.Dst, a.p.Src)
		return
	}
	switch d.Reason {
	case verdict.NoMapping, verdict.HostOwned:
		a.decide(stageAddress, 0, "no inside endpoint is mapped to %s", at)
		return
	case verdict.Filtered:
		a.decide(stageAddress, a.Config.Line("masquerade.filtering"), "%s is mapped, and the sender is none that its inside endpoint has a flow with (masquerade.filtering: %s)", at, a.Config.Masquerade.Filtering)
		return
	}
	if !d.Inside {
		a.decide(stageAddress, a.Config.Line("masquerade.filtering"), "%s is mapped to the inside endpoint %s, and masquerade.filtering (%s) lets the sender in", at, endpoint(a.p.Proto, d.Target.Dst, d.Target.DstPort), a.Config.Masquerade.Filtering)
		return
	}
	switch d.Reason {
	case verdict.HairpinDisabled:
		a.decide(stageAddress, a.Config.Line("masquerade.hairpin"), "%s is mapped, and masquerade.hairpin is false", at)
	default:
		a.decide(stageAddress, a.Config.Line("masquerade.hairpin"), "%s is mapped to the inside endpoint %s: hairpin", at, endpoint(a.p.Proto, d.Target.Dst, d.Target.DstPort))
	}
}

// tellMapping is about the external address and port of a masqueraded flow.
func (a *account) tellMapping() {
	m := &a.outcome.Mapping
	out := a.name(a.outcome.Decision.Hop.Port)
	line := a.Config.Line("masquerade.addresses")
	switch {
	case m.External == nil:
		a.decide(stageTranslate, line, "%s has no address to masquerade to", out)
		return
	case m.External.Address() == assumedAddress:
		a.decide(stageTranslate, line, "masquerade.addresses is auto: the external address is the primary one of %s, which the file does not say", out)
	case a.outcome.Decision.External != nil && m.External.Address() != a.p.Dst:
		a.decide(stageTranslate, a.addressLine(m.External.Address()), "the external address is %s, the one of the pool that %s is paired with", fib.Addr(m.External.Address()), fib.Addr(a.p.Src))
	case a.outcome.Decision.External != nil:
		a.decide(stageTranslate, 0, "the external address is the one that was called, %s", fib.Addr(m.External.Address()))
	case a.Config.Masquerade.Addresses[0].Auto:
		a.decide(stageTranslate, line, "masquerade.addresses is auto: the external address is the primary one of %s, %s", out, fib.Addr(m.External.Address()))
	default:
		a.decide(stageTranslate, a.addressLine(m.External.Address()), "the external address is %s, the one of the pool that %s is paired with", fib.Addr(m.External.Address()), fib.Addr(a.p.Src))
	}
	a.tellPort(m)
}

// tellPort is about the external port.
func (a *account) tellPort(m *nat.Forecast) {
	if packet.Portless(a.p.Proto) {
		a.tellAddressOnly(m)
		return
	}
	what, line := "port", a.Config.Line("masquerade.port-range")
	if a.p.Proto == packet.ProtoICMP {
		what = "identifier"
	}
	const searched = ": a free one is searched for, from a random start"
	switch {
	case m.Reason == verdict.SourceLimit:
		a.tellLimit()
	case m.Reason == verdict.PortsExhausted:
		a.decide(stageTranslate, line, "no %s of %s is free there", what, a.Config.Masquerade.PortRange)
	case m.Origin == nat.PortMapped && a.Snapshot.Behaviour.Mapping == nat.MapAddress:
		a.decide(stageTranslate, a.Config.Line("masquerade.mapping"), "%s %d: %s is mapped to it already, towards %s (masquerade.mapping: address-dependent)", what, m.Port, endpoint(a.p.Proto, a.p.Src, a.p.SrcPort), fib.Addr(a.p.Dst))
	case m.Origin == nat.PortMapped:
		a.decide(stageTranslate, 0, "%s %d: %s is mapped to it already, towards every destination", what, m.Port, endpoint(a.p.Proto, a.p.Src, a.p.SrcPort))
	case m.Origin == nat.PortShared:
		a.decide(stageTranslate, a.Config.Line("masquerade.overload-when-exhausted"), "no %s of %s is free there: one is shared with another inside endpoint, towards this destination only", what, a.Config.Masquerade.PortRange)
	case m.Origin == nat.PortKept && a.Assumed:
		a.decide(stageTranslate, line, "%s %d is kept, where it is free", what, m.Port)
	case m.Origin == nat.PortKept:
		a.decide(stageTranslate, line, "%s %d is free and is kept", what, m.Port)
	case a.Snapshot.Behaviour.Random:
		a.decide(stageTranslate, a.Config.Line("masquerade.port-assignment"), "a free %s is searched for, from a random start (masquerade.port-assignment: random)", what)
	case m.External.Holds(a.p.Proto, a.p.SrcPort):
		a.decide(stageTranslate, 0, "%s %d is taken by another mapping"+searched, what, a.p.SrcPort)
	case m.External.Resting(a.p.Proto, a.p.SrcPort):
		a.decide(stageTranslate, 0, "%s %d rests: another inside endpoint had it until a moment ago"+searched, what, a.p.SrcPort)
	case m.External.Reserved(a.p.Proto, a.p.SrcPort):
		a.decide(stageTranslate, 0, "%s %d is used by a socket of the host"+searched, what, a.p.SrcPort)
	default:
		a.decide(stageTranslate, line, "%s %d is outside masquerade.port-range (%s)"+searched, what, a.p.SrcPort, a.Config.Masquerade.PortRange)
	}
}

// tellRoute is about the way out.
func (a *account) tellRoute(hop *fib.Hop) {
	dst := fib.Addr(a.p.Dst)
	if a.outcome.Translated || a.outcome.Decision.Routed {
		to := a.outcome.Decision.Target.Dst
		if a.outcome.Flow != nil {
			to = a.outcome.To.Dst
		}
		dst = fib.Addr(to)
	}
	if hop.Type != fib.Forward {
		a.decide(stageRoute, 0, "the route to %s: %s", dst, hop.Type)
		return
	}
	out := a.name(hop.Port)
	role := a.Config.Interfaces[hop.Port].Role
	source, ok := covering(a.Config.Masquerade.Sources, fib.U32(dst))
	switch {
	case a.Assumed && ok && source.Prefix.Bits() > 0:
		a.decide(stageRoute, a.roleLine(hop.Port), "assumed to leave by %s, role %s: %s is in masquerade.sources", out, role, dst)
	case a.Assumed:
		a.e.Assumptions = append(a.e.Assumptions, "the way out is "+out+", the first outside interface")
		a.decide(stageRoute, a.roleLine(hop.Port), "assumed to leave by %s, role %s: the first outside interface", out, role)
	case hop.Gateway == fib.U32(dst):
		a.decide(stageRoute, a.roleLine(hop.Port), "leaves by %s, role %s: %s is on the link", out, role, dst)
	default:
		a.decide(stageRoute, a.roleLine(hop.Port), "leaves by %s, role %s, next hop %s", out, role, fib.Addr(hop.Gateway))
	}
	if !hop.Up {
		a.decide(stageRoute, 0, "%s is down", out)
	}
}

// tellNeighbour is about the link address of the next hop.
func (a *account) tellNeighbour() {
	if a.Assumed {
		return
	}
	hop := &a.outcome.Hop
	switch next := fib.Addr(hop.Gateway); hop.State {
	case fib.Resolved:
		a.decide(stageNeighbour, 0, "%s is at %s", next, net.HardwareAddr(hop.MAC[:]))
	case fib.Failed:
		a.decide(stageNeighbour, 0, "%s did not answer ARP", next)
	default:
		a.decide(stageNeighbour, 0, "the link address of %s is not known yet: the packet waits for it, 3 s at most", next)
	}
}

// tellAnswer is about what comes back.
func (a *account) tellAnswer() {
	o := &a.outcome
	if a.Assumed {
		return
	}
	if k := o.Decision.Kind; k == conntrack.ServiceDSR || o.Flow != nil && o.Flow.Kind == conntrack.ServiceDSR {
		a.decide(stageAnswer, 0, "the backend's node answers the client itself")
		return
	}
	if o.Answer != verdict.None {
		a.decide(stageAnswer, 0, "an answer would be dropped: %s: %s", o.Answer, o.Answer.Explain())
		return
	}
	way := "leaves by " + a.name(o.Back.Port)
	if o.Back.Port != a.in {
		way += ", not by " + a.e.In + ", where the packet came from"
	}
	if o.Back.State == fib.Failed {
		way += "; " + fib.Addr(o.Back.Gateway).String() + " did not answer ARP"
	}
	what := "an answer"
	if o.To.Src != a.p.Src && !o.Decision.Kind.Balanced() && (o.Flow == nil || !o.Flow.Kind.Balanced()) {
		what += " to " + a.external(o.To) + " is translated back to " + endpoint(a.p.Proto, a.p.Src, a.p.SrcPort) + " and"
	}
	a.decide(stageAnswer, 0, "%s %s", what, way)
}

// roleLine is the line of an interface's role.
func (a *account) roleLine(port fib.PortID) int { return a.Config.Interfaces[port].Line }

// addressLine is the line of the entry of masquerade.addresses that addr is of.
func (a *account) addressLine(addr uint32) int {
	for _, e := range a.Config.Masquerade.Addresses {
		if e.Auto || e.Prefix.Contains(fib.Addr(addr)) {
			return e.Line
		}
	}
	return 0
}
