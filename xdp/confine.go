package xdp

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// LeaveCPUs has every thread of the process that is bound to no CPU of its own
// run on the allowed CPUs but those given, and with them all threads that are made
// from then on, since threads inherit it from the one that makes them. Where no
// CPU would be left it changes nothing. What it returns takes it back; it is never
// nil.
//
// Go makes threads from a locked one by a template thread (runtime/proc.go, newm),
// so that those bound by PinThread hand their binding to none.
func LeaveCPUs(cpus []int) (back func() error, err error) {
	back = func() error { return nil }
	allowed, err := AllowedCPUs()
	if err != nil {
		return back, err
	}
	rest := slices.DeleteFunc(slices.Clone(allowed), func(cpu int) bool { return slices.Contains(cpus, cpu) })
	if len(rest) == 0 || len(rest) == len(allowed) {
		return back, nil
	}
	before, after := cpuSet(allowed), cpuSet(rest)
	if err := moveThreads(before, after); err != nil {
		return back, errors.Join(err, moveThreads(after, before))
	}
	return func() error { return moveThreads(after, before) }, nil
}

func cpuSet(cpus []int) (set unix.CPUSet) {
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return set
}

// moveThreads gives all threads with one affinity another. It looks until it finds
// none: one that was not seen may have made another.
func moveThreads(from, to unix.CPUSet) error {
	for moved := true; moved; {
		moved = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("threads of this process: %w", err)
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return fmt.Errorf("threads of this process: %w", err)
			}
			var now unix.CPUSet
			if err = unix.SchedGetaffinity(tid, &now); err == nil && now == from {
				if err = unix.SchedSetaffinity(tid, &to); err == nil {
					moved = true
				}
			}
			if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
				return fmt.Errorf("CPUs of thread %d: %w", tid, err)
			}
		}
	}
	return nil
}
