package xdp

import "sync/atomic"

// Desc is struct xdp_desc: a frame, or part of one, in a UMEM.
type Desc struct {
	Addr    uint64 // of the first byte, from the start of the UMEM
	Len     uint32 // bytes
	Options uint32
}

// ring is user space's end of one of the four queues shared with the kernel.
// Exactly one side produces and the other consumes: user space produces into
// fill and TX rings, and consumes from RX and completion rings.
//
// Indices run freely over 2^32; an index's slot is its low bits. Each side owns
// one shared index and reads the other's. It works on private copies and touches
// the shared words, which bounce between two cores' caches, once a burst:
// produced and consumed are exact for the side's own index, and lag behind for
// the other's until refreshed.
//
// The order that both sides rely on is drawn at the head of net/xdp/xsk_queue.h:
//
//	producer                         consumer
//	if (LOAD ->consumer) {  (A)      LOAD.acq ->producer  (C)
//	   STORE $data                   LOAD $data
//	   STORE.rel ->producer (B)      STORE.rel ->consumer (D)
//	}
//
// A pairs with D and B with C. sync/atomic's loads and stores are sequentially
// consistent in Go's memory model, thus at least acquire and release.
type ring[T Desc | uint64] struct {
	producer *uint32 // shared, written by the producer only
	consumer *uint32 // shared, written by the consumer only
	flags    *uint32 // shared, written by the kernel only
	entries  []T     // shared; a power of two of them
	mask     uint32

	produced uint32
	consumed uint32
}

// newRing lays a ring over shared memory and takes up the indices found there.
// The number of entries must be a power of two.
func newRing[T Desc | uint64](producer, consumer, flags *uint32, entries []T) ring[T] {
	return ring[T]{
		producer: producer,
		consumer: consumer,
		flags:    flags,
		entries:  entries,
		mask:     uint32(len(entries)) - 1,
		produced: atomic.LoadUint32(producer),
		consumed: atomic.LoadUint32(consumer),
	}
}

// room returns how many of want entries the producer can write now.
func (r *ring[T]) room(want int) int {
	free := uint32(len(r.entries)) - (r.produced - r.consumed)
	if free < uint32(want) {
		// A: pairs with the kernel's smp_store_release of ->consumer in
		// __xskq_cons_release (D). What we then write into a freed slot
		// cannot overtake the kernel's last read of it.
		r.consumed = atomic.LoadUint32(r.consumer)
		free = uint32(len(r.entries)) - (r.produced - r.consumed)
	}
	return min(int(free), want)
}

// put writes the i-th entry after those submitted. i must be less than what
// room returned.
func (r *ring[T]) put(i int, v T) { r.entries[(r.produced+uint32(i))&r.mask] = v }

// submit hands n entries written by put to the consumer.
func (r *ring[T]) submit(n int) {
	r.produced += uint32(n)
	// B: pairs with the kernel's smp_load_acquire of ->producer in
	// __xskq_cons_peek (C). The entries are visible before the index is.
	atomic.StoreUint32(r.producer, r.produced)
}

// ready returns how many of want entries the consumer can read now.
func (r *ring[T]) ready(want int) int {
	n := r.produced - r.consumed
	if n < uint32(want) {
		// C: pairs with the kernel's smp_store_release of ->producer in
		// __xskq_prod_submit (B). Having seen the index we see the entries,
		// and the frames that they name.
		r.produced = atomic.LoadUint32(r.producer)
		n = r.produced - r.consumed
	}
	return min(int(n), want)
}

// waiting returns how many entries there are to read. Where they are known to be
// fewer than few, it does not ask anew: ready does, before long.
func (r *ring[T]) waiting(few int) int {
	n := int(r.produced - r.consumed)
	if n < few {
		return n
	}
	r.produced = atomic.LoadUint32(r.producer) // C: as in ready
	return int(r.produced - r.consumed)
}

// get reads the i-th entry after those released. i must be less than what ready
// returned.
func (r *ring[T]) get(i int) T { return r.entries[(r.consumed+uint32(i))&r.mask] }

// release gives n entries read by get back to the producer.
func (r *ring[T]) release(n int) {
	r.consumed += uint32(n)
	// D: pairs with the kernel's load of ->consumer in xskq_prod_nb_free and
	// the control dependency on it (A). Our reads are done before the kernel
	// can write the slots again.
	atomic.StoreUint32(r.consumer, r.consumed)
}

// pending returns how many submitted entries the consumer has not taken yet. A
// kernel publishes its index when it looks for more, so this can be too high
// after it stopped early, never too low.
func (r *ring[T]) pending() int {
	// A: as in room.
	r.consumed = atomic.LoadUint32(r.consumer)
	return int(r.produced - r.consumed)
}

// needWakeup reports whether the kernel asks for a system call before it goes
// on with this ring (XDP_RING_NEED_WAKEUP).
//
// A driver sets the flag and then looks at the ring once more before it sleeps.
// We store ->producer and then load the flag. With sequentially consistent
// atomics one of the two sees the other's store, so no wake-up is lost: the
// reason for which submit must not be a weaker store.
func (r *ring[T]) needWakeup() bool {
	return atomic.LoadUint32(r.flags)&ringNeedWakeup != 0
}
