package daemon

import (
	"fmt"
	"runtime"

	"go.uber.org/automaxprocs/maxprocs"

	"sluice/xdp"
)

// roomBeside is how many threads the control plane and the collector may have at
// work beside the workers.
const roomBeside = 2

// shareCPUs keeps the process's other threads off the CPUs that workers are bound
// to, where there are others: a list of a million flows is work, and a worker that
// waits for its CPU for 3 ms loses packets. It returns what takes that back.
//
// Workers spin, each on a thread that Go counts as one at work. Without room beside
// them for whatever else there is to do, the scheduler would take turns with them.
// The number is set even where it stays the same: the runtime would otherwise follow
// what sched_getaffinity says, which here is the CPUs without the workers'.
func (d *Daemon) shareCPUs() (back func() error, err error) {
	back = func() error { return nil }
	workers := len(d.plane.threads)
	if _, err := maxprocs.Set(maxprocs.Min(workers+roomBeside), maxprocs.Logger(func(f string, args ...any) {
		d.log.Debug(fmt.Sprintf(f, args...))
	})); err != nil {
		return back, fmt.Errorf("GOMAXPROCS: %w", err)
	}
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), workers+roomBeside))
	var taken []int
	for _, t := range d.plane.threads {
		if t.cpu >= 0 {
			taken = append(taken, t.cpu)
		}
	}
	if len(taken) == 0 {
		return back, nil
	}
	return xdp.LeaveCPUs(taken)
}
