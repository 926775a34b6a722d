package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// forward sends a packet of a known flow on its way: next hop, MTU, rewrite, out
// queue. On a reason other than None the frame is still the caller's and nothing
// was counted to the flow.
func (w *Worker) forward(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow, dir conntrack.Direction) verdict.Reason {
	s := w.snapshot
	// A packet of the right five-tuple from the wrong side is not the flow's.
	if !s.sameSide(w.in, flow, dir) {
		return verdict.SpoofedSource
	}
	if p.TTL <= 1 {
		return verdict.TTLExpired // RFC 1812 5.3.1
	}
	if flow.Service() != 0 && (p.TCPFlags&(packet.TCPSyn|packet.TCPAck) == packet.TCPSyn || flow.NextHop(dir)>>16 != uint32(s.Generation)) {
		if r := w.rejudge(flow, dir, p); r != verdict.None {
			return r
		}
	}
	id := fib.HopID(flow.NextHop(dir))
	var found fib.Hop
	hop := &found
	if flow.NextHop(dir)>>16 == uint32(s.Generation) && id != 0 {
		hop = s.Routes.Hop(id)
	} else {
		var r verdict.Reason
		if id, found, r = w.route(p, flow, dir); r != verdict.None {
			return r
		}
		flow.SetNextHop(dir, s.hopKey(id))
	}
	if flow.Service() != 0 {
		return w.forwardService(d, frame, p, flow, dir, hop)
	}
	if p.Length() > int(hop.MTU) && p.Is(packet.FlagDontFragment) {
		return w.tooBig(hop.MTU)
	}
	src := p.Src
	if r := w.ready(hop, src); r != verdict.None {
		return r
	}
	w.account(p, flow, dir)
	if p.TCPFlags&packet.TCPSyn != 0 {
		w.clamp(frame, p, hop)
	}
	nat.Forward(frame, p, flow.Answer(dir))
	if src != p.Src && divisible(p) {
		w.identify(frame, p)
	}
	d.Len = uint32(p.End)
	w.send(d, frame, p, src, hop)
	return verdict.None
}

// account counts a packet to its flow, and has it move the flow's state and put off
// its end. A later fragment does neither: its first one did. It shows no header.
func (w *Worker) account(p *packet.Packet, flow *conntrack.Flow, dir conntrack.Direction) {
	switch {
	case p.Is(packet.FlagLaterFragment):
		flow.Count(dir, p.Length())
	case w.flows.Update(flow, dir, p):
		if w.snapshot.OutboundUDP && dir == conntrack.Reply && p.Proto == packet.ProtoUDP && flow.Kind() == conntrack.Masquerade {
			flow.Count(dir, p.Length()) // RFC 7857 7
			return
		}
		flow.Touch(dir, p.Length(), w.now)
	default:
		flow.Count(dir, p.Length())
		w.counters.OutOfWindow++
	}
}

// sameSide reports whether port in is on the side where packets of direction dir
// of the flow arrive.
func (s *Snapshot) sameSide(in fib.PortID, flow *conntrack.Flow, dir conntrack.Direction) bool {
	return s.Roles[in] == s.Roles[arrival(flow, dir)]
}

// arrival is the port on which packets of direction dir arrived when the flow
// was created.
func arrival(flow *conntrack.Flow, dir conntrack.Direction) fib.PortID {
	if dir == conntrack.Original {
		return flow.InPort()
	}
	return flow.OutPort()
}

// route finds the next hop for a direction of a flow, and decides again whether
// the flow may leave that way: the routes, the addresses or the policy changed
// since it was created, or nobody asked yet. A flow that may not, ends.
func (w *Worker) route(p *packet.Packet, flow *conntrack.Flow, dir conntrack.Direction) (fib.HopID, fib.Hop, verdict.Reason) {
	id, hop, r := w.snapshot.onwardOf(flow.Kind(), dir, w.in, p.Src, flow.Translated(dir))
	if r == verdict.ExternalAddressMoved || r == verdict.WouldLeakSource {
		w.flows.Retire(flow, r)
	}
	return id, hop, r
}

// onwardOf is onward for a flow of a kind, in a direction.
func (s *Snapshot) onwardOf(kind conntrack.Kind, dir conntrack.Direction, in fib.PortID, src uint32, to conntrack.Tuple) (fib.HopID, fib.Hop, verdict.Reason) {
	if kind.Balanced() {
		return s.onwardService(kind, dir, in, src, to)
	}
	return s.onward(in, src, to)
}

// onward finds the next hop of a flow's packet that arrived from src on port in
// and is to leave as `to`, and decides whether it may.
func (s *Snapshot) onward(in fib.PortID, src uint32, to conntrack.Tuple) (fib.HopID, fib.Hop, verdict.Reason) {
	id, hop := s.Routes.Lookup(to.Dst, src, in, pathHash(src))
	if r := hopReason(&hop); r != verdict.None {
		return 0, hop, r
	}
	if !s.leavesOutside(hop.Port, to.Dst) {
		return id, hop, verdict.None
	}
	if !s.fromInside(in, src) && s.Policy.InSources(to.Dst) {
		// The way inside is gone, as with a link that is down, and the default
		// route is not one: an answer, or an ICMP error with its quote, would
		// show the outside an address that is hidden from it. The flow stays,
		// for when the link is back.
		return 0, hop, verdict.NoRoute
	}
	if to.Src != src {
		// Masquerade: the address must be one that answers come back to.
		if !s.ownsExternal(hop.Port, to.Src) {
			return 0, hop, verdict.ExternalAddressMoved
		}
	} else if s.fromInside(in, src) && s.Policy.Decide(src, to.Dst).Masquerade {
		return 0, hop, verdict.WouldLeakSource
	}
	return id, hop, verdict.None
}

// hopReason is why a route's answer forbids forwarding, or None.
func hopReason(hop *fib.Hop) verdict.Reason {
	switch hop.Type {
	case fib.Forward:
		if !hop.Up {
			return verdict.InterfaceDown
		}
		return verdict.None
	case fib.Local:
		return verdict.HostOwned
	case fib.Kernel:
		return verdict.KernelRoute
	case fib.Unreachable:
		return verdict.RouteUnreachable
	case fib.Prohibit:
		return verdict.RouteProhibited
	case fib.Blackhole:
		return verdict.RouteBlackhole
	case fib.Broadcast:
		return verdict.DirectedBroadcast // RFC 1812 5.3.5, as RFC 2644 has it
	}
	return verdict.NoRoute
}

// pathHash chooses among equal-cost paths by the inside source alone, so that
// all flows of a host leave by the same uplink and keep one external address.
func pathHash(src uint32) uint32 {
	// Multiplication by the golden ratio: neighbouring hosts spread out.
	return src * 0x9e3779b9
}

// ready reports whether the frame can be sent to hop, or has room to wait.
func (w *Worker) ready(hop *fib.Hop, src uint32) verdict.Reason {
	switch {
	case hop.State == fib.Failed:
		w.ask(hop)
		return verdict.NeighbourUnresolved
	case hop.State == fib.Unresolved && !w.hold.room(hop):
		w.ask(hop)
		return verdict.HoldFull
	}
	return verdict.None
}

// send queues a rewritten frame on its way out, in fragments where it is larger
// than the MTU, or holds it until the neighbour is known. src is the packet's
// source as it arrived, by which it was routed.
func (w *Worker) send(d xdp.Desc, frame []byte, p *packet.Packet, src uint32, hop *fib.Hop) {
	w.sendFrom(d, frame, p, src, w.in, hop)
}

// sendFrom is send for a packet that was routed as one that arrived on port in.
func (w *Worker) sendFrom(d xdp.Desc, frame []byte, p *packet.Packet, src uint32, in fib.PortID, hop *fib.Hop) {
	if hop.State != fib.Resolved {
		w.hold.add(d, held{dst: p.Dst, src: src, in: in, port: hop.Port, gateway: hop.Gateway, since: w.now})
		w.counters.Held++
		w.ask(hop)
		return
	}
	copy(frame[0:6], hop.MAC[:])
	copy(frame[6:12], hop.Source[:])
	if p.Length() > int(hop.MTU) {
		w.sendFragments(d, frame, p, hop.Port, hop.MTU)
		return
	}
	w.queue(hop.Port, d)
}

// ask passes a neighbour to the control plane, which has the kernel resolve it.
func (w *Worker) ask(hop *fib.Hop) {
	select {
	case w.resolve <- Neighbour{hop.Port, hop.Gateway}:
		w.counters.Resolves++
	default:
	}
}
