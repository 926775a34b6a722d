package conntrack

import "math/bits"

// A port rests after the last flow of its last mapping has ended: packets of that
// flow are still on their way, and its peer may be in TIME-WAIT. Whoever got the
// port at once would get them (RFC 6888 REQ-8). The word of a resting port is
//
//	bits  0-15  when the rest is over, in seconds modulo 2^16
//	     16-30  the inside endpoint that had it, hashed
//	     31     restBit: ids of mappings are smaller
//
// The endpoint that had the port may have it back at once: its peers know it by
// that port. Another one may only where no port is left that does not rest, and
// then gets the one that has rested longest of those looked at: to refuse a flow
// for certain is worse than a collision that needs the same peer and a late
// packet. Linux, which rests no port, takes that risk always.
const (
	restBit = 1 << 31

	// waking is the word of a port whose bit is being cleared: nobody may claim
	// it before that is done, since its bit would be cleared, too.
	waking = 1<<32 - 1

	restTags = 1<<15 - 1 // the highest is waking's
)

// restWord is the word of a port that rests until then.
func restWord(tag uint32, until Tick) uint32 {
	return restBit | tag<<16 | uint32(uint16(until/TicksPerSecond))
}

// restLeft is for how many more seconds a port with this word rests; not
// positive when that is over.
func restLeft(word uint32, now Tick) int {
	return int(int16(uint16(word) - uint16(now/TicksPerSecond)))
}

// restTag is the hash of an inside endpoint.
func (t *Table) restTag(proto uint8, inside uint32, port uint16) uint32 {
	h := t.seed.hash(key{uint64(inside), uint64(port) | uint64(proto)<<16})
	hi, _ := bits.Mul64(h, restTags)
	return uint32(hi)
}

// lull ends a mapping's hold on a port and lets the port rest.
func (x *External) lull(space int, port uint16, id, word uint32) {
	x.ports[space][port].CompareAndSwap(id, word)
	x.resting[space].Add(1)
	x.mapped[space].Add(-1)
}

// reclaim takes a resting port for mapping id if its rest is over, if it was this
// endpoint's, or, early, in any case.
func (x *External) reclaim(space int, port uint16, id, tag uint32, now Tick, early bool) bool {
	word := x.ports[space][port].Load()
	if !reclaimable(word, tag, now) && !(early && word&restBit != 0 && word != waking) {
		return false
	}
	if x.barred(space, port) || !x.ports[space][port].CompareAndSwap(word, id) {
		return false
	}
	x.resting[space].Add(-1)
	x.mapped[space].Add(1)
	return true
}

func reclaimable(word, tag uint32, now Tick) bool {
	return word&restBit != 0 && word != waking && (word>>16&restTags == tag || restLeft(word, now) <= 0)
}

// Available reports whether the inside endpoint could have a port of x now: it is
// free, or rests from the endpoint's own use.
func (w *Worker) Available(x *External, proto uint8, port uint16, inside uint32, insidePort uint16, now Tick) bool {
	space, ok := portSpace(proto)
	if !ok || x.barred(space, port) {
		return false
	}
	word := x.ports[space][port].Load()
	return word == 0 || reclaimable(word, w.table.restTag(proto, inside, insidePort), now)
}

// restScan is how many ports LongestResting looks at from the first that rests:
// 16 KiB, some microseconds.
const restScan = 4096

// LongestResting returns a port of [lo, hi] that rests: of restScan ports from the
// first one after `from`, the one whose rest is over first.
func (x *External) LongestResting(proto uint8, from, lo, hi uint16, now Tick) (port uint16, ok bool) {
	space, known := portSpace(proto)
	if !known || lo > hi || x.resting[space].Load() == 0 {
		return 0, false
	}
	if from < lo || from > hi {
		from = lo
	}
	least, looked := 0, 0
	p := from
	for range int(hi-lo) + 1 {
		word := x.ports[space][p].Load()
		if word&restBit != 0 && word != waking && !x.barred(space, p) {
			if left := restLeft(word, now); !ok || left < least {
				port, least, ok = p, left, true
			}
		}
		if ok {
			if looked++; looked == restScan {
				break
			}
		}
		if p == hi {
			p = lo
		} else {
			p++
		}
	}
	return port, ok
}

// Resting reports whether the port rests.
func (x *External) Resting(proto uint8, port uint16) bool {
	space, ok := portSpace(proto)
	return ok && x.ports[space][port].Load()&restBit != 0
}

// wake frees the ports of 64 whose rest is over, or all that rest where the
// address is gone. word counts over the bitmap.
func (x *External) wake(word int, now Tick) {
	space, base := word/portWords, word%portWords*64
	slots := x.ports[space][base : base+64]
	gone := x.Gone()
	for i := range slots {
		v := slots[i].Load()
		if v&restBit == 0 || v == waking || !gone && restLeft(v, now) > 0 {
			continue
		}
		if slots[i].CompareAndSwap(v, waking) {
			x.unhold(space, uint16(base+i))
			slots[i].Store(0)
			x.resting[space].Add(-1)
		}
	}
}

// rests reports whether any port of x rests.
func (x *External) rests() bool {
	return x.resting[0].Load()|x.resting[1].Load()|x.resting[2].Load() != 0
}

// wakePorts looks at n words of the external addresses' bitmaps for ports whose
// rest is over. The workers share the place where it goes on.
func (t *Table) wakePorts(n int, now Tick) {
	list := t.externals.Load().list
	if len(list) == 0 {
		return
	}
	total := len(list) * HeldWords
	at := int(t.woken.Add(uint32(n))-uint32(n)) % total
	for range min(n, total) {
		if x := list[at/HeldWords]; x != nil && x.rests() {
			x.wake(at%HeldWords, now)
		}
		if at++; at == total {
			at = 0
		}
	}
}

// WakeAll frees every port whose rest is over.
func (t *Table) WakeAll(now Tick) {
	for _, x := range t.externals.Load().list {
		if x == nil || !x.rests() {
			continue
		}
		for word := range HeldWords {
			x.wake(word, now)
		}
	}
}
