package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// answersEcho reports whether a packet that was dropped for reason r is an echo
// request that the gateway answers: to an address that NAT alone has, since nobody
// else would (RFC 1812 4.3.3.6). One with IP options is not: they would have to
// be worked on.
func (s *Snapshot) answersEcho(table *conntrack.Table, p *packet.Packet, r verdict.Reason) bool {
	return r == verdict.NoMapping && p.Proto == packet.ProtoICMP && p.ICMPType == packet.ICMPEchoRequest &&
		!p.Is(packet.FlagFragment|packet.FlagOptions) && table.External(p.Dst) != nil && !s.Routes.Local(p.Dst)
}

func (w *Worker) answersEcho(p *packet.Packet, r verdict.Reason) bool {
	return w.snapshot.answersEcho(w.table, p, r)
}

// answerEcho sends an echo request back as its reply, or drops it.
func (w *Worker) answerEcho(d xdp.Desc, p *packet.Packet) {
	if r := w.echoReply(d, p); r != verdict.None {
		w.drop(d, r)
	}
}

// echoWay is the way of an answer to p, which arrived on port in: that of the host's
// own packets, and only to the side that p came from.
func (s *Snapshot) echoWay(in fib.PortID, p *packet.Packet) (fib.Hop, verdict.Reason) {
	_, hop := s.Routes.Lookup(p.Src, p.Dst, fib.NoPort, 0)
	r := hopReason(&hop)
	if r == verdict.None && s.fromInside(in, p.Src) == s.leavesOutside(hop.Port, p.Src) {
		r = verdict.SpoofedSource
	}
	return hop, r
}

func (w *Worker) echoReply(d xdp.Desc, p *packet.Packet) verdict.Reason {
	hop, r := w.snapshot.echoWay(w.in, p)
	if r != verdict.None {
		return r
	}
	if !w.echoes.allow(w.keyed.sum(uint64(p.Src), 0), w.now) {
		return verdict.EchoLimit
	}
	if r := w.ready(&hop, 0); r != verdict.None {
		return r
	}
	frame := w.frame(d)
	nat.EchoReply(frame, p)
	packet.SetID(frame, p, w.idents.next(p.Src, p.Dst, p.Proto))
	d.Len = uint32(p.End)
	w.counters.EchoReplies++
	w.sendFrom(d, frame, p, 0, fib.NoPort, &hop)
	return verdict.None
}

// foretellEcho is echoReply's outcome, but for the limit.
func (s *Snapshot) foretellEcho(o *Outcome, in fib.PortID, p *packet.Packet, arriving conntrack.Tuple) {
	o.Echo, o.Decision.Reason = true, verdict.None
	o.To, o.Translated = arriving.Reverse(), true
	o.Hop, o.Reason = s.echoWay(in, p)
	switch {
	case o.Reason != verdict.None:
	case o.Hop.State == fib.Failed:
		o.Reason = verdict.NeighbourUnresolved
	case o.Hop.State == fib.Unresolved:
		o.Waits = true
	}
}
