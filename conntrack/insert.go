package conntrack

import (
	"runtime"
	"sync/atomic"
)

// outcome is how an insert ended.
type outcome uint8

const (
	inserted outcome = iota
	exists           // another live entry has the key
	busy             // that entry's flow is not complete yet
	full             // no slot on the whole chain
)

// patience is how many rounds one gives way to another before assuming that its
// goroutine is not running. A round is some tens of nanoseconds; what one waits
// for takes a few hundred.
const patience = 256

// pause lets the one that is waited for go on.
func pause(try int) {
	// Every round once it has taken this long: the other one was preempted,
	// perhaps on this very processor.
	if try%16 == 15 {
		runtime.Gosched()
	}
}

// insert makes word the one live entry of key k, or finds the one there is. Many
// goroutines may try with the same key at once, each with a record of its own;
// exactly one gets inserted and the others exists.
//
//  1. If there is a live entry, that is the answer.
//  2. Claim: swap an empty slot of the chain to our word, tentative.
//  3. Contest: go over the whole chain for other entries of the same key.
//     live                        withdraw, that is the answer
//     tentative, higher position  kill it: swap its slot to empty
//     tentative, lower position   withdraw and begin again
//  4. Promote: swap our slot from tentative to live. This fails if somebody
//     killed us: begin again.
//
// At most one: suppose A and B both promoted, with neither removed meanwhile.
// Consider the claim that each promoted. Claims are atomic, so one was later,
// say B's. B contested after its claim, so A's slot was claimed when B came by,
// and B did come by: A counted itself in the overflow of every bucket before its
// own before it claimed, so B's walk did not end earlier. A's slot was tentative
// or live then, since it was promoted later or had been. If live, B withdrew. If
// tentative and higher, B killed it, and A's promotion failed, or B's kill failed
// because A was promoted first, and B withdrew. If tentative and lower, B
// withdrew. Each contradicts.
//
// At least one: an entry is withdrawn or killed only for another that is live,
// or tentative and lower. Of the tentative entries of a key none is lower than
// the lowest, and nobody but a live one stops it.
//
// That is unless its goroutine stands still before it promotes. Then the others
// would wait for it; so after some rounds they kill entries at lower positions
// as well. The proof of "at most one" did not use that they do not.
//
// A slot that held the same word before (ABA): only its owner writes a word with
// its record's id. A kill that hits a later claim of the same record costs that
// one a round. A record whose id was ever in a slot is not reused before every
// worker has passed a burst boundary.
func (t *Table) insert(k key, h, word uint64) (other uint64, out outcome) {
	for try := 0; ; try++ {
		if other := t.find(k, h, word&classBit); other != 0 {
			return other, exists
		}
		mine, ok := t.claim(h, word|slotTentative)
		if !ok {
			return 0, full
		}
		other, wins := t.contest(k, h, mine, word, try >= patience)
		if wins && mine.slot.CompareAndSwap(word|slotTentative, word|slotLive) {
			return 0, inserted
		}
		if !wins && mine.slot.CompareAndSwap(word|slotTentative, 0) {
			t.uncount(h, mine.step)
		}
		if other != 0 {
			return other, exists
		}
		pause(try)
	}
}

// place is a slot and where it is.
type place struct {
	slot     *atomic.Uint64
	position uint64 // in the whole index: what "lower" means
	step     int    // of the chain
}

// claim swaps word into the first empty slot of the chain. A bucket is told
// that an entry goes further before the entry is there: whoever comes later and
// finds the count at 0 has come before the entry.
func (t *Table) claim(h, word uint64) (place, bool) {
	c := t.chain(h)
	for {
		b := &t.buckets[c.at]
		for i := range b.slot {
			if b.slot[i].Load() == 0 && b.slot[i].CompareAndSwap(0, word) {
				return place{&b.slot[i], uint64(c.at)<<3 | uint64(i), c.step}, true
			}
		}
		b.overflow.Add(1)
		if !c.next(h) {
			t.uncount(h, maxChain)
			return place{}, false
		}
	}
}

// uncount takes back the overflow counts of an entry that was steps buckets
// along its chain. It is called by whoever emptied the slot, after that.
func (t *Table) uncount(h uint64, steps int) {
	if steps == 0 {
		return
	}
	c := t.chain(h)
	for range steps {
		t.buckets[c.at].overflow.Add(^uint64(0))
		c.next(h)
	}
}

// contest is step 3 of insert for the entry at mine. It returns the live entry
// that was met, if any, and whether ours may be promoted.
func (t *Table) contest(k key, h uint64, mine place, word uint64, ruthless bool) (other uint64, wins bool) {
	want := (tag(h) | word) & sameMask
	c := t.chain(h)
	for {
		b := &t.buckets[c.at]
		for i := range b.slot {
			slot := &b.slot[i]
			v := slot.Load()
			if v&sameMask != want || v&slotState == 0 || slot == mine.slot || !t.holds(v, k) {
				continue
			}
			if v&slotState == slotTentative {
				if uint64(c.at)<<3|uint64(i) < mine.position && !ruthless {
					return 0, false
				}
				if slot.CompareAndSwap(v, 0) {
					t.uncount(h, c.step)
					continue
				}
				// Promoted, withdrawn, or killed by a third: and by now
				// perhaps another's.
				if v = slot.Load(); v&foundMask != want|slotLive || !t.holds(v, k) {
					continue
				}
			}
			return v, false
		}
		if b.overflow.Load() == 0 || !c.next(h) {
			return 0, true
		}
	}
}

// remove empties the slot that holds word, a live entry whose record has ended.
// The one that ended it does, and so may anyone who meets the entry first: one
// of them swaps the slot. No other entry can have come to the same word, since
// its record is not reused before the caller's next burst boundary.
func (t *Table) remove(h, word uint64) {
	c := t.chain(h)
	for {
		b := &t.buckets[c.at]
		for i := range b.slot {
			if b.slot[i].Load() == word && b.slot[i].CompareAndSwap(word, 0) {
				t.uncount(h, c.step)
				return
			}
		}
		if b.overflow.Load() == 0 || !c.next(h) {
			return
		}
	}
}
