package daemon

import (
	"time"

	"golang.org/x/sys/unix"

	"sluice/conntrack"
)

// clock reads CLOCK_MONOTONIC as the kernel's bpf_ktime_get_ns does, so that a
// heartbeat written here can be compared in the steering program, and ticks of
// two processes of one boot can be compared with each other. Go's own reading
// goes through the vDSO and costs a tenth of the system call; it has no absolute
// value, hence the base.
type clock struct {
	base  int64 // ns of CLOCK_MONOTONIC at start
	start time.Time
}

func newClock() (clock, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clock{}, err
	}
	return clock{base: ts.Nano(), start: time.Now()}, nil
}

// now is CLOCK_MONOTONIC in nanoseconds.
func (c *clock) now() int64 { return c.base + int64(time.Since(c.start)) }

// nanosPerTick is the length of a conntrack.Tick.
const nanosPerTick = int64(100 * time.Millisecond)

// tick is now in the flow table's unit.
func tick(ns int64) conntrack.Tick { return conntrack.Tick(ns / nanosPerTick) }
