package nat

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Search is how far the search of one flow for a port to share has come. It looks
// at each port of the range once, and can be interrupted between any two. The zero
// value is a search that has not begun.
type Search struct {
	ports PortRange // that are looked at
	left  uint32    // of them, those that were not yet
	at    uint32    // the last one looked at, counted from ports.Low
	step  uint32    // from one to the next, coprime to their number
	lost  bool      // a free port was tried, towards whose peer another flow has it
}

// Allow says how many ports may be looked at for sharing from now on, all flows
// together. Each is two or three look-ups of memory that nobody else asks for, and
// to look at all takes milliseconds, for which no other packet is to wait.
func (a *Allocator) Allow(ports int) { a.allowed = ports }

// Allowed is how many are left of that.
func (a *Allocator) Allowed() int { return a.allowed }

// begin begins the search, unless it has begun in this range.
//
// Ports are looked at in steps of a random length from a random place. Where most
// are in use towards a destination, those that are not would stand in gaps between
// long runs, and a search one by one would go through half a run to meet one; and
// what it finds would be the end of a run, which is easy to guess.
func (s *Search) begin(a *Allocator, ports PortRange) {
	if s.step != 0 && s.ports == ports {
		return
	}
	n := uint32(ports.High) - uint32(ports.Low) + 1
	*s = Search{ports: ports, left: n, at: a.below(n), step: 1, lost: s.lost}
	for range stepTries {
		if step := 1 + a.below(n-1); coprime(step, n) {
			s.step = step
			return
		}
	}
}

// stepTries is how often a step is drawn: about six in ten are coprime to a range,
// and three in ten to one that many small primes divide.
const stepTries = 32

func coprime(a, b uint32) bool {
	for b != 0 {
		a, b = b, a%b
	}
	return a == 1
}

// next is the port to look at next, of those that are left.
func (s *Search) next() uint16 {
	s.left--
	if s.at += s.step; s.at > uint32(s.ports.High-s.ports.Low) {
		s.at -= uint32(s.ports.High-s.ports.Low) + 1
	}
	return s.ports.Low + uint16(s.at)
}

// shareable is the range of ports that flows of a protocol may share.
func (r PortRange) shareable(proto uint8) PortRange {
	if proto == packet.ProtoICMP {
		return identifiers
	}
	return r.within(1, 65535)
}

// share makes the claim's mapping at a port that another mapping has, and that is
// free towards the flow's peer (RFC 7857 3, RFC 6888 REQ-13), or that nobody has. Of an
// endpoint-independent claim it makes one for a single flow. It fails with
// PortsExhausted when s has looked at all ports.
func (a *Allocator) share(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, s *Search, now conntrack.Tick) (m *conntrack.Mapping, made bool, r verdict.Reason) {
	if c.Scope == conntrack.ScopeEndpoint {
		c.Scope = conntrack.ScopeFlow
	}
	ports := a.ports.shareable(c.Proto)
	if ports.empty() {
		return nil, false, verdict.PortsExhausted
	}
	s.begin(a, ports)
	c.Early = false
	for s.left > 0 {
		if a.allowed <= 0 {
			return nil, false, verdict.PortSearchWaiting
		}
		a.allowed--
		a.counts.Probes++
		c.Port = s.next()
		if !usable(w, c, target, now) {
			continue
		}
		m, existed, taken, r := w.Claim(c, now)
		switch {
		case taken:
			a.counts.Races++
			continue
		case existed || r != verdict.None:
			return m, false, r
		}
		c.Source.Pair(c.External.Address())
		if c.On != nil {
			a.counts.Shared++
		} else {
			a.counts.Searched++
		}
		return m, true, verdict.None
	}
	return nil, false, verdict.PortsExhausted
}

// usable reports whether the claim may have its port: nobody uses it towards the
// peer, and either nobody has it, or, which sets c.On, a masqueraded endpoint has that is
// another one.
func usable(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, now conntrack.Tick) bool {
	if c.External.Reserved(c.Proto, c.Port) {
		return false
	}
	c.On = w.MappingAt(c.External, c.Proto, c.Port)
	switch {
	case c.On == nil:
		if !w.Available(c.External, c.Proto, c.Port, c.Inside, c.InsidePort, now) {
			return false
		}
	case c.On.Service() != 0:
		return false
	default:
		if addr, port := c.On.Inside(); addr == c.Inside && port == c.InsidePort {
			return false
		}
	}
	if c.Listed && w.PeerAt(c.External, c.Proto, c.Port, c.Peer) != nil {
		return false
	}
	reply := target.Reverse()
	reply.Dst, reply.DstPort = c.External.Address(), c.Port
	flow, _ := w.Find(reply, now)
	return flow == nil
}
