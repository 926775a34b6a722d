package conntrack

import "sluice/internal/packet"

// syn is the status after a segment with SYN in direction d, and whether it fits
// the connection.
func (f *Flow) syn(s status, d Direction, p *packet.Packet) (next status, fits bool) {
	from, to := uint(d&1), uint(d&1^1)
	answer := p.TCPFlags&packet.TCPAck != 0
	switch state := s.state(); {
	case state == TCPTimeWait || state == TCPClose:
		return f.synAfterEnd(s, d, p)
	case s&(known<<from) == 0:
		if answer && s&(known<<to) != 0 && !f.acksSyn(d, p) {
			return s, false
		}
	case f.repeats(d, p):
		// A SYN again, or one that answers another SYN in a simultaneous open.
		if answer && s&(known<<to) != 0 && !f.fits(s, d, p) {
			return s, false
		}
		return f.learnAck(s, d, p).tcp(d, p.TCPFlags), true
	case state == TCPSynSent && !answer && s&(known<<to) == 0:
		// Another attempt with the same port, before there was an answer.
	case state == TCPSynReceived && answer && s&(synAcked<<from) == 0 && s&(known<<to) != 0 && f.acksSyn(d, p):
		// It proves to know the other's SYN, which the one before did not.
	default:
		return s, false // RFC 5961 4: its receiver answers with a challenge ACK
	}
	return f.learnSyn(s, d, p).tcp(d, p.TCPFlags), true
}

// synAfterEnd is syn for a connection that is over. The side that opened it may
// open the next one between the same end points: after TIME-WAIT with a number
// beyond the last one, so that it is no old duplicate (RFC 9293 3.6.1, RFC 6191). Any
// other way takes both sides: a SYN and the SYN+ACK to it.
func (f *Flow) synAfterEnd(s status, d Direction, p *packet.Packet) (status, bool) {
	from, to := uint(d&1), uint(d&1^1)
	answer := p.TCPFlags&packet.TCPAck != 0
	switch {
	case answer && s&(synAgain<<to) != 0:
		s = s&lasting | synSeen<<to
	case !answer && d&1 == Original && (s.state() == TCPClose || after(p.Seq, loadWord(&f.sent[from])) || s&(known<<from) == 0):
		s &= lasting
	case !answer:
		return s | synAgain<<from, false
	default:
		return s, false
	}
	f.windows.Store(0)
	return f.learnSyn(s, d, p).tcp(d, p.TCPFlags), true
}

// repeats reports whether the SYN p is the one that direction d sent before.
func (f *Flow) repeats(d Direction, p *packet.Packet) bool {
	sent := loadWord(&f.sent[d&1])
	return sent == p.Seq+uint32(p.SegmentLength) || sent == p.Seq+1
}

// acksSyn reports whether the SYN+ACK p acknowledges the SYN of the other
// direction, or of the data in it some part (RFC 7413).
func (f *Flow) acksSyn(d Direction, p *packet.Packet) bool {
	sent := loadWord(&f.sent[d&1^1])
	return !after(p.Ack, sent) && after(p.Ack, sent-ackLag)
}

// learnSyn begins direction d of a connection with its SYN. The window in a SYN is
// not scaled (RFC 7323 2.2).
func (f *Flow) learnSyn(s status, d Direction, p *packet.Packet) status {
	from, to := d&1, d&1^1
	s = s&^(unscaled<<from) | known<<from
	scale := p.WindowScale
	if scale == packet.NoWindowScale {
		scale = 0
		s |= unscaled << from
	}
	storeWord(&f.sent[from], p.Seq+uint32(p.SegmentLength))
	f.setWindow(from, uint16((max(uint32(p.Window), 1)+1<<scale-1)>>scale))
	s = s.withScale(from, scale)
	if s&(synAcked<<from) == 0 {
		storeWord(&f.acked[to], p.Seq) // what the other side will want first
	}
	s = f.learnAck(s, d, p)
	if s&(unscaled|unscaled<<1) != 0 && s&bothKnown == bothKnown {
		s = f.unscale(f.unscale(s, Original), Reply)
	}
	return s
}

// learnAck takes over the ACK of a SYN+ACK. Where nothing is known of the side
// that it acknowledges, since its SYN went another way or came before, that side
// is what the ACK says, with the largest window.
func (f *Flow) learnAck(s status, d Direction, p *packet.Packet) status {
	from, to := d&1, d&1^1
	if p.TCPFlags&packet.TCPAck == 0 {
		return s
	}
	storeWord(&f.acked[from], p.Ack)
	if s&(known<<to) == 0 {
		storeWord(&f.sent[to], p.Ack)
		storeWord(&f.acked[to], p.Seq)
		f.setWindow(to, looseWindow)
		s = s.withScale(to, looseScale) | known<<to
	}
	return s
}

// unscale makes the window of direction d one without scale: scaling is on only
// where both SYNs offer it (RFC 7323 2.2).
func (f *Flow) unscale(s status, d Direction) status {
	f.setWindow(d, uint16(min(f.reach(s, d), looseWindow)))
	return s.withScale(d, 0)
}
