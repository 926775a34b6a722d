package daemon

import (
	"encoding/binary"
	"testing"
	"time"

	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/verdict"
	"sluice/xdp"
)

func newPuntRing() *puntRing {
	able := [gateway.MaxPorts]bool{1: true, 2: true}
	return &puntRing{bell: &doorbell{wake: make(chan struct{}, 1)}, able: &able}
}

func TestPuntRingIsBounded(t *testing.T) {
	r := newPuntRing()
	frame := make([]byte, 100)
	for i := range puntSlots {
		frame[0] = byte(i)
		if !r.Punt(1, frame, verdict.HostOwned) {
			t.Fatalf("refused frame %d of %d", i, puntSlots)
		}
	}
	if r.Punt(1, frame, verdict.HostOwned) {
		t.Error("took more than there is room for")
	}
	frame[0] = 99 // the ring has copies
	for i := range puntSlots {
		s := r.first()
		if s == nil || s.bytes[0] != byte(i) || s.length != 100 || s.in != 1 || s.reason != verdict.HostOwned {
			t.Fatalf("frame %d is %v", i, s)
		}
		r.done()
	}
	if r.first() != nil {
		t.Error("more came out than went in")
	}
}

func TestPuntRingRefusals(t *testing.T) {
	r := newPuntRing()
	if r.Punt(0, make([]byte, 60), verdict.HostOwned) {
		t.Error("took a frame of a port that cannot have it back")
	}
	if r.Punt(1, make([]byte, xdp.MaxPunt+1), verdict.HostOwned) {
		t.Error("took a frame that the kernel would not take")
	}
	if !r.Punt(1, make([]byte, xdp.MaxPunt), verdict.HostOwned) {
		t.Error("refused the longest frame")
	}
}

// TestPuntRingUnderTraffic has a worker and the goroutine at work at once: every
// frame taken comes out whole, in order, once, and none waits for another to
// wake its reader.
func TestPuntRingUnderTraffic(t *testing.T) {
	const frames = 20_000
	r := newPuntRing()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for next := uint64(0); next < frames; {
			s := r.first()
			if s == nil {
				r.bell.asleep.Store(true)
				if r.first() == nil {
					select {
					case <-r.bell.wake:
					case <-time.After(5 * time.Second):
						t.Errorf("asleep with %d of %d frames seen", next, frames)
						return
					}
				}
				continue
			}
			for i := 0; i+8 <= int(s.length); i += 8 {
				if got := binary.LittleEndian.Uint64(s.bytes[i:]); got != next {
					t.Errorf("frame %d has %d at %d", next, got, i)
					return
				}
			}
			next++
			r.done()
		}
	}()
	frame := make([]byte, 256)
	for i := uint64(0); i < frames; {
		n := 8 * (1 + int(i)%32)
		for j := 0; j < n; j += 8 {
			binary.LittleEndian.PutUint64(frame[j:], i)
		}
		select {
		case <-done:
			t.FailNow()
		default:
		}
		if r.Punt(fib.PortID(1+i%2), frame[:n], verdict.KernelRoute) {
			i++
			if i%1000 == 0 {
				time.Sleep(time.Millisecond) // lets the reader fall asleep
			}
		}
	}
	<-done
}

func TestPuntDoesNotAllocate(t *testing.T) {
	r := newPuntRing()
	var p gateway.Punter = r
	frame := make([]byte, 1500)
	if n := testing.AllocsPerRun(1000, func() {
		r.bell.asleep.Store(true)
		if !p.Punt(1, frame, verdict.HostOwned) {
			t.Fatal("refused")
		}
		r.done()
	}); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// TestPuntAllowance: whoever always wants more gets puntLimit a second, however
// often it asks, and after a long silence no more than puntBurst at once.
func TestPuntAllowance(t *testing.T) {
	start := time.Now()
	for _, step := range []time.Duration{37 * time.Microsecond, puntPause, 4 * time.Millisecond} {
		a := allowance{filled: start}
		got := 0
		now := start
		for ; now.Sub(start) < 10*time.Second; now = now.Add(step) {
			a.fill(now)
			got += a.tokens
			a.tokens = 0
		}
		if want := int(now.Sub(start) / (time.Second / puntLimit)); got < want-100 || got > want {
			t.Errorf("%d in 10 s, asked every %v, want %d", got, step, want)
		}
		a.fill(now.Add(365 * 24 * time.Hour))
		if a.tokens != puntBurst {
			t.Errorf("%d saved up in a year, want %d", a.tokens, puntBurst)
		}
	}
}

func BenchmarkPuntRing(b *testing.B) {
	r := newPuntRing()
	frame := make([]byte, 1500)
	for b.Loop() {
		r.Punt(1, frame, verdict.HostOwned)
		r.done()
	}
}
