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
//	     12     the direction of the later FIN
//	     13-14  a RST was seen from original, reply
//	     16-23  window scales, original and reply: reserved, 0
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
	laterFin     status = 1 << 12
	rstSeen      status = 1 << 13
	bothSyn             = synSeen | synSeen<<1
	bothSynAcked        = synAcked | synAcked<<1
	bothFin             = finSeen | finSeen<<1
	bothRst             = rstSeen | rstSeen<<1
	opened              = bothSyn | bothSynAcked
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

// moves says for each state and TCP flags whether such a packet may change
// anything: nearly none does, and the rest need not be worked out. A table, so
// that the test is inlined where packets are handled.
var moves = func() (m [stateSpace][256]bool) {
	const open = packet.TCPSyn | packet.TCPFin | packet.TCPRst
	for flags := range m[0] {
		for _, s := range []State{TCPSynSent, TCPSynReceived, TCPLastAck, TCPClose, UDPUnreplied} {
			m[s][flags] = true
		}
		m[TCPEstablished][flags] = flags&open != 0
		m[TCPFinWait][flags] = flags&open != 0
		m[TCPTimeWait][flags] = flags&(packet.TCPSyn|packet.TCPRst) != 0
	}
	return m
}()

// next is the status after a packet of protocol proto in direction d.
func (s status) next(proto uint8, d Direction, flags uint8) status {
	switch proto {
	case packet.ProtoTCP:
		return s.tcp(d, flags)
	case packet.ProtoUDP:
		// Answered is what both sides have sent; who began does not matter.
		if s.state() != UDPUnreplied {
			return s
		}
		if s |= synSeen << uint(d&1); s&bothSyn == bothSyn {
			return s.withState(UDPReplied)
		}
	}
	return s
}

// tcp is the status after a segment: the states of RFC 7857 2, by flags only.
// Sequence numbers are not checked yet, so nothing here may make a flow easier to
// kill than its end points are (RFC 5961 3): and no state stops a packet (RFC
// 5382 REQ-2), the RST that answers a challenge ACK included (RFC 5961 10).
func (s status) tcp(d Direction, flags uint8) status {
	from, to := uint(d&1), uint(d&1^1)
	if flags&packet.TCPRst != 0 {
		return s.withState(TCPClose) | rstSeen<<from
	}
	if flags&(packet.TCPSyn|packet.TCPAck) == packet.TCPSyn && s.reopens(d) {
		s &= phaseMask
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

// reopens reports whether a SYN in direction d begins a new connection between
// the same end points. On a connection that is alive it does not: the end point
// answers it with a challenge ACK, and both pass (RFC 5961 4).
func (s status) reopens(d Direction) bool {
	return s.state() == TCPTimeWait || s.state() == TCPClose && d == Original
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
// that the RST came from goes on sending: the RST was forged, or out of window
// (RFC 7857 2.2). The other side's late segments prove nothing.
func (s status) revived(d Direction, flags uint8) status {
	if s&opened == opened && s&bothFin == 0 && s&(rstSeen<<uint(d&1)) != 0 && flags&packet.TCPAck != 0 {
		return s.withState(TCPEstablished) &^ bothRst
	}
	return s
}

// closing is s after the FIN, or the ACK of the last one, in a segment. Data
// changes nothing (RFC 5961 5).
func (s status) closing(d Direction, flags uint8) status {
	from := uint(d & 1)
	switch s.state() {
	case TCPEstablished, TCPFinWait:
		if flags&packet.TCPFin == 0 || s&(finSeen<<from) != 0 {
			return s
		}
		s = s&^laterFin | finSeen<<from | laterFin*status(from)
		if s&bothFin == bothFin {
			return s.withState(TCPLastAck)
		}
		return s.withState(TCPFinWait)
	case TCPLastAck:
		later := uint(0)
		if s&laterFin != 0 {
			later = 1
		}
		if flags&(packet.TCPFin|packet.TCPAck) == packet.TCPAck && from != later {
			return s.withState(TCPTimeWait)
		}
	}
	return s
}
