package gateway

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/conntrack"
)

// threadTime is how long the calling thread has had a CPU.
func threadTime(b *testing.B) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStepBesideList is BenchmarkStep's million flows, alone and while the
// table is listed again and again. It reports the ratio of the two, by the time that
// the worker's thread had a CPU, and the longest step of each by the clock, which on
// a busy machine is the scheduler's. Both are of one run: two runs differ by more.
func BenchmarkStepBesideList(b *testing.B) {
	const flows = 1 << 20
	r := newRig(b, func(r *rig, _ *Snapshot) { r.maxFlows = flows + flows/4 })
	r.worker.memory = forgetful{r.memory}
	frame := from{src: client, dst: server, sport: 1024, dport: 1, payload: "0123456789012345"}.udp(b)
	p := &generator{memory: r.memory, frame: frame, flows: flows}
	r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, &sink{}
	for p.sequence = true; p.sent < 2*flows; {
		r.worker.Step(r.now)
	}
	p.sequence, p.random = false, rand.New(rand.NewPCG(1, 2))
	steps := func(b *testing.B) time.Duration {
		var longest time.Duration
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		b.ResetTimer()
		began := threadTime(b)
		last := time.Now()
		for range b.N / Burst {
			r.worker.Step(r.now)
			now := time.Now()
			longest, last = max(longest, now.Sub(last)), now
		}
		b.StopTimer()
		b.ReportMetric(float64(longest.Microseconds()), "µs-longest")
		took := threadTime(b) - began
		b.ReportMetric(float64(took)/float64(b.N), "cpu-ns/op")
		return took
	}
	var alone time.Duration
	b.Run("alone", func(b *testing.B) { alone = steps(b) })
	b.Run("listed", func(b *testing.B) {
		var listing sync.WaitGroup
		stop, lists := make(chan struct{}), 0
		listing.Go(func() {
			for {
				var from conntrack.Cursor
				ended := false
				r.table.Each(&from, func(conntrack.Snapshot) bool {
					select {
					case <-stop:
						ended = true
					default:
					}
					return !ended
				})
				if ended {
					return
				}
				lists++
			}
		})
		beside := steps(b)
		close(stop)
		listing.Wait()
		b.ReportMetric(float64(lists), "lists")
		if alone > 0 {
			b.ReportMetric(float64(beside)/float64(alone), "x-alone")
		}
	})
}
