package dsr

import (
	"math/bits"
	"sync/atomic"

	"sluice/conntrack"
)

// Affinity remembers which backend a client of a service was served by. It has
// room for a fixed number of clients; where it is full, the one that was not seen
// for the longest time among a few is forgotten. Any number of workers use it at
// once.
type Affinity struct {
	seed  uint64
	sets  []affinitySet
	shift uint
}

// ways is how many places a client's entry can have: one cache line's.
const ways = 4

type affinitySet [ways]affinityEntry

// affinityEntry is written by whoever changed the key to affinityBusy. A reader
// that finds one and the same key before and after it read the value has that
// key's value; in the worst case, when three writers come between the two, that
// of another client, whose backend is then checked to be the service's.
type affinityEntry struct {
	key   atomic.Uint64 // service << 32 | client; 0 = free
	value atomic.Uint64 // backend << 32 | Tick last used
}

// affinityBusy is no key: services are numbered from 1.
const affinityBusy = 1

// NewAffinity has room for at least n clients, 16 bytes each. seed is random, so
// that nobody can choose whom to displace.
func NewAffinity(n int, seed uint64) *Affinity {
	sets := 1
	for sets*ways < n {
		sets *= 2
	}
	return &Affinity{seed: seed, sets: make([]affinitySet, sets), shift: uint(64 - bits.TrailingZeros(uint(sets)))}
}

func affinityKey(s ServiceID, client uint32) uint64 { return uint64(s)<<32 | uint64(client) }

func (a *Affinity) set(key uint64) *affinitySet {
	hi, lo := bits.Mul64(key^a.seed, 0x9e3779b97f4a7c15)
	h := (hi ^ lo) * 0xff51afd7ed558ccd
	return &a.sets[h>>a.shift&uint64(len(a.sets)-1)]
}

// find returns a client's backend, or 0 where it has none or was not served for
// longer than the timeout.
func (a *Affinity) find(s ServiceID, client uint32, timeout, now conntrack.Tick) BackendID {
	key := affinityKey(s, client)
	set := a.set(key)
	for i := range set {
		e := &set[i]
		if e.key.Load() != key {
			continue
		}
		v := e.value.Load()
		if e.key.Load() == key && now-conntrack.Tick(v) < timeout {
			return BackendID(v >> 32)
		}
	}
	return 0
}

// keep notes that a client was served by a backend just now. Where another worker
// is writing to the same place, nothing is noted: the next flow will be.
func (a *Affinity) keep(s ServiceID, client uint32, b BackendID, now conntrack.Tick) {
	key := affinityKey(s, client)
	set := a.set(key)
	victim, age := &set[0], conntrack.Tick(0)
	for i := range set {
		e := &set[i]
		old := e.key.Load()
		if old == key || old == 0 {
			victim = e
			break
		}
		if unused := now - conntrack.Tick(e.value.Load()); unused >= age {
			victim, age = e, unused
		}
	}
	old := victim.key.Load()
	if old == affinityBusy || !victim.key.CompareAndSwap(old, affinityBusy) {
		return
	}
	victim.value.Store(uint64(b)<<32 | uint64(now))
	victim.key.Store(key)
}
