package fib

// Snapshot is one immutable state of routes and neighbours.
type Snapshot struct {
	routing *routing // shared by the snapshots of one generation

	// hops is indexed by HopID; entry 0 is not used. Entries beyond the range of
	// HopID are good answers of Lookup, which then have no id to be cached by.
	hops  []Hop
	index hopIndex
}

// Lookup answers how a packet from src to dst that arrived on port in is
// forwarded: policy rules in order, longest prefix, lowest metric, the path that
// hash falls on, the neighbour. hash must be spread over all 32 bits; the same
// hash takes the same path as long as the route does not change.
//
// The id is 0 where there is no hop to remember: Type is not Forward, or the
// neighbour is not known to the kernel yet; then State is Unresolved, and Port
// and Gateway say whom to resolve.
func (s *Snapshot) Lookup(dst, src uint32, in PortID, hash uint32) (HopID, Hop) {
	p := s.routing.find(dst, src, in, hash)
	if p.answer.Type != Forward {
		return 0, p.answer
	}
	i := p.hop
	if p.onLink {
		if i = s.index.find(hopKey{dst, p.answer.Port, p.answer.MTU}); i == 0 {
			hop := p.answer
			hop.Gateway = dst
			return 0, hop
		}
	}
	if i > maxHopID {
		return 0, s.hops[i]
	}
	return HopID(i), s.hops[i]
}

// Hop returns the hop of an id that this generation's Lookup returned. The
// neighbour's address and state may have changed since, nothing else.
func (s *Snapshot) Hop(id HopID) *Hop { return &s.hops[id] }

// Generation changes whenever routes, rules, addresses or links do, and with it
// the meaning of hop ids; it does not when neighbours change. It is never 0. It
// wraps after 65,535 changes: who caches ids must not keep them that long unused.
func (s *Snapshot) Generation() uint16 { return s.routing.generation }

// Local reports whether addr is one of the host's own.
func (s *Snapshot) Local(addr uint32) bool { return s.routing.local.contains(addr) }

// Broadcast reports whether addr is the broadcast address of a connected
// network, or the limited broadcast address.
func (s *Snapshot) Broadcast(addr uint32) bool { return s.routing.broadcast.contains(addr) }

// Interface returns a listed interface, or nil where there is no such port.
func (s *Snapshot) Interface(p PortID) *Interface {
	if int(p) >= len(s.routing.interfaces) {
		return nil
	}
	return &s.routing.interfaces[p]
}

// Hops returns the number of hops of this generation, those that are no longer
// in the kernel's ARP table included.
func (s *Snapshot) Hops() int { return len(s.hops) - 1 }

// find returns the path that a packet takes, never nil.
func (r *routing) find(dst, src uint32, in PortID, hash uint32) *path {
	for i := 0; i < len(r.steps); {
		st := &r.steps[i]
		i++
		if !st.matches(dst, src, in) {
			continue
		}
		if st.table == nil {
			if st.jump != 0 {
				i = st.jump
				continue
			}
			return &st.verdict
		}
		e, ok := st.table.Lookup(Addr(dst))
		if !ok || !st.accepts(e) {
			continue
		}
		paths := r.paths[e.first : e.first+e.count]
		for n := range paths {
			if hash <= paths[n].limit {
				return &paths[n]
			}
		}
	}
	return &noRoute
}
