package dsr

import (
	"math/bits"
	"slices"

	"sluice/conntrack"
)

// Select chooses the backend of a new flow that arrives with tuple t: nil where
// the service has none to give. random is the chance that `algorithm: random` uses.
func (s *Service) Select(t conntrack.Tuple, random uint64) *Backend {
	if len(s.active) == 0 {
		return nil
	}
	switch s.Algorithm {
	case Random:
		// Multiply and shift instead of a remainder (Lemire): no bias that matters.
		total := s.bounds[len(s.bounds)-1]
		at, _ := bits.Mul64(random, total)
		i, _ := slices.BinarySearch(s.bounds, at+1)
		return s.active[i]
	case RoundRobin:
		return s.active[s.order[(s.turn.Add(1)-1)%uint32(len(s.order))]]
	}
	return s.active[s.maglev[s.maglevSlot(&t)]]
}

// maglevSlot leaves the destination's address out, so that a client is served by
// one backend whichever address it uses; and with affinity its port as well.
func (s *Service) maglevSlot(t *conntrack.Tuple) uint32 {
	port := t.SrcPort
	if s.Affinity > 0 {
		port = 0
	}
	return tupleHash(t.Src, port, t.DstPort, t.Proto, jhashSeed) % maglevSize
}

// Pick is Select for a service that may have session affinity: a client that was
// served within that time keeps its backend, as long as that one gets new flows.
// Of two workers that pick for one client at once both pick the same backend.
func (s *Service) Pick(t conntrack.Tuple, now conntrack.Tick, random uint64) *Backend {
	if s.Affinity == 0 || s.affinity == nil {
		return s.Select(t, random)
	}
	key := affinityKey(s.ID, t.Src)
	set := s.affinity.set(key)
	// All there are: who helps another may be late, and leave a second one.
	for at, word := set.find(key); word != 0; at, word = set.find(key) {
		b := s.inSlot(slotOf(word))
		// Once more, since the place may have become another entry's before renew.
		if b != nil && set.renew(at, s.Affinity, now) && set.words[at].Load() == word {
			return b
		}
		set.words[at].CompareAndSwap(word, 0)
	}
	b := s.Select(t, random)
	if b == nil {
		return nil
	}
	// Where the slot means nothing here, the other worker had another table.
	if stands := s.inSlot(set.agree(key, b.slot, now)); stands != nil {
		return stands
	}
	return b
}

// Seen notes that a client of the service was just served by one of its backends,
// as a flow did that began earlier: affinity lasts from a client's last packet, as
// Cilium has it (bpf/lib/lb.h), and not from its last connection. A client that has
// none, after a restart above all, gets it by that.
func (s *Service) Seen(client uint32, by BackendID, now conntrack.Tick) {
	if s.Affinity == 0 || s.affinity == nil {
		return
	}
	key := affinityKey(s.ID, client)
	set := s.affinity.set(key)
	at, word := set.find(key)
	if word == 0 {
		for _, b := range s.active {
			if b.ID == by {
				set.agree(key, b.slot, now)
				return
			}
		}
		return
	}
	// A flow that stays on a backend that drains keeps no client there.
	if b := s.inSlot(slotOf(word)); b != nil && b.ID == by {
		set.renew(at, s.Affinity, now)
	}
}

// inSlot is the backend with this slot, nil where none has it that gets new flows.
func (s *Service) inSlot(slot uint16) *Backend {
	if int(slot) >= len(s.slots) {
		return nil
	}
	return s.slots[slot]
}

// maxTurns bounds the order of turns: weights whose ratios need more are rounded.
const maxTurns = 1 << 12

// turns is the order in which backends take turns, so that of each stretch every
// one gets about its share: the smooth weighted round-robin of nginx.
func turns(backends []*Backend) (order []uint16) {
	divisor, sum := 0, 0
	for _, b := range backends {
		divisor = gcd(divisor, b.Weight)
		sum += b.Weight
	}
	weights := make([]int, len(backends))
	for i, b := range backends {
		if weights[i] = b.Weight / divisor; sum/divisor > maxTurns {
			weights[i] = max(1, b.Weight*maxTurns/sum)
		}
	}
	total := 0
	for _, w := range weights {
		total += w
	}
	credit := make([]int, len(backends))
	for range total {
		best := 0
		for i, w := range weights {
			if credit[i] += w; credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		order = append(order, uint16(best))
	}
	return order
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
