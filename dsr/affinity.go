package dsr

import (
	"math/bits"
	"sync/atomic"

	"sluice/conntrack"
)

// Affinity remembers which backend a client of a service was served by. It has
// room for a fixed number of clients; where it is full, the one that was not seen
// for the longest time among a few is forgotten. Any number of workers use it at
// once, without a lock, and of those that note different backends for one client
// at the same time, all come to the same one.
type Affinity struct {
	seed  uint64
	sets  []affinitySet
	shift uint
}

// ways is how many places a client's entry can have.
const ways = 4

// affinitySet is one cache line. An entry is a word, and the time when the client
// was last seen, which is stored before the word:
//
//	bits 32-63 client | 16-31 service | 4-15 the backend's slot | 0-3 version
//
// A new entry is announced in op before it gets a place: were there two of a
// client's on the way to different places, both would stay. Whoever finds one
// announced gives it its place before anything else. The version is another one
// for every entry of the set, so that a compare-and-swap by somebody who was late
// does not take an entry for its predecessor.
type affinitySet struct {
	words   [ways]atomic.Uint64 // 0 = free
	op      atomic.Uint64       // the entry that gets a place; 0 = none
	seen    [ways]atomic.Uint32 // Tick
	version atomic.Uint32
	_       uint32
}

const (
	slotBits    = 12
	versionBits = 4

	// MaxBackends is how many backends a service can have.
	MaxBackends = 1 << slotBits
)

// affinityKey is what an entry is found by: the upper bits of its word.
func affinityKey(s ServiceID, client uint32) uint64 { return uint64(client)<<16 | uint64(s) }

func keyOf(word uint64) uint64  { return word >> (slotBits + versionBits) }
func slotOf(word uint64) uint16 { return uint16(word>>versionBits) & (MaxBackends - 1) }

// NewAffinity has room for at least n clients, 20 bytes each. seed is random, so
// that nobody can choose whom to displace.
func NewAffinity(n int, seed uint64) *Affinity {
	sets := 1
	for sets*ways < n {
		sets *= 2
	}
	return &Affinity{seed: seed, sets: make([]affinitySet, sets), shift: uint(64 - bits.TrailingZeros(uint(sets)))}
}

func (a *Affinity) set(key uint64) *affinitySet {
	hi, lo := bits.Mul64(key^a.seed, 0x9e3779b97f4a7c15)
	h := (hi ^ lo) * 0xff51afd7ed558ccd
	return &a.sets[h>>a.shift&uint64(len(a.sets)-1)]
}

// find returns the place and the word of a key's entry; word is 0 where it has
// none.
func (t *affinitySet) find(key uint64) (at int, word uint64) {
	for i := range t.words {
		if w := t.words[i].Load(); keyOf(w) == key {
			return i, w
		}
	}
	return 0, 0
}

// age is for how long the client of entry i was not seen. A worker's clock can be
// behind that of the one that saw it.
func (t *affinitySet) age(i int, now conntrack.Tick) conntrack.Tick {
	return conntrack.Tick(max(0, int32(uint32(now)-t.seen[i].Load())))
}

// renew notes that the client of entry i is there, unless it was away for longer
// than the time-out. Of two workers on either side of that moment one decides for
// both: whoever finds the time-out over makes the client a tick older, by
// compare-and-swap, and who comes later with a clock that is behind finds it so.
func (t *affinitySet) renew(i int, timeout, now conntrack.Tick) bool {
	for {
		seen := t.seen[i].Load()
		switch gone := int32(uint32(now) - seen); {
		case gone <= 0:
			return true
		case gone >= int32(timeout):
			if t.seen[i].CompareAndSwap(seen, seen-1) {
				return false
			}
		case t.seen[i].CompareAndSwap(seen, uint32(now)):
			return true
		}
	}
}

// agree gives a key that was found to have no entry one with this slot, and
// returns the slot of the entry that it has then: another worker's, if that was
// first.
func (t *affinitySet) agree(key uint64, slot uint16, now conntrack.Tick) uint16 {
	mine := key<<(slotBits+versionBits) | uint64(slot)<<versionBits | uint64(t.version.Add(1)&(1<<versionBits-1))
	for {
		word := t.op.Load()
		if word == 0 {
			if !t.op.CompareAndSwap(0, mine) {
				continue // somebody was faster: help
			}
			word = mine
		}
		if stands := t.place(word, now); keyOf(word) == key {
			return slotOf(stands)
		}
	}
}

// place gives an announced entry a place, unless its key has an entry already, and
// returns that which stands.
func (t *affinitySet) place(word uint64, now conntrack.Tick) (stands uint64) {
	for t.op.Load() == word {
		if _, stands = t.find(keyOf(word)); stands != 0 {
			break
		}
		at, old := t.victim(now)
		t.seen[at].Store(uint32(now))
		if t.words[at].CompareAndSwap(old, word) {
			stands = word
			break
		}
	}
	t.op.CompareAndSwap(word, 0)
	if stands == 0 {
		_, stands = t.find(keyOf(word))
	}
	if stands == 0 {
		return word // placed by another, and displaced since
	}
	return stands
}

// victim is the place for a new entry: a free one, or else that of the client that
// was not seen for the longest time; and the word that is there.
func (t *affinitySet) victim(now conntrack.Tick) (at int, word uint64) {
	oldest := conntrack.Tick(0)
	for i := range t.words {
		w := t.words[i].Load()
		if w == 0 {
			return i, 0
		}
		if age := t.age(i, now); age >= oldest {
			at, word, oldest = i, w, age
		}
	}
	return at, word
}

// forget drops what is known of the clients of services that f reports true for.
func (a *Affinity) forget(f func(ServiceID) bool) {
	for i := range a.sets {
		for j := range a.sets[i].words {
			w := &a.sets[i].words[j]
			if word := w.Load(); word != 0 && f(ServiceID(keyOf(word))) {
				w.CompareAndSwap(word, 0)
			}
		}
	}
}
