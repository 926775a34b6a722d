package xdp

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newWaiter(t testing.TB, cfg WaiterConfig) *Waiter {
	t.Helper()
	w, err := NewWaiter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func TestWake(t *testing.T) {
	w := newWaiter(t, WaiterConfig{})
	// Before the sleep: it ends at once, once.
	for range 3 {
		if err := w.Wake(); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if !w.Sleep(time.Minute) {
		t.Error("not woken")
	}
	if w.Sleep(time.Millisecond) {
		t.Error("woken twice")
	}
	// During the sleep.
	time.AfterFunc(10*time.Millisecond, func() { w.Wake() })
	for !w.Sleep(time.Minute) { // a signal can end it as well
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("slept for %v", d)
	}
}

// TestSleepLasts: a sleep lasts for its time, also below poll's millisecond.
func TestSleepLasts(t *testing.T) {
	w := newWaiter(t, WaiterConfig{})
	for _, timeout := range []time.Duration{300 * time.Microsecond, 20 * time.Millisecond} {
		start := time.Now()
		for time.Since(start) < timeout {
			w.Sleep(timeout - time.Since(start))
		}
		if d := time.Since(start); d > timeout+time.Second {
			t.Errorf("%v for %v", d, timeout)
		}
	}
}

// TestSpinAdapts follows the length of the spin through the traffic.
func TestSpinAdapts(t *testing.T) {
	w := newWaiter(t, WaiterConfig{Spin: 80 * time.Microsecond})
	if !w.Idle(false) {
		t.Error("spins although it never was worth it")
	}
	// A sleep that ended soon makes the next wait a spin.
	w.Wake()
	for w.spin == 0 { // a loaded machine can make any sleep a long one
		w.Sleep(time.Second)
		w.Wake()
	}
	if w.spin != spinStart {
		t.Fatalf("spin of %v", w.spin)
	}
	// Spins that find work lengthen it, up to the limit.
	for _, want := range []time.Duration{20, 40, 80, 80} {
		if w.Idle(false) {
			t.Fatal("slept before the spin was over")
		}
		if w.Idle(true) {
			t.Fatal("slept with work")
		}
		if w.spin != want*time.Microsecond {
			t.Fatalf("spin of %v, want %v", w.spin, want*time.Microsecond)
		}
	}
	// Spins in vain shorten it, down to none.
	for _, want := range []time.Duration{40, 20, 10, 5, 2500, 0} {
		if want == 2500 {
			want = 2500 * time.Nanosecond
		} else {
			want *= time.Microsecond
		}
		start := time.Now()
		for !w.Idle(false) {
			if time.Since(start) > 10*time.Second {
				t.Fatal("spins on")
			}
		}
		if w.spin != want {
			t.Fatalf("spin of %v, want %v", w.spin, want)
		}
	}
	if !w.Idle(false) {
		t.Error("spins although it was in vain")
	}
}

func TestNeverSpin(t *testing.T) {
	w := newWaiter(t, WaiterConfig{Spin: -1})
	for range 10 {
		w.Wake()
		w.Sleep(time.Second)
		if w.Idle(true) || !w.Idle(false) {
			t.Fatal("it must sleep whenever there is no work, and only then")
		}
	}
}

// TestIdleBurnsNoCPU runs a worker's loop without traffic.
func TestIdleBurnsNoCPU(t *testing.T) {
	c := newChain(t, 256)
	w := newWaiter(t, WaiterConfig{Ports: c.g.ports})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	round := func() {
		n := c.g.forward(c.g.ports[0], c.g.ports[1])
		c.g.ports[0].Flush()
		c.g.ports[1].Flush()
		w.Wait(n > 0, 100*time.Millisecond)
	}
	for range 20 {
		c.a.send(t, c.a.ports[0], 0, 8, length)
		c.a.ports[0].Flush()
		round()
	}
	before, start := threadTime(t), time.Now()
	for time.Since(start) < time.Second {
		round()
	}
	used := threadTime(t) - before
	if share := float64(used) / float64(time.Since(start)); share > 0.01 {
		t.Errorf("idle for a second took %v of CPU, %.2f %%", used, 100*share)
	}
}

// threadTime is the CPU time of the calling thread.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// TestSleepWakesForFrames: a frame ends the sleep.
func TestSleepWakesForFrames(t *testing.T) {
	c := newChain(t, 256)
	w := newWaiter(t, WaiterConfig{Ports: c.g.ports})
	start := time.Now()
	sent := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() {
		defer close(sent)
		c.a.send(t, c.a.ports[0], 0, 1, length)
		c.a.ports[0].Flush()
	})
	got := 0
	for got == 0 && time.Since(start) < 10*time.Second {
		w.Sleep(5 * time.Second)
		got = c.g.forward(c.g.ports[0], c.g.ports[1])
	}
	if d := time.Since(start); got != 1 || d > 4*time.Second {
		t.Errorf("%d frames after %v", got, d)
	}
	<-sent
	c.g.ports[1].Flush()
	settle(t, c.g)
}

// TestPendingShortensSleep: frames that the kernel could not take are tried
// again within milliseconds, even if nothing arrives.
func TestPendingShortensSleep(t *testing.T) {
	u := heapUMEM(4)
	s, _, _, _, _ := heapSocket(u, 4)
	w := newWaiter(t, WaiterConfig{})
	w.SetPorts([]*Port{{tx: s, sockets: []*Socket{s}}})
	var d [1]Desc
	u.Allocate(d[:])
	d[0].Len = 60
	if s.Transmit(d[:]) != 1 {
		t.Fatal("not queued")
	}
	start := time.Now()
	w.Sleep(10 * time.Second)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("slept for %v over a pending frame", d)
	}
}
