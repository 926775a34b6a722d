package conntrack

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestOneOfRivalsWins: who contests a key against a rival at a higher position wins
// exactly where the rival was killed before it could be promoted: see insert. The
// two meet at every distance of time that there is between the steps.
func TestOneOfRivalsWins(t *testing.T) {
	threads(t, 2)
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	nf := plain(udp(client, 1, server, 1))
	k := nf.Original.key()
	h := table.seed.hash(k)
	var words [2]uint64
	for i := range words {
		id := w.flows.take()
		w.fill(id, nf, 1)
		words[i] = tag(h) | kindOriginal | uint64(id)
	}
	b := &table.buckets[table.chain(h).at]
	mine, rival := place{slot: &b.slot[0], position: uint64(table.chain(h).at) << 3}, &b.slot[1]
	mine.slot.Store(words[0] | slotTentative)

	var round, done atomic.Uint32
	var promoted bool // by the rival, until it is done
	var running sync.WaitGroup
	const rounds = 300_000 / (1 + 9*raceFactor)
	running.Go(func() {
		for n := uint32(1); n <= rounds; n++ {
			await(&round, n)
			for range n % 64 {
				rival.Load()
			}
			promoted = rival.CompareAndSwap(words[1]|slotTentative, words[1]|slotLive)
			done.Store(n)
		}
	})
	killed := 0
	for n := uint32(1); n <= rounds; n++ {
		rival.Store(words[1] | slotTentative)
		round.Store(n)
		for range n / 64 % 16 {
			mine.slot.Load()
		}
		other, wins := table.contest(k, h, mine, words[0], false)
		await(&done, n)
		if wins == promoted || !wins && other != words[1]|slotLive {
			t.Errorf("round %d: won %v, the rival promoted %v; met %x", n, wins, promoted, other)
			round.Store(rounds)
			break
		}
		if wins {
			killed++
		}
	}
	running.Wait()
	if killed == 0 || killed == rounds {
		t.Errorf("the rival was killed in %d of %d rounds: they never met", killed, rounds)
	}
}

// await spins until the counter has come to n.
func await(counter *atomic.Uint32, n uint32) {
	for spin := 0; counter.Load() < n; spin++ {
		if spin%256 == 255 {
			runtime.Gosched()
		}
	}
}
