package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// echoHop is the way back to who pings a service address, and why there will be
// no answer.
func (s *Snapshot) echoHop(table *conntrack.Table, in fib.PortID, p *packet.Packet) (fib.Hop, verdict.Reason) {
	if r := martian(p); r != verdict.None {
		return fib.Hop{}, r
	}
	if r := s.notUnicast(table, p.Src); r != verdict.None {
		return fib.Hop{}, r
	}
	return s.echoWay(in, p)
}

// echo answers a ping to a service address, which no host has (RFC 1122 3.2.2.6).
func (w *Worker) echo(d xdp.Desc, p *packet.Packet) verdict.Reason {
	if _, r := w.snapshot.echoHop(w.table, w.in, p); r != verdict.None {
		return r
	}
	return w.echoReply(d, p)
}

// resetClient answers a segment for a connection that cannot go on with a reset
// from the service's address, and reports whether it did.
func (w *Worker) resetClient(d xdp.Desc, frame []byte, p *packet.Packet) bool {
	s := w.snapshot
	if p.Proto != packet.ProtoTCP || p.TCPFlags&packet.TCPRst != 0 || p.Is(packet.FlagFragment) {
		return false
	}
	_, hop := s.Routes.Lookup(p.Src, p.Dst, fib.NoPort, 0)
	if hopReason(&hop) != verdict.None || s.fromInside(w.in, p.Src) == s.leavesOutside(hop.Port, p.Src) {
		return false
	}
	if !w.limit.allow(w.keyed.sum(uint64(p.Src), 0), w.now) {
		w.counters.ErrorsLimited++
		return false
	}
	if w.ready(&hop, p.Dst) != verdict.None {
		return false
	}
	packet.AnswerReset(frame, p, w.idents.next(p.Dst, p.Src, p.Proto))
	d.Len = uint32(p.End)
	w.counters.Services.Resets++
	w.sendFrom(d, frame, p, p.Src, fib.NoPort, &hop)
	return true
}
