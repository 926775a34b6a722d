package conntrack

import "testing"

// TestHashFlood: an attacker who knows the hash but not its key, and chooses his
// tuples, gets no longer chains than chance makes: the hash is keyed (reliability:
// algorithmic complexity). All flows are found where they are.
func TestHashFlood(t *testing.T) {
	const flows = 20_000 / (1 + 3*raceFactor)
	for name, next := range map[string]func(t *Table) func() Tuple{
		"ports in sequence":             inSequence,
		"addresses that differ on high": onHigh,
		"chosen against the bare hash":  colliding,
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable(t, flows, 1)
			w := table.Worker(0)
			tuple := next(table)
			var all []Tuple
			for range flows {
				k := tuple()
				mustCreate(t, w, plain(k), 1)
				all = append(all, k)
			}
			for _, k := range all {
				if f, d := w.Find(k, 1); f == nil || f.Tuple(d) != k {
					t.Fatalf("the flow of %v is not found", k)
				}
			}
			further, longest := uint64(0), uint64(0)
			for i := range table.buckets {
				n := table.buckets[i].overflow.Load()
				further += n
				longest = max(longest, n)
			}
			// At 62 % load chance sends one entry in eight further, and 40 past no bucket.
			if further > 2*flows/4 || longest > 40 {
				t.Errorf("%d entries go %d buckets further, %d past one of them", 2*flows, further, longest)
			}
		})
	}
}

func inSequence(*Table) func() Tuple {
	n := uint32(0)
	return func() Tuple { n++; return udp(client, uint16(n), server, uint16(53+n>>16)) }
}

func onHigh(*Table) func() Tuple {
	n := uint32(0)
	return func() Tuple { n++; return udp(n<<16, 4000, server, 53) }
}

// colliding finds tuples that the hash without its key sends to the first
// hundredth of the buckets.
func colliding(table *Table) func() Tuple {
	n := uint32(0)
	return func() Tuple {
		for {
			n++
			k := udp(client+n>>16, uint16(n), server, 53)
			if reduce(new(seed).hash(k.key()), table.nBuckets) < table.nBuckets/100 {
				return k
			}
		}
	}
}
