package daemon

import (
	"sync/atomic"

	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// puntSlots is how many frames of a worker can wait for the kernel: what the
// limit lets pass in 6 ms. A power of two.
const puntSlots = 64

// puntRing carries frames from one worker to the punting goroutine: a ring with
// one producer and one consumer, whose slots hold copies, so that the worker's
// frame goes back to its own memory at once.
//
// head and tail count frames and never wrap in practice. A slot belongs to the
// consumer from the producer's store of tail on that covers it, and to the
// producer from the consumer's store of head on. Go's atomics are sequentially
// consistent, so that a slot's contents are seen with the count that covers them.
type puntRing struct {
	bell *doorbell
	able *[gateway.MaxPorts]bool // ports whose device can have frames back

	_    [64]byte // the two ends do not share a cache line
	tail atomic.Uint64
	_    [56]byte
	head atomic.Uint64
	_    [56]byte

	slots [puntSlots]puntSlot
}

// puntSlot is a frame with what it was to be dropped for.
type puntSlot struct {
	in     fib.PortID
	reason verdict.Reason
	length uint16
	bytes  [xdp.MaxPunt]byte
}

// Punt implements gateway.Punter for the worker that the ring belongs to.
func (r *puntRing) Punt(in fib.PortID, frame []byte, reason verdict.Reason) bool {
	tail := r.tail.Load()
	if tail-r.head.Load() == puntSlots || len(frame) > xdp.MaxPunt || !r.able[in] {
		return false
	}
	s := &r.slots[tail%puntSlots]
	s.in, s.reason, s.length = in, reason, uint16(copy(s.bytes[:], frame))
	r.tail.Store(tail + 1)
	r.bell.ring()
	return true
}

// first is the oldest frame, or nil. It is the caller's until done.
func (r *puntRing) first() *puntSlot {
	head := r.head.Load()
	if head == r.tail.Load() {
		return nil
	}
	return &r.slots[head%puntSlots]
}

// done gives the slot of the oldest frame back.
func (r *puntRing) done() { r.head.Store(r.head.Load() + 1) }

// doorbell wakes the punting goroutine. Only the worker that finds it asleep
// sends, and the channel has room for that one, so that no worker ever waits.
type doorbell struct {
	asleep atomic.Bool
	wake   chan struct{}
}

func (b *doorbell) ring() {
	if b.asleep.Load() && b.asleep.CompareAndSwap(true, false) {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}
