package xdp

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Clock reads CLOCK_MONOTONIC as the kernel's bpf_ktime_get_ns does, so that a
// heartbeat can be compared in the steering program, and times that two
// processes of one boot wrote can be compared with each other. Go's own reading
// goes through the vDSO and costs a tenth of the system call; it has no absolute
// value, hence the base. A Clock is immutable.
type Clock struct {
	base  int64 // ns of CLOCK_MONOTONIC at start
	start time.Time
}

// NewClock makes a Clock.
func NewClock() (Clock, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return Clock{}, fmt.Errorf("clock_gettime(CLOCK_MONOTONIC): %w", err)
	}
	return Clock{base: ts.Nano(), start: time.Now()}, nil
}

// Now is CLOCK_MONOTONIC in nanoseconds.
func (c Clock) Now() int64 { return c.base + int64(time.Since(c.start)) }

// AllowedCPUs lists the CPUs that the calling thread may run on.
func AllowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// PinThread binds the calling thread to a CPU. The goroutine must be locked to
// its thread, for good: threads made from a pinned one inherit the binding.
func PinThread(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("cpus: worker cannot run on CPU %d: sched_setaffinity: %w; see `taskset -cp $$` for what is allowed", cpu, err)
	}
	return nil
}
