package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

const (
	synSlots     = 256                          // SYNs that a worker remembers
	synHoldTicks = 6 * conntrack.TicksPerSecond // RFC 5382 REQ-4
	synQuote     = packet.IPv4MaxLength + 60    // no header of IPv4 and TCP is longer
	synBytes     = packet.EthernetLength + synQuote
)

// heldSYN is an unsolicited SYN from outside, as it arrived, without its payload.
type heldSYN struct {
	used  bool
	in    fib.PortID
	since conntrack.Tick
	p     packet.Packet
	frame [synBytes]byte
}

// heldSYNs remembers the SYNs that wait for an answer, each in the slot that a
// keyed hash of its tuple says. Where another one is there already, a SYN is not
// remembered and stays unanswered, as RFC 5382 REQ-4a allows: so a flood costs
// neither memory nor time.
type heldSYNs struct {
	n     int
	seen  conntrack.Tick // when they were last looked at
	slots [synSlots]heldSYN
}

// holdSYN follows the refusal of a packet for reason r. An unsolicited SYN is not
// answered for 6 seconds, in which an inside host may open the same connection
// from its side (RFC 5382 REQ-4): a host behind another NAT, to which ours was told
// to do so, would give up at an error. Only addresses and ports of NAT's come
// here: on an address that is the host's, too, other ports are the host's affair.
func (w *Worker) holdSYN(frame []byte, p *packet.Packet, r verdict.Reason) {
	if p.TCPFlags&(packet.TCPSyn|packet.TCPAck) != packet.TCPSyn || r != verdict.Filtered && r != verdict.NoMapping ||
		w.snapshot.fromInside(w.in, p.Src) {
		return
	}
	x := &w.syns.slots[w.keyed.sum(uint64(p.Src)<<32|uint64(p.Dst), uint64(p.SrcPort)<<16|uint64(p.DstPort))%synSlots]
	if x.used {
		return // another's, or this one's first attempt, whose time counts
	}
	n := min(len(frame), int(p.End), synBytes)
	x.used, x.in, x.since, x.p = true, w.in, w.now, *p
	x.p.End = uint16(n)
	copy(x.frame[:], frame[:n])
	w.syns.n++
	w.counters.SYNsHeld++
}

// answerSYNs tells the senders of SYNs whose time is over, once a tick.
func (w *Worker) answerSYNs() {
	if w.syns.seen == w.now {
		return
	}
	w.syns.seen = w.now
	for i := range w.syns.slots {
		x := &w.syns.slots[i]
		if !x.used || w.now-x.since < synHoldTicks {
			continue
		}
		x.used = false
		w.syns.n--
		w.answerSYN(x)
	}
	w.free()
}

// answerSYN sends port unreachable about a SYN, unless its connection has been
// opened from inside meanwhile.
func (w *Worker) answerSYN(x *heldSYN) {
	if flow, _ := w.flows.Find(key(&x.p), w.now); flow != nil {
		return
	}
	var d [1]xdp.Desc
	if w.memory.Allocate(d[:]) == 0 {
		return
	}
	d[0].Len = uint32(x.p.End)
	frame := w.frame(d[0])
	copy(frame, x.frame[:])
	if !w.answer(d[0], frame, &x.p, x.in, PortUnreachable) {
		w.discard(d[0])
	}
}
