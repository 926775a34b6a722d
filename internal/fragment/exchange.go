package fragment

import (
	"math/bits"
	"sync/atomic"
)

// Key names a datagram: what its fragments share of the IPv4 header (RFC 791).
type Key struct {
	Src, Dst uint32
	ID       uint16
	Proto    uint8
}

const (
	ownerSlots = 8192 // of an Exchange, a power of two: 32 KiB
	refBits    = 24   // of a slot; above them is the owner
	refMask    = 1<<refBits - 1
)

// MaxWorkers is how many workers can share an Exchange.
const MaxWorkers = 1 << (32 - refBits)

// Exchange says which worker has a datagram, and carries fragments there.
//
// A slot stands for all datagrams whose keys hash to it. It holds an owner and a
// number of references: one for each datagram that the owner's Store has, and one
// for each fragment that is being dealt with or on its way to the owner. While
// there are any, the owner stays; the first reference decides anew who that is. So
// two workers can never have the same datagram, without a record to look up, to
// lock or to run out of. Datagrams that meet in a slot by chance have one owner,
// which costs a copy and is otherwise harmless.
type Exchange struct {
	seed    [2]uint64
	slots   [ownerSlots]atomic.Uint32
	inboxes []Inbox
}

// NewExchange makes an exchange for a number of workers. Nobody outside may know
// the seed: it keeps others from aiming at a slot.
func NewExchange(workers int, seed [2]uint64) *Exchange {
	x := &Exchange{seed: seed}
	if workers > 1 { // nobody hands anything to himself
		x.inboxes = make([]Inbox, workers)
		for i := range x.inboxes {
			x.inboxes[i].init()
		}
	}
	return x
}

// Workers is how many can hand fragments to each other.
func (x *Exchange) Workers() int { return max(len(x.inboxes), 1) }

// Hash is a keyed hash, by folded multiplication (as wyhash does).
func (x *Exchange) Hash(k Key) uint64 {
	hi, lo := bits.Mul64((uint64(k.Src)<<32|uint64(k.Dst))^x.seed[0], (uint64(k.ID)<<8|uint64(k.Proto))^x.seed[1])
	return hi ^ lo
}

// Acquire takes a reference for a fragment that worker has in hand, and returns
// the worker that owns its datagram. Release gives it back, once the owner has
// dealt with the fragment.
func (x *Exchange) Acquire(hash uint64, worker int) (owner int) {
	slot := &x.slots[hash%ownerSlots]
	for {
		old := slot.Load()
		next := old + 1
		if old&refMask == 0 {
			next = uint32(worker)<<refBits | 1
		}
		// It fails only where another worker succeeds.
		if slot.CompareAndSwap(old, next) {
			return int(next >> refBits)
		}
	}
}

// retain takes one more reference; the caller is the owner and has one.
func (x *Exchange) retain(hash uint64) { x.slots[hash%ownerSlots].Add(1) }

// Release gives a reference back.
func (x *Exchange) Release(hash uint64) { x.slots[hash%ownerSlots].Add(^uint32(0)) }

// Inbox is where others hand fragments to worker, or nil where there are none.
func (x *Exchange) Inbox(worker int) *Inbox {
	if worker >= len(x.inboxes) {
		return nil
	}
	return &x.inboxes[worker]
}
