package xdp

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClock: the clock is the kernel's, not merely as fast.
func TestClock(t *testing.T) {
	c, err := NewClock()
	if err != nil {
		t.Fatal(err)
	}
	kernel := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano()
	}
	before, now, after := kernel(), c.Now(), kernel()
	const slack = 1e6 // base and start are read one after the other
	if now < before-slack || now > after+slack {
		t.Errorf("%d is not between the kernel's %d and %d", now, before, after)
	}
}

func TestPinThread(t *testing.T) {
	allowed, err := AllowedCPUs()
	if err != nil || len(allowed) == 0 {
		t.Fatalf("CPUs %v: %v", allowed, err)
	}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := PinThread(allowed[len(allowed)-1]); err != nil {
			errs <- err
			return
		}
		got, err := AllowedCPUs()
		if err == nil && (len(got) != 1 || got[0] != allowed[len(allowed)-1]) {
			t.Errorf("pinned to %v, want CPU %d", got, allowed[len(allowed)-1])
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	if err := PinThread(1023); err == nil {
		t.Error("pinned to a CPU that does not exist")
	}
}
