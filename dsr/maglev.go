package dsr

import (
	"fmt"

	"sluice/internal/packet"
)

// maglevSize is the length of a Maglev table, Cilium's default: a prime, and good
// for some 160 backends by the rule of a hundred slots each.
const maglevSize = 16381

// maglevName is what a backend's place in the table comes from. Cilium froze the
// form: a state is in it that is always the same.
func maglevName(b *Backend, proto uint8) string {
	name := "TCP"
	if proto == packet.ProtoUDP {
		name = "UDP"
	}
	return fmt.Sprintf("[%s/%s,State:active]", b.Endpoint(), name)
}

// candidate is a backend's way through the slots (Eisenbud et al., "Maglev", 2016,
// 3.4).
type candidate struct {
	at, skip uint64
	weight   uint64
	due      float64 // of its next turn, where weights differ
}

// fillMaglev makes the table, of size slots, of backends that are sorted by their names: as
// Cilium does, so that the same backends make the same table everywhere.
func fillMaglev(backends []*Backend, proto uint8, size uint64) []uint16 {
	const free = 1<<16 - 1
	table := make([]uint16, size)
	for i := range table {
		table[i] = free
	}
	candidates := make([]candidate, len(backends))
	sum, weighted := uint64(0), false
	for i, b := range backends {
		h1, h2 := murmur([]byte(maglevName(b, proto)), murmurSeed)
		candidates[i] = candidate{
			at: h1 % size, skip: h2%(size-1) + 1,
			weight: uint64(b.Weight), due: float64(b.Weight) / float64(len(backends)),
		}
		sum += uint64(b.Weight)
		weighted = weighted || b.Weight != 1
	}
	for n := range size {
		i := int(n % uint64(len(backends)))
		if weighted {
			// Who is not due lets the next one take the turn. Somebody is: what
			// all are owed together grows by the sum with every turn taken.
			for (n+1)*candidates[i].weight < uint64(candidates[i].due) { // rounded down, as Cilium does
				i = (i + 1) % len(backends)
			}
			candidates[i].due += float64(sum)
		}
		c := &candidates[i]
		for table[c.at] != free {
			c.at = (c.at + c.skip) % size
		}
		table[c.at] = uint16(i)
	}
	return table
}
