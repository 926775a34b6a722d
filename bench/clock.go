package bench

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"sluice/xdp"
)

// sample is one stretch of timed work.
type sample struct {
	packets, ns int64
	delay       int64 // ns that the thread waited for a CPU meanwhile
}

func (s sample) perPacket() float64 { return float64(s.ns) / float64(s.packets) }

// A sample is disturbed, and taken again, where the scheduler had the thread
// wait for more than a fiftieth of it, at most so many times.
const (
	disturbedShare = 50
	maxRepeats     = 6
)

func (s sample) disturbed() bool { return s.delay*disturbedShare > s.ns }

// schedstat is a thread's CPU time and the time it waited for a CPU, in ns
// (Documentation/scheduler/sched-stats.rst). Where the kernel does not tell, both
// are 0.
func schedstat(path string) (ran, waited int64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	if _, err := fmt.Sscan(string(b), &ran, &waited); err != nil {
		return 0, 0
	}
	return ran, waited
}

const ownSchedstat = "/proc/thread-self/schedstat"

// timed takes a sample of f, which processes packets and returns how many and
// how long the timed part took, until the budget is used up.
func timed(budget time.Duration, f func() (packets int, took time.Duration)) sample {
	var s sample
	_, before := schedstat(ownSchedstat)
	for s.ns < budget.Nanoseconds() {
		n, took := f()
		s.packets += int64(n)
		s.ns += took.Nanoseconds()
	}
	_, after := schedstat(ownSchedstat)
	s.delay = after - before
	return s
}

// pinned runs f on a thread of its own, bound to a CPU, that ends with it.
func pinned(cpu int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: a bound thread must not be used again
		if err := xdp.PinThread(cpu); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// measuringCPUs are where to measure, the last CPU allowed, since interrupts and
// others prefer the first; and the first, for what goes on at the same time. It
// does not belong on a pinned thread, which is allowed one only.
func measuringCPUs() (cpu, other int, err error) {
	cpus, err := xdp.AllowedCPUs()
	if err != nil {
		return 0, 0, err
	}
	return cpus[len(cpus)-1], cpus[0], nil
}
