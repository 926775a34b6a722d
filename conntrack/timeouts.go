package conntrack

// Timeouts are the spans of silence after which flows end, by the names of
// conntrack.timeouts in the configuration.
type Timeouts struct {
	TCPEstablished Tick
	TCPTransitory  Tick // opening, half closed or closing
	TCPSyn         Tick // no answer yet
	TCPClose       Tick // after a reset
	TCPTimeWait    Tick // both sides have closed
	UDP            Tick // both directions seen
	UDPUnreplied   Tick
	ICMP           Tick
	Other          Tick
	PortRest       Tick // how long a port rests that the last flow has left
}

// DefaultTimeouts are the configuration's defaults.
func DefaultTimeouts() Timeouts {
	const s, m = TicksPerSecond, 60 * TicksPerSecond
	return Timeouts{
		TCPEstablished: 124 * m, // RFC 5382 REQ-5: not under 2 h 4 min
		TCPTransitory:  4 * m,   // RFC 5382 REQ-5: not under 4 min
		TCPSyn:         4 * m,   // RFC 7857 2.1
		TCPClose:       4 * m,   // RFC 7857 2.2; RFC 5961 7: by then a connection that lives has shown it
		TCPTimeWait:    2 * m,
		UDP:            5 * m,  // RFC 4787 REQ-5: 5 min recommended
		UDPUnreplied:   2 * m,  // RFC 4787 REQ-5: not under 2 min
		ICMP:           60 * s, // RFC 5508 REQ-2: not under 60 s
		Other:          10 * m,
		PortRest:       2 * m, // RFC 6888 REQ-8: 120 s
	}
}

// limits are the Timeouts by state. Unused states have 0, which nothing live
// is ever in.
type limits [stateSpace]Tick

func (t *Timeouts) limits() *limits {
	return &limits{
		TCPSynSent:     t.TCPSyn,
		TCPSynReceived: t.TCPTransitory,
		TCPEstablished: t.TCPEstablished,
		TCPFinWait:     t.TCPTransitory,
		TCPLastAck:     t.TCPTransitory,
		TCPTimeWait:    t.TCPTimeWait,
		TCPClose:       t.TCPClose,
		UDPUnreplied:   t.UDPUnreplied,
		UDPReplied:     t.UDP,
		ICMPQuery:      t.ICMP,
		OtherProtocol:  t.Other,
	}
}

// expired reports whether a flow in state s, last seen at seen, has been silent
// for too long. Workers read the clock each for itself: a flow may have been
// seen after now.
func (l *limits) expired(s State, seen, now Tick) bool {
	return int32(now-seen) > int32(l[s%stateSpace])
}

// Timeout is the silence that ends a flow in state s.
func (t *Table) Timeout(s State) Tick { return t.limits.Load()[s%stateSpace] }
