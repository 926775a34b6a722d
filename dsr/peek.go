package dsr

import "sluice/conntrack"

// Peek is Pick for whoever only asks: it takes no turn, and remembers nothing. The
// algorithms that choose by chance or in turn can come to another backend when the
// flow begins.
func (s *Service) Peek(t conntrack.Tuple, now conntrack.Tick, random uint64) *Backend {
	if len(s.active) == 0 {
		return nil
	}
	if s.Affinity > 0 && s.affinity != nil {
		if b := s.kept(t, now); b != nil {
			return b
		}
	}
	if s.Algorithm == RoundRobin {
		return s.active[s.order[s.turn.Load()%uint32(len(s.order))]]
	}
	return s.Select(t, random)
}

// kept is the backend that the client keeps for its affinity, nil for none.
func (s *Service) kept(t conntrack.Tuple, now conntrack.Tick) *Backend {
	key := affinityKey(s.ID, t.Src)
	set := s.affinity.set(key)
	at, word := set.find(key)
	if word == 0 || set.age(at, now) >= s.Affinity {
		return nil
	}
	return s.inSlot(slotOf(word))
}

// BackendAt is the backend at an address and port, whatever its state, or nil.
func (s *Service) BackendAt(address uint32, port uint16) *Backend {
	for _, b := range s.Backends {
		if b.Address == address && b.Port == port {
			return b
		}
	}
	return nil
}

// All are the services in the order of the configuration. A nil Table has none.
func (t *Table) All() []*Service {
	if t == nil {
		return nil
	}
	return t.Services
}
