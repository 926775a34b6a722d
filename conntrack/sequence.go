package conntrack

import (
	"sync/atomic"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// A TCP segment may change what is known of a connection only if its numbers
// are ones that its end points could have sent: whoever forges a segment without
// seeing the others' has to guess them (RFC 5961). The four bounds are those of G.
// van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), as Linux'
// tcp_in_window has them. For a segment from d, o being the other side:
//
//	seq        not beyond what o allows:  acked[o] + the largest window of o
//	seq + len  not before what o can still want:  sent[d] - that window
//	ack        not beyond what o sent:  sent[o]
//	ack        not before what can be under way:  sent[o] - the largest window of d
//
// What does not fit is passed on all the same, since the end is the judge (RFC
// 5382 REQ-2), but leaves no trace: the state stays, and so does the time-out.
// Otherwise anybody who knows the five-tuple could keep a dead flow's port, or
// end a living one. Of the two mistakes that are left, to believe a lucky forgery
// and to disbelieve a segment that the end accepts, the second one costs a
// refresh, and the next segment that fits mends it.
//
// SACK is not read. Linux takes its right edge for the acknowledgement where that
// lags behind its bound; here the bound reaches back by the largest window that was
// ever offered, and no end has more than that under way without an
// acknowledgement, however far SACK goes ahead of it.
//
// sent and acked of a direction are written by that direction's packets, with
// plain stores: they only grow, and of two workers' concurrent ones either may
// stay. The next segment mends that, too.

const (
	// ackLag is how far an ACK may lag behind at least: Linux' MAXACKWINCONST.
	ackLag = 66000

	// looseWindow and looseScale stand for a window that is not known, as of
	// a connection that is picked up in the middle: the largest there is.
	looseWindow = 0xffff
	looseScale  = packet.MaxWindowScale

	// largestDatagram is how much a segment sent in fragments can have beyond
	// what its first one shows.
	largestDatagram = 0xffff

	openFlags = packet.TCPSyn | packet.TCPFin | packet.TCPRst
)

// after reports whether sequence number a is after b.
func after(a, b uint32) bool { return int32(a-b) > 0 }

func (s status) scale(d Direction) uint { return uint(s>>(scaleShift+4*uint(d&1))) & 15 }

func (s status) withScale(d Direction, scale uint8) status {
	shift := scaleShift + 4*uint(d&1)
	return s&^(15<<shift) | status(scale)<<shift
}

// reach is the largest window that direction d offered, in bytes, or 0 where
// nothing is known of it.
func (f *Flow) reach(s status, d Direction) uint32 {
	return f.windows.Load() >> (16 * uint(d&1)) & 0xffff << s.scale(d)
}

// Update moves the flow's state on by packet p, which arrived in direction d. It
// reports whether the packet puts off the flow's end: false for a TCP segment that
// does not fit the connection, and for later fragments, which show no numbers.
func (w *Worker) Update(f *Flow, d Direction, p *packet.Packet) bool {
	return settled[f.status.Load()%stateSpace] || w.update(f, d, p)
}

// update is Update for states that packets can change. Data on an established
// connection takes the short way: plain loads and stores of words in one cache
// line.
func (w *Worker) update(f *Flow, d Direction, p *packet.Packet) bool {
	s := status(f.status.Load())
	if s&(stateMask|bothKnown) == status(TCPEstablished)|bothKnown &&
		p.TCPFlags&openFlags == 0 && p.Flags&packet.FlagFragment == 0 && f.follow(s, d, p) {
		return true
	}
	return w.advance(f, d, p)
}

// fits reports whether a segment with an ACK is within all four bounds (RFC 5961
// 5). Both directions must be known.
func (f *Flow) fits(s status, d Direction, p *packet.Packet) bool {
	d &= 1
	own, theirs := f.reach(s, d), f.reach(s, d^1)
	sent, acked, other := loadWord(&f.sent[d]), loadWord(&f.acked[d^1]), loadWord(&f.sent[d^1])
	return !after(p.Seq, acked+theirs) && !after(sent-theirs, p.Seq+uint32(p.SegmentLength)) &&
		!after(p.Ack, other) && !after(other-max(own, ackLag), p.Ack)
}

// track takes over the numbers of a segment that fits.
func (f *Flow) track(d Direction, p *packet.Packet) {
	d &= 1
	if end := p.Seq + uint32(p.SegmentLength); after(end, loadWord(&f.sent[d])) {
		storeWord(&f.sent[d], end)
	}
	if after(p.Ack, loadWord(&f.acked[d])) {
		storeWord(&f.acked[d], p.Ack)
	}
	if uint32(p.Window) > f.windows.Load()>>(16*uint(d))&0xffff {
		f.offer(d, p.Window)
	}
}

// follow is fits, and then track, with each word loaded once.
func (f *Flow) follow(s status, d Direction, p *packet.Packet) bool {
	from, to := d&1, d&1^1
	windows := f.windows.Load()
	own, theirs := windows>>(16*uint(from))&0xffff, windows>>(16*uint(to))&0xffff<<(s.scale(to)&31)
	sent, other := loadWord(&f.sent[from]), loadWord(&f.sent[to])
	mine, acked := loadWord(&f.acked[from]), loadWord(&f.acked[to])
	end := p.Seq + uint32(p.SegmentLength)
	lag := max(own<<(s.scale(from)&31), ackLag)
	// One branch for the four bounds: each is negative where it does not hold.
	if int32(acked+theirs-p.Seq)|int32(end-sent+theirs)|int32(other-p.Ack)|int32(p.Ack-other+lag) < 0 {
		return false
	}
	if after(end, sent) {
		storeWord(&f.sent[from], end)
	}
	if after(p.Ack, mine) {
		storeWord(&f.acked[from], p.Ack)
	}
	if uint32(p.Window) > own {
		f.offer(from, p.Window)
	}
	return true
}

// offer makes window the largest that direction d has offered, unless it is not.
func (f *Flow) offer(d Direction, window uint16) {
	shift := 16 * uint(d&1)
	for {
		old := f.windows.Load()
		if uint32(window) <= old>>shift&0xffff || f.windows.CompareAndSwap(old, old&^(0xffff<<shift)|uint32(window)<<shift) {
			return
		}
	}
}

// setWindow is what offer does, for one that replaces another.
func (f *Flow) setWindow(d Direction, window uint16) {
	shift := 16 * uint(d&1)
	for {
		old := f.windows.Load()
		if f.windows.CompareAndSwap(old, old&^(0xffff<<shift)|uint32(window)<<shift) {
			return
		}
	}
}

// advance is update for everything that can change the status.
func (w *Worker) advance(f *Flow, d Direction, p *packet.Packet) bool {
	for {
		s := status(f.status.Load())
		next, fits := s.next(p.Proto, d), true
		if p.Proto == packet.ProtoTCP {
			next, fits = f.segment(s, d, p)
		}
		if fits && f.Kind() == ServiceDSR && d == Original && atomic.LoadUint64(&f.packets[Original]) > 0 {
			next = next.oneWay(p.Proto, p.TCPFlags)
		}
		if next == s || s.phase() != phaseLive {
			return fits
		}
		if f.status.CompareAndSwap(uint32(s), uint32(next)) {
			if from, to := s.state(), next.state(); from != to {
				w.note(EventState, f, from, to, verdict.None)
			}
			return fits
		}
	}
}

// segment is the status after a TCP segment, and whether it fits.
func (f *Flow) segment(s status, d Direction, p *packet.Packet) (next status, fits bool) {
	if p.Flags&packet.FlagLaterFragment != 0 {
		return s, false
	}
	if p.Flags&packet.FlagFragment != 0 {
		s |= divided << uint(d&1)
	}
	switch {
	case p.TCPFlags&packet.TCPRst != 0:
		if s.state() != TCPClose && f.exactReset(s, d, p) {
			return s.tcp(d, p.TCPFlags), true
		}
		return s, false
	case p.TCPFlags&packet.TCPSyn != 0:
		return f.syn(s, d, p)
	case f.Kind() == ServiceDSR && d == Original && s&(known<<Reply) == 0:
		if s&known != 0 && !f.unanswered(d, p) {
			return s, false
		}
		if s&known == 0 { // begun on another gateway
			storeWord(&f.sent[Original], p.Seq+uint32(p.SegmentLength))
		}
		return (s | known).tcp(d, p.TCPFlags), true
	case s&(known<<uint(d&1)) == 0:
		if s&bothSyn != bothSyn {
			return s, false // an ACK before any SYN of its sender: a challenge ACK, or forged
		}
		s = f.pickUp(s, d, p)
	case s&bothKnown != bothKnown:
		return s, f.unanswered(d, p)
	case !f.fits(s, d, p) && !f.fitsDivided(s, d, p):
		return s, false
	case s.state() == TCPClose && after(loadWord(&f.sent[d&1]), p.Seq):
		return s, true // sent before its sender's RST: no sign of life
	}
	f.track(d, p)
	return f.closed(s.tcp(d, p.TCPFlags)), true
}

// closed is s when each side has acknowledged the other's FIN, the last number
// that it sent.
func (f *Flow) closed(s status) status {
	if s.state() == TCPLastAck && loadWord(&f.acked[0]) == loadWord(&f.sent[1]) && loadWord(&f.acked[1]) == loadWord(&f.sent[0]) {
		return s.withState(TCPTimeWait)
	}
	return s
}

// exactReset reports whether the RST p ends the connection: only with exactly the
// number that its receiver expects next (RFC 5961 3), of which one knows the
// highest that was sent and the highest that was acknowledged. While its sender
// has said nothing, it must acknowledge the SYN (RFC 9293 3.10.7.3).
func (f *Flow) exactReset(s status, d Direction, p *packet.Packet) bool {
	from, to := d&1, d&1^1
	if s&(known<<from) == 0 {
		return p.TCPFlags&packet.TCPAck != 0 && s&(known<<to) != 0 && p.Ack == loadWord(&f.sent[to])
	}
	return p.Seq == loadWord(&f.sent[from]) || s&(synAcked<<from) != 0 && p.Seq == loadWord(&f.acked[to])
}

// unanswered reports whether a segment fits a connection whose other side was
// never heard: of one that answers by another way, which routes may do to flows
// that are not translated.
func (f *Flow) unanswered(d Direction, p *packet.Packet) bool {
	sent, end := loadWord(&f.sent[d&1]), p.Seq+uint32(p.SegmentLength)
	if after(sent-ackLag, end) || after(end, sent+looseWindow<<looseScale) {
		return false
	}
	if after(end, sent) {
		storeWord(&f.sent[d&1], end)
	}
	return true
}

// fitsDivided is fits where the other side sent a segment in fragments, of which
// the first one did not show how long it was: an ACK that is beyond by no more
// than that shows it.
func (f *Flow) fitsDivided(s status, d Direction, p *packet.Packet) bool {
	o := d&1 ^ 1
	sent := loadWord(&f.sent[o])
	if s&(divided<<o) == 0 || !after(p.Ack, sent) || after(p.Ack, sent+largestDatagram) {
		return false
	}
	within := *p
	within.Ack = sent
	if !f.fits(s, d, &within) {
		return false
	}
	storeWord(&f.sent[o], p.Ack)
	return true
}

// pickUp learns a connection from a segment in its middle: both directions, each
// with the largest window there is, since its scale was in a SYN that is gone.
func (f *Flow) pickUp(s status, d Direction, p *packet.Packet) status {
	from, to := d&1, d&1^1
	storeWord(&f.sent[from], p.Seq+uint32(p.SegmentLength))
	storeWord(&f.acked[from], p.Ack)
	storeWord(&f.sent[to], p.Ack)
	storeWord(&f.acked[to], p.Seq)
	f.windows.Store(looseWindow<<16 | looseWindow)
	return s.withScale(Original, looseScale).withScale(Reply, looseScale) | bothKnown
}

// Sent reports whether the sender of direction d can have sent a segment with
// sequence number seq not long ago: what an ICMP error quotes must be such (RFC
// 5927 4.1). It reports true where that is not known, and for what is not TCP.
func (f *Flow) Sent(d Direction, seq uint32) bool {
	s := status(f.status.Load())
	if f.tuple[d&1].Proto != packet.ProtoTCP || s&(known<<uint(d&1)) == 0 {
		return true
	}
	sent := loadWord(&f.sent[d&1])
	return !after(seq, sent) && !after(sent-max(f.reach(s, d^1), ackLag), seq)
}

func loadWord(p *uint32) uint32 { return atomic.LoadUint32(p) }
