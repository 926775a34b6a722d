package conntrack

// Timeouts are the spans of silence after which flows end, by the names of
// conntrack.timeouts in the configuration.
type Timeouts struct {
	TCPEstablished Tick
	TCPTransitory  Tick // opening
	TCPClosing     Tick // half closed or closing
	TCPSyn         Tick // no answer yet
	TCPClose       Tick // after a reset
	TCPTimeWait    Tick // both sides have closed
	UDP            Tick // both directions seen
	UDPUnreplied   Tick
	ICMP           Tick
	Other          Tick
	PortRest       Tick // how long a port rests that the last flow has left

	UDPPorts []PortTimeout // by destination port, instead of UDP; no port twice
}

// PortTimeout is a time-out of UDP flows towards the ports from First to Last. Of a
// flow without an answer it counts where it is shorter than UDPUnreplied.
type PortTimeout struct {
	First, Last uint16
	Timeout     Tick
}

// DefaultTimeouts are the configuration's defaults.
func DefaultTimeouts() Timeouts {
	const s, m = TicksPerSecond, 60 * TicksPerSecond
	return Timeouts{
		TCPEstablished: 124 * m, // RFC 5382 REQ-5: not under 2 h 4 min
		TCPTransitory:  4 * m,   // RFC 5382 REQ-5: not under 4 min
		TCPClosing:     4 * m,   // RFC 7857 2.1
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
type limits struct {
	// least is the shortest time-out that a flow in a state can have: one that
	// was silent for less needs no closer look, and that is all that most
	// packets ask.
	least [stateSpace]Tick
	usual [stateSpace]Tick

	// ports is what UDP flows have by their destination port, 0 = nothing of
	// their own; nil where no port has (RFC 4787 REQ-5). By the flow's tuple and not by
	// a word in its record: so a change is one for all flows at once, as of any
	// other time-out, and what is in memory says the same after a restart.
	ports *[1 << 16]Tick
}

func (t *Timeouts) limits() *limits {
	l := &limits{usual: [stateSpace]Tick{
		TCPSynSent:     t.TCPSyn,
		TCPSynReceived: t.TCPTransitory,
		TCPEstablished: t.TCPEstablished,
		TCPFinWait:     t.TCPClosing,
		TCPLastAck:     t.TCPClosing,
		TCPTimeWait:    t.TCPTimeWait,
		TCPClose:       t.TCPClose,
		UDPUnreplied:   t.UDPUnreplied,
		UDPReplied:     t.UDP,
		ICMPQuery:      t.ICMP,
		OtherProtocol:  t.Other,
	}}
	l.least = l.usual
	if len(t.UDPPorts) == 0 {
		return l
	}
	l.ports = new([1 << 16]Tick)
	for _, p := range t.UDPPorts {
		for port := int(p.First); port <= int(p.Last); port++ {
			l.ports[port] = p.Timeout
		}
		l.least[UDPReplied] = min(l.least[UDPReplied], p.Timeout)
		l.least[UDPUnreplied] = min(l.least[UDPUnreplied], p.Timeout)
	}
	return l
}

// idle reports whether a flow in state s, last seen at seen, has been silent for
// so long that it may have to end. Workers read the clock each for itself: a flow
// may have been seen after now.
func (l *limits) idle(s State, seen, now Tick) bool {
	return int32(now-seen) > int32(l.least[s%stateSpace])
}

// of is the silence that ends a flow with this original tuple in state s.
func (l *limits) of(s State, original *Tuple) Tick {
	usual := l.usual[s%stateSpace]
	if l.ports == nil || s != UDPReplied && s != UDPUnreplied {
		return usual
	}
	switch own := l.ports[original.DstPort]; {
	case own == 0:
		return usual
	case s == UDPUnreplied:
		return min(usual, own)
	default:
		return own
	}
}

// expired reports whether a flow in state s, last seen at seen, has been silent
// for too long.
func (l *limits) expired(f *Flow, s State, seen, now Tick) bool {
	return l.idle(s, seen, now) && int32(now-seen) > int32(l.of(s, &f.tuple[Original]))
}

// Timeout is the silence that ends a flow with this original tuple in state s.
func (t *Table) Timeout(s State, original *Tuple) Tick { return t.limits.Load().of(s, original) }
