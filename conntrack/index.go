package conntrack

import (
	"math/bits"
	"sync/atomic"
)

// bucket is one cache line of the index: seven slots and the number of entries
// that found no place here and went further along their chain. A look-up that
// finds overflow 0 need not go on.
type bucket struct {
	overflow atomic.Uint64
	slot     [slotsPerBucket]atomic.Uint64
}

const (
	slotsPerBucket = 7

	// maxChain is how many buckets an entry may be in. At the 62 % that a
	// full table reaches, one bucket in eight is full: that sixteen chosen by
	// the hash all are does not happen.
	maxChain = 16
)

// A slot is one word, so that it changes as a whole:
//
//	bits  0-31  record id
//	      32-33 kind
//	      34-35 state
//	      36-63 tag: the low bits of the hash
//
// An empty slot is 0.
const (
	kindOriginal uint64 = iota << 32
	kindReply
	kindMapping
	kindSource

	kindShift = 32
	kindMask  = 3 << kindShift

	// classBit tells flows from the rest. A key that is one flow's original
	// tuple cannot be another's reply tuple, so the two are one class.
	classBit = 2 << kindShift

	slotTentative uint64 = 1 << 34 // claimed, not yet decided: look-ups pass over it
	slotLive      uint64 = 2 << 34
	slotState     uint64 = 3 << 34

	tagShift = 36

	// sameMask picks what an entry has in common with another of the same
	// key: tag and class. For mappings and sources, which differ in the low
	// bit of the kind, the key's domain is in the tag.
	sameMask  uint64 = (1<<(64-tagShift)-1)<<tagShift | classBit
	foundMask        = sameMask | slotState
)

// tag is the part of a slot word that comes from the hash.
func tag(h uint64) uint64 { return h << tagShift }

func slotID(word uint64) uint32 { return uint32(word) }

// slotDirection is the direction of packets that found a flow by this slot.
func slotDirection(word uint64) Direction { return Direction(word >> kindShift & 1) }

// chain walks the buckets that an entry with some hash may be in: the first by
// the high bits of the hash, the next by a stride made of all of it.
type chain struct {
	at, stride, n uint32
	step          int // buckets before this one
}

func (t *Table) chain(h uint64) chain {
	return chain{at: reduce(h, t.nBuckets), n: t.nBuckets}
}

// next goes on to the next bucket. The stride is worked out late, since nearly
// every walk ends in its first bucket. n is prime: no bucket comes twice.
func (c *chain) next(h uint64) bool {
	if c.step++; c.step == maxChain {
		return false
	}
	if c.stride == 0 {
		c.stride = 1 + reduce(bits.RotateLeft64(h*golden, 32), c.n-1)
	}
	if c.at += c.stride; c.at >= c.n {
		c.at -= c.n
	}
	return true
}

// holds reports whether the record that word refers to has key k. It may be
// called for any word that was read from a slot since the last Quiesce: what
// identifies the record does not change before then, even if the slot does.
func (t *Table) holds(word uint64, k key) bool {
	id := slotID(word)
	switch word & kindMask {
	case kindOriginal, kindReply:
		return t.flows[id].tuple[slotDirection(word)].key() == k
	case kindMapping:
		return t.mappings[id].has(k)
	default:
		return t.sources[id].key() == k
	}
}

// find returns the live slot word of key k, whose hash is h, or 0. class is the
// kind, of which only the class counts.
//
// An entry never moves. Where the walk sees none although there was always one,
// that one was removed and another inserted meanwhile, and between the two there
// was none.
func (t *Table) find(k key, h, class uint64) uint64 {
	want := (tag(h) | slotLive | class) & foundMask
	c := t.chain(h)
	for {
		b := &t.buckets[c.at]
		for i := range b.slot {
			if word := b.slot[i].Load(); word&foundMask == want && t.holds(word, k) {
				return word
			}
		}
		if b.overflow.Load() == 0 || !c.next(h) {
			return 0
		}
	}
}
