package fragment

import "sync/atomic"

const (
	inboxSize = 64 // fragments on their way to a worker: a datagram of the longest kind; a power of two

	// MaxFrame is the longest frame that is kept or handed over, in bytes: what
	// a UMEM frame holds at most.
	MaxFrame = 4096
)

// Frame is a copy of a received frame.
type Frame struct {
	In     uint8  // the port that it arrived on
	hash   uint64 // of its datagram
	length uint16
	next   uint16 // in the list it is on; see hold
	bytes  [MaxFrame]byte
}

// Bytes are the frame's.
func (f *Frame) Bytes() []byte { return f.bytes[:f.length] }

// Hash is that of the frame's datagram.
func (f *Frame) Hash() uint64 { return f.hash }

func (f *Frame) fill(in uint8, hash uint64, frame []byte) {
	f.In, f.hash = in, hash
	f.length = uint16(copy(f.bytes[:], frame))
}

// Inbox is a bounded ring of copied frames, with any number of producers and one
// consumer, after Vyukov's bounded queue: a slot's turn says whose it is. For the
// producer of number n it is n when the slot is free and n+1 when it is full; the
// consumer makes it n+inboxSize for whoever comes next. The load that sees a turn
// sees what was stored before it (Go's atomics are sequentially consistent).
type Inbox struct {
	tail  atomic.Uint64 // next to be written
	_     [56]byte      // the two ends do not share a cache line
	head  uint64        // next to be read: the consumer's own
	_     [56]byte
	turns [inboxSize]atomic.Uint64
	slots [inboxSize]Frame
}

func (b *Inbox) init() {
	for i := range b.turns {
		b.turns[i].Store(uint64(i))
	}
}

// Put copies a frame of the datagram with that hash into the inbox. It reports
// false where there is no room.
func (b *Inbox) Put(in uint8, hash uint64, frame []byte) bool {
	if len(frame) > MaxFrame {
		return false
	}
	for {
		n := b.tail.Load()
		turn := b.turns[n%inboxSize].Load()
		switch {
		case turn < n: // not read yet: full
			return false
		case turn > n: // another producer was faster
		case b.tail.CompareAndSwap(n, n+1):
			b.slots[n%inboxSize].fill(in, hash, frame)
			b.turns[n%inboxSize].Store(n + 1)
			return true
		}
	}
}

// First is the oldest frame, or nil. It is the consumer's until Done.
func (b *Inbox) First() *Frame {
	if b.turns[b.head%inboxSize].Load() != b.head+1 {
		return nil
	}
	return &b.slots[b.head%inboxSize]
}

// Done gives the slot of the oldest frame back.
func (b *Inbox) Done() {
	b.turns[b.head%inboxSize].Store(b.head + inboxSize)
	b.head++
}
