package conntrack

import "sluice/internal/packet"

// State is what a flow's packets so far say about it. It decides the time-out.
type State uint8

const (
	StateNone      State = iota
	TCPSynSent           // a SYN, unanswered
	TCPSynReceived       // SYNs of both sides, not both acknowledged
	TCPEstablished       // both SYNs acknowledged
	TCPFinWait           // one side has closed
	TCPLastAck           // both sides have closed
	TCPTimeWait          // the last FIN is acknowledged
	TCPClose             // reset
	UDPUnreplied
	UDPReplied
	ICMPQuery
	OtherProtocol
	States // the number of states

	stateSpace = 16 // what the status word has room for
)

var stateWords = [States]string{
	StateNone:      "none",
	TCPSynSent:     "syn-sent",
	TCPSynReceived: "syn-received",
	TCPEstablished: "established",
	TCPFinWait:     "fin-wait",
	TCPLastAck:     "last-ack",
	TCPTimeWait:    "time-wait",
	TCPClose:       "close",
	UDPUnreplied:   "unreplied",
	UDPReplied:     "replied",
	ICMPQuery:      "icmp",
	OtherProtocol:  "other",
}

// String returns the state's kebab-case word, which is never renamed.
func (s State) String() string {
	if s >= States {
		return "unknown-state"
	}
	return stateWords[s]
}

// status is a flow's status word. It changes as a whole by compare-and-swap.
//
//	bits  0-3   State
//	      4-5   phase
//	      6-7   a SYN was seen from original, reply; of UDP, any packet
//	      8-9   the SYN of original, reply was acknowledged by the other side
//	     10-11  a FIN was seen from original, reply
//	     12-13  a RST was seen from original, reply
//	     14-15  a SYN from original, reply came when the connection was over
//	     16-23  window scales, 4 bits each, of original, reply
//	     24-25  sent and windows of original, reply are known
//	     26-27  the SYN of original, reply offered no window scaling
//	     28-29  original, reply sent a TCP segment in fragments
//	     30     the flow is counted to the source by its address: see Worker.admit
type status uint32

const (
	stateMask status = stateSpace - 1

	phaseFree     status = 0 << 4
	phaseBuilding status = 1 << 4 // original entry published, reply entry not yet
	phaseLive     status = 2 << 4
	phaseDead     status = 3 << 4
	phaseMask     status = 3 << 4

	synSeen      status = 1 << 6
	synAcked     status = 1 << 8
	finSeen      status = 1 << 10
	rstSeen      status = 1 << 12
	synAgain     status = 1 << 14
	scaleShift          = 16
	known        status = 1 << 24
	unscaled     status = 1 << 26
	divided      status = 1 << 28
	counted      status = 1 << 30
	bothSyn             = synSeen | synSeen<<1
	bothSynAcked        = synAcked | synAcked<<1
	bothFin             = finSeen | finSeen<<1
	bothRst             = rstSeen | rstSeen<<1
	bothKnown           = known | known<<1
	opened              = bothSyn | bothSynAcked
	lasting             = phaseMask | counted // what no packet changes
)

func (s status) state() State                  { return State(s & stateMask) }
func (s status) phase() status                 { return s & phaseMask }
func (s status) withPhase(phase status) status { return s&^phaseMask | phase }
func (s status) withState(state State) status  { return s&^stateMask | status(state) }

// initial is the status of a flow that begins with a packet of protocol proto in
// direction d and, for TCP, flags. A TCP flow that begins in the middle is taken as if both
// SYNs had been seen: a packet each way makes it established, which is more
// than a forger on one side can do.
func initial(proto uint8, d Direction, flags uint8) status {
	switch proto {
	case packet.ProtoTCP:
		var s status
		if flags&(packet.TCPSyn|packet.TCPAck) != packet.TCPSyn {
			s = bothSyn
		}
		return s.tcp(d, flags)
	case packet.ProtoUDP:
		return status(UDPUnreplied) | synSeen<<uint(d&1)
	case packet.ProtoICMP:
		return status(ICMPQuery)
	}
	return status(OtherProtocol)
}

// settled says for each state whether no packet changes anything in it: the
// test that is inlined where packets are handled.
var settled = [stateSpace]bool{UDPReplied: true, ICMPQuery: true, OtherProtocol: true}

// next is the status after a packet of a protocol other than TCP in direction d.
func (s status) next(proto uint8, d Direction) status {
	if proto != packet.ProtoUDP || s.state() != UDPUnreplied {
		return s
	}
	// Answered is what both sides have sent; who began does not matter: strangers
	// alone get the shorter time-out (RFC 7857 7).
	if s |= synSeen << uint(d&1); s&bothSyn == bothSyn {
		return s.withState(UDPReplied)
	}
	return s
}

// tcp is the status after a segment in direction d that fits the connection by
// its numbers: the states of RFC 7857 2 and RFC 6146 3.5.2. What does not fit does
// not come here, see Flow.fits; so nothing here makes a flow easier to end than its
// end points are. And no state stops a packet (RFC 5382 REQ-2), the RST that
// answers a challenge ACK included (RFC 5961 10).
func (s status) tcp(d Direction, flags uint8) status {
	from, to := uint(d&1), uint(d&1^1)
	if flags&packet.TCPRst != 0 {
		return s.withState(TCPClose) | rstSeen<<from
	}
	if flags&packet.TCPSyn != 0 {
		s |= synSeen << from
	}
	if flags&packet.TCPAck != 0 && s&(synSeen<<to) != 0 {
		s |= synAcked << to
	}
	switch s.state() {
	case StateNone, TCPSynSent, TCPSynReceived:
		s = s.opening()
	case TCPClose:
		s = s.revived(d, flags)
	}
	return s.closing(d, flags)
}

// opening is s by how far the handshake got. Each SYN must have been
// acknowledged; in which order they came does not matter, so that a
// simultaneous open works (RFC 5382 REQ-2a), and an ACK of the responder alone,
// such as a challenge ACK, establishes nothing.
func (s status) opening() status {
	switch {
	case s&opened == opened:
		return s.withState(TCPEstablished)
	case s&bothSyn == bothSyn:
		return s.withState(TCPSynReceived)
	}
	return s.withState(TCPSynSent)
}

// revived takes an established connection back out of TCPClose when the side
// that the RST came from goes on sending: whoever guessed its number was lucky
// (RFC 7857 2.2). The other side's late segments prove nothing.
func (s status) revived(d Direction, flags uint8) status {
	if s&opened == opened && s&bothFin == 0 && s&(rstSeen<<uint(d&1)) != 0 && flags&packet.TCPAck != 0 {
		return s.withState(TCPEstablished) &^ bothRst
	}
	return s
}

// closing is s after the FIN in a segment. Data changes nothing (RFC 5961 5).
func (s status) closing(d Direction, flags uint8) status {
	if state := s.state(); flags&packet.TCPFin == 0 || state != TCPEstablished && state != TCPFinWait {
		return s
	}
	if s |= finSeen << uint(d&1); s&bothFin == bothFin {
		return s.withState(TCPLastAck)
	}
	return s.withState(TCPFinWait)
}
