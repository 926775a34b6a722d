package conntrack

import "sync/atomic"

// pool hands out the ids of one kind of record: first those that came back,
// then those that were never used, so that a table costs nothing to make and
// touches no more memory than it needs.
//
// What came back is a Treiber stack threaded through the records. Its head
// carries a count of all operations so far: a swap of the head that succeeds
// proves that nothing happened to the stack since the head was read, and so that
// the links that were followed meanwhile were its links.
type pool struct {
	_     [cacheLine]byte
	head  atomic.Uint64 // operations << 32 | id of the first, 0 = none
	_     [cacheLine - 8]byte
	fresh atomic.Uint32 // ids up to this one were handed out at least once
	_     [cacheLine - 4]byte

	capacity uint32
	batch    int // ids that a worker takes at once
	link     func(id uint32) *atomic.Uint32
}

// stashSize is the most free ids that a worker keeps to itself.
const stashSize = 32

// newPool is a pool of the ids 1 to capacity. link finds a record's link.
func newPool(capacity, workers int, link func(uint32) *atomic.Uint32) *pool {
	p := &pool{capacity: uint32(capacity), link: link}
	// What lies in the stashes of others cannot be used: keep it under an
	// eighth of a small table.
	p.batch = min(stashSize, max(1, capacity/(8*workers)))
	return p
}

// pop takes up to len(ids) ids.
func (p *pool) pop(ids []uint32) int {
	for {
		head := p.head.Load()
		next, n := uint32(head), 0
		// A link read while others pop and push may be stale, but is always
		// an id: the swap below tells.
		for n < len(ids) && next != 0 {
			ids[n] = next
			n++
			next = p.link(next).Load()
		}
		if n == 0 {
			return p.popFresh(ids)
		}
		if p.head.CompareAndSwap(head, (head>>32+1)<<32|uint64(next)) {
			return n
		}
	}
}

// popFresh takes ids that were never used.
func (p *pool) popFresh(ids []uint32) int {
	for {
		old := p.fresh.Load()
		n := min(uint32(len(ids)), p.capacity-old)
		if n == 0 {
			return 0
		}
		if p.fresh.CompareAndSwap(old, old+n) {
			for i := range ids[:n] {
				ids[i] = old + 1 + uint32(i)
			}
			return int(n)
		}
	}
}

// push gives back a chain of linked records.
func (p *pool) push(first, last uint32) {
	for {
		head := p.head.Load()
		p.link(last).Store(uint32(head))
		if p.head.CompareAndSwap(head, (head>>32+1)<<32|uint64(first)) {
			return
		}
	}
}

// batchOf is a chain of records that ended in one epoch.
type batchOf struct {
	epoch       uint64
	first, last uint32
	n           int
}

// stash is one worker's share of a pool: ids ready for use, and ended records
// that some worker may still be looking at. Records in limbo stay as they are
// except for their link.
type stash struct {
	pool  *pool
	n     int
	ids   [stashSize]uint32
	limbo [3]batchOf // by epoch modulo 3
}

// take returns the id of a free record that nobody looks at, or 0.
func (s *stash) take() uint32 {
	if s.n == 0 {
		if s.n = s.pool.pop(s.ids[:s.pool.batch]); s.n == 0 {
			return 0
		}
	}
	s.n--
	return s.ids[s.n]
}

// after returns the id that take will most likely return after n others, or 0.
func (s *stash) after(n int) uint32 {
	if s.n <= n && s.n < s.pool.batch {
		// To the other end: those that were looked at come first.
		var more [stashSize]uint32
		got := s.pool.pop(more[:s.pool.batch-s.n])
		copy(s.ids[got:], s.ids[:s.n])
		copy(s.ids[:], more[:got])
		s.n += got
	}
	if s.n <= n {
		return 0
	}
	return s.ids[s.n-1-n]
}

// untake gives back an id that take returned and that nobody else has seen.
func (s *stash) untake(id uint32) {
	if s.n == len(s.ids) {
		s.pool.push(id, id)
		return
	}
	s.ids[s.n] = id
	s.n++
}

// bury puts a record that no index entry leads to any more into limbo. epoch is
// the global one, read after the last entry was removed.
func (s *stash) bury(id uint32, epoch uint64) {
	b := &s.limbo[epoch%3]
	if b.epoch != epoch {
		// Three epochs old or more: free since then.
		s.release(b)
		b.epoch = epoch
	}
	s.pool.link(id).Store(b.first)
	if b.first == 0 {
		b.last = id
	}
	b.first = id
	b.n++
}

// reclaim frees what nobody can be looking at in this epoch. It returns how many
// records remain in limbo.
func (s *stash) reclaim(epoch uint64) int {
	left := 0
	for i := range s.limbo {
		b := &s.limbo[i]
		if b.epoch+2 <= epoch {
			s.release(b)
		}
		left += b.n
	}
	return left
}

func (s *stash) release(b *batchOf) {
	if b.n > 0 {
		s.pool.push(b.first, b.last)
		*b = batchOf{}
	}
}

// buried is the number of records in limbo.
func (s *stash) buried() int { return s.limbo[0].n + s.limbo[1].n + s.limbo[2].n }
