package xdp

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// affinities are the CPUs of every thread of the process, but those of bound ones
// that an earlier test left: the main thread is parked where others end.
func affinities(t *testing.T, left map[int]bool) map[int]unix.CPUSet {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]unix.CPUSet{}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		var set unix.CPUSet
		if !left[tid] && unix.SchedGetaffinity(tid, &set) == nil {
			all[tid] = set
		}
	}
	return all
}

// TestLeaveCPUs: no thread but the one that is bound to the CPU runs there, those
// that are made later neither; and all are back afterwards.
func TestLeaveCPUs(t *testing.T) {
	cpus, err := AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := LeaveCPUs(cpus); err != nil || back() != nil {
		t.Fatal(err)
	}
	if now, err := AllowedCPUs(); err != nil || !slices.Equal(now, cpus) {
		t.Fatalf("no CPU was left, and the threads have %v, %v", now, err)
	}
	if len(cpus) < 2 {
		t.Logf("%d CPU: nothing to leave", len(cpus))
		return
	}
	left := map[int]bool{}
	for tid, set := range affinities(t, nil) {
		left[tid] = set.Count() == 1
	}
	own := cpus[len(cpus)-1]
	bound, end := make(chan int), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with it
		if err := PinThread(own); err != nil {
			t.Error(err)
		}
		bound <- unix.Gettid()
		<-end
	})
	worker := <-bound
	back, err := LeaveCPUs([]int{own})
	if err != nil {
		t.Fatal(err)
	}
	// Threads that are made now.
	var ready sync.WaitGroup
	for range 8 {
		ready.Add(1)
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-end
		})
	}
	ready.Wait()
	for tid, set := range affinities(t, left) {
		if set.IsSet(own) != (tid == worker) {
			t.Errorf("thread %d may run on %d CPUs, CPU %d among them: %v; the worker is %d", tid, set.Count(), own, set.IsSet(own), worker)
		}
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	for tid, set := range affinities(t, left) {
		if tid != worker && set.Count() != len(cpus) {
			t.Errorf("thread %d has %d of %d CPUs afterwards", tid, set.Count(), len(cpus))
		}
	}
	close(end)
	all.Wait()
}
