package daemon

import (
	"fmt"
	"os"
	"runtime/metrics"

	"sluice/internal/control"
)

// processStatus asks the Go runtime, which stops nothing for that (as
// runtime.ReadMemStats would stop the workers), and the kernel. What is not to be
// had is 0.
func processStatus() (p control.Process) {
	samples := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	p.Goroutines, p.HeapBytes = int(samples[0].Value.Uint64()), samples[1].Value.Uint64()
	// proc_pid_statm(5): size and resident set, in pages.
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		if _, err := fmt.Sscan(string(b), &size, &resident); err == nil {
			p.ResidentBytes = resident * uint64(os.Getpagesize())
		}
	}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.Descriptors = len(list) - 1 // without the one that reads the list
	}
	return p
}
