package conntrack

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPrefetchChangesNothing: what is sent for is as before, for a list of any
// length, whichever of the functions is built (go test -tags purego has the other).
func TestPrefetchChangesNothing(t *testing.T) {
	table := newTable(t, 2*Burst, 1)
	for i := range table.flows {
		table.flows[i].created = Tick(i)
	}
	var list [Burst]*Flow
	for i := range list {
		list[i] = &table.flows[len(table.flows)-1-i]
	}
	was, listed := slices.Clone(table.flows), list
	for n := range Burst + 1 {
		fetch(list[:n])
		fetchPairs(list[:n])
	}
	if !slices.Equal(was, table.flows) || listed != list {
		t.Fatal("records or list changed")
	}
}

// TestLookupInStages: keys that are asked for in pieces, as their frames are
// parsed, and settled by strides are found as one at a time, also where flows begin
// and end between the strides.
func TestLookupInStages(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		table := newTable(tt, 4*Burst, 1)
		w := table.Worker(0)
		tuple := func(i int) Tuple { return udp(client+uint32(i), 5000, server, 53) }
		flows := make([]*Flow, Burst)
		for i := range flows {
			if rapid.Bool().Draw(t, "there") {
				flows[i] = mustCreate(tt, w, plain(tuple(i)), 1)
			}
		}
		var l Lookup
		n := rapid.IntRange(0, Burst).Draw(t, "n")
		of := make([]int, n)
		unmatched := 0
		for asked := 0; asked < n; {
			to := rapid.IntRange(asked+1, n).Draw(t, "to")
			for i := asked; i < to; i++ {
				of[i] = rapid.IntRange(0, Burst-1).Draw(t, "flow")
				l.Keys[i] = tuple(of[i])
				if flows[of[i]] == nil {
					unmatched++
				}
			}
			w.Ask(&l, asked, to)
			asked = to
		}
		if got := w.Match(&l, n, 2); got != unmatched {
			t.Fatalf("%d keys match nothing, want %d", got, unmatched)
		}
		for at := 0; at < n; {
			to := w.Settle(&l, at)
			if to <= at || to > n {
				t.Fatalf("settled from %d to %d of %d", at, to, n)
			}
			for i := at; i < to; i++ {
				if l.Flow[i] != flows[of[i]] {
					t.Fatalf("key %d has flow %p, want %p", i, l.Flow[i], flows[of[i]])
				}
			}
			if ends := rapid.IntRange(0, Burst-1).Draw(t, "ends"); flows[ends] != nil {
				w.Retire(flows[ends], 0)
				flows[ends] = nil
			}
			at = to
		}
	})
}
