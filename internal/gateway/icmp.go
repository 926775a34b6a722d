package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// icmpError takes an ICMP error to the end of the flow that it is about. It
// neither begins, ends nor refreshes a flow (RFC 4787 REQ-12, RFC 5382 REQ-10,
// RFC 5508 REQ-6).
func (w *Worker) icmpError(d xdp.Desc, frame []byte, p *packet.Packet) {
	if r := w.translateError(d, frame, p); r != verdict.None {
		w.reject(d, frame, p, w.in, r)
	}
}

func (w *Worker) translateError(d xdp.Desc, frame []byte, p *packet.Packet) verdict.Reason {
	quotedTuple, quoted, r := nat.QuotedTuple(frame, p)
	if r != verdict.None {
		return r
	}
	r = w.passError(d, frame, p, &quoted, quotedTuple.Reverse())
	if r == verdict.ICMPErrorWithoutFlow && w.outerError(d, frame, p, quotedTuple) {
		return verdict.None
	}
	return r
}

// passError takes an ICMP error about what arrives as a tuple, which is what answers
// the quoted packet, to the end of the flow of that. quoted is nil for a later
// fragment of an error.
func (w *Worker) passError(d xdp.Desc, frame []byte, p *packet.Packet, quoted *packet.Packet, about conntrack.Tuple) verdict.Reason {
	// The quoted packet travelled the other way: what answers it would arrive
	// here in direction dir, and so does the error: by whomever it is (RFC 4787
	// REQ-12a), and also between inside hosts (RFC 5508 REQ-7).
	flow, dir := w.flows.Find(about, w.now)
	s := w.snapshot
	if flow == nil {
		if s.serves(p.Src) && p.Src == about.Src {
			if direct, ok := s.direct(w.flows, w.in, about, w.now); ok {
				return w.passDirect(d, frame, p, direct)
			}
		}
		return verdict.ICMPErrorWithoutFlow // RFC 5508 REQ-4a, REQ-5a
	}
	if r := s.plausible(w.in, flow, dir, quoted); r != verdict.None {
		return r
	}
	if p.TTL <= 1 {
		return verdict.TTLExpired
	}
	before, after := flow.Tuple(dir), flow.Translated(dir)
	src := p.Src
	if before.Src != after.Src {
		// RFC 5508 REQ-5: also the errors of an inner router leave with the
		// external address.
		src = after.Src
	}
	arrived := p.Src
	_, hop, r := w.route(&packet.Packet{Src: before.Src}, flow, dir)
	if r != verdict.None {
		return r
	}
	if p.Length() > int(hop.MTU) && p.Is(packet.FlagDontFragment) {
		return w.tooBig(hop.MTU)
	}
	if r := w.ready(&hop, arrived); r != verdict.None {
		return r
	}
	w.rewriteError(frame, p, quoted, flow, dir, src)
	if src != arrived && divisible(p) {
		w.identify(frame, p)
	}
	nat.DecrementTTL(frame, p)
	d.Len = uint32(p.End)
	w.send(d, frame, p, arrived, &hop)
	return verdict.None
}

// plausible judges an error about a flow by where it comes from and by what it
// quotes.
func (s *Snapshot) plausible(in fib.PortID, flow *conntrack.Flow, dir conntrack.Direction, quoted *packet.Packet) verdict.Reason {
	if !s.sameSide(in, flow, dir) {
		return verdict.SpoofedSource
	}
	if quoted != nil && quoted.Proto == packet.ProtoTCP && !flow.Sent(dir.Opposite(), quoted.Seq) {
		return verdict.ICMPErrorImplausible // RFC 5927 4.1
	}
	return verdict.None
}

// rewriteError translates an error that arrives in direction dir of a flow and
// leaves with source src. RFC 5508 REQ-4, REQ-5: the quote as its sender knows it;
// type and code stay.
func (w *Worker) rewriteError(frame []byte, p, quoted *packet.Packet, flow *conntrack.Flow, dir conntrack.Direction, src uint32) {
	dst := flow.Translated(dir).Dst
	if quoted == nil {
		nat.RewriteErrorRest(frame, p, src, dst)
		return
	}
	nat.RewriteError(frame, p, quoted, flow.Tuple(dir.Opposite()), src, dst)
	if dir == conntrack.Reply && flow.Kind() == conntrack.ServiceDSR {
		lowerPathMTU(frame, p, w.snapshot.overhead(quoted, false))
	}
}
