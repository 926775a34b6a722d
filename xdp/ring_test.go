package xdp

import (
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// heapRing is a ring over ordinary memory, seen from both ends.
type heapRing[T Desc | uint64] struct {
	producer, consumer, flags uint32
	entries                   []T
}

// newHeapRing begins at the given index, as a ring that has run for long.
func newHeapRing[T Desc | uint64](size int, start uint32) *heapRing[T] {
	return &heapRing[T]{producer: start, consumer: start, entries: make([]T, size)}
}

func (h *heapRing[T]) end() ring[T] { return newRing(&h.producer, &h.consumer, &h.flags, h.entries) }

// TestRingAgainstModel compares both ends of a ring with a slice, from any
// index on, so that the indices wrap at 2^32.
func TestRingAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(0, 6).Draw(t, "log2 size")
		start := rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(1<<32-200, 1<<32-1)).Draw(t, "start")
		h := newHeapRing[uint64](size, start)
		producer, consumer := h.end(), h.end()

		var queue []uint64 // submitted, not released
		var next uint64
		t.Repeat(map[string]func(*rapid.T){
			"produce": func(t *rapid.T) {
				want := rapid.IntRange(0, 2*size).Draw(t, "want")
				n := producer.room(want)
				if exact := min(want, size-len(queue)); n != exact {
					t.Fatalf("room(%d) = %d with %d of %d queued", want, n, len(queue), size)
				}
				n = rapid.IntRange(0, n).Draw(t, "used")
				for i := range n {
					next++
					producer.put(i, next)
					queue = append(queue, next)
				}
				producer.submit(n)
			},
			"consume": func(t *rapid.T) {
				want := rapid.IntRange(0, 2*size).Draw(t, "want")
				n := consumer.ready(want)
				if exact := min(want, len(queue)); n != exact {
					t.Fatalf("ready(%d) = %d with %d queued", want, n, len(queue))
				}
				n = rapid.IntRange(0, n).Draw(t, "used")
				for i := range n {
					if v := consumer.get(i); v != queue[i] {
						t.Fatalf("entry %d = %d, want %d", i, v, queue[i])
					}
				}
				consumer.release(n)
				queue = queue[n:]
			},
			"take up": func(t *rapid.T) {
				// Either end can be laid anew over the same memory.
				if rapid.Bool().Draw(t, "producer") {
					producer = h.end()
				} else {
					consumer = h.end()
				}
			},
			"": func(t *rapid.T) {
				if p := producer.pending(); p != len(queue) {
					t.Fatalf("pending = %d, want %d", p, len(queue))
				}
				if d := h.producer - h.consumer; d != uint32(len(queue)) {
					t.Fatalf("shared indices are %d apart, want %d", d, len(queue))
				}
			},
		})
	})
}

// TestRingConcurrently runs a producer and a consumer over one memory, for the
// race detector and for the order of what arrives. The indices wrap on the way.
func TestRingConcurrently(t *testing.T) {
	const total = 300_000
	h := newHeapRing[Desc](64, 1<<32-total/2)
	var wg sync.WaitGroup
	wg.Go(func() {
		r := h.end()
		for sent := 0; sent < total; {
			n := r.room(min(17, total-sent))
			for i := range n {
				v := uint32(sent + i)
				r.put(i, Desc{Addr: uint64(v), Len: v, Options: ^v})
			}
			r.submit(n)
			if sent += n; n == 0 {
				runtime.Gosched()
			}
		}
	})
	wg.Go(func() {
		r := h.end()
		for got := 0; got < total; {
			n := r.ready(23)
			for i := range n {
				v := uint32(got + i)
				if d := r.get(i); d != (Desc{Addr: uint64(v), Len: v, Options: ^v}) {
					t.Errorf("entry %d is %+v", v, d)
					return
				}
			}
			r.release(n)
			if got += n; n == 0 {
				runtime.Gosched()
			}
		}
	})
	wg.Wait()
}

func TestRingNeedWakeup(t *testing.T) {
	h := newHeapRing[uint64](4, 0)
	r := h.end()
	if r.needWakeup() {
		t.Error("asks for a wake-up without the flag")
	}
	h.flags = ringNeedWakeup | 1<<7
	if !r.needWakeup() {
		t.Error("misses the flag")
	}
}

func BenchmarkRingBurst(b *testing.B) {
	h := newHeapRing[Desc](2048, 0)
	producer, consumer := h.end(), h.end()
	b.ReportAllocs()
	for b.Loop() {
		n := producer.room(64)
		for i := range n {
			producer.put(i, Desc{Addr: uint64(i), Len: 64})
		}
		producer.submit(n)
		n = consumer.ready(64)
		for i := range n {
			_ = consumer.get(i)
		}
		consumer.release(n)
	}
}
