package daemon

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/gateway"
	"sluice/xdp"
)

const (
	// napTime is the longest that an idle worker sleeps: its heartbeat goes
	// stale after a second, and expiry goes on meanwhile.
	napTime = 100 * time.Millisecond

	// sweepTime is how long an idle gateway takes to look at every flow record.
	sweepTime = 10 * time.Second
)

// thread runs one worker on an operating system thread of its own, bound to a
// CPU where there is one to spare. Everything it owns (UMEM, ports, worker) is
// touched by that thread alone once start was called; the rest is atomic.
type thread struct {
	id     int
	cpu    int // that the thread is bound to, -1 = none
	clock  xdp.Clock
	beat   *uint64 // heartbeat word in the steering program's map
	umem   *xdp.UMEM
	ports  []port
	waiter *xdp.Waiter
	worker *gateway.Worker
	nap    int // flow records to sweep on every nap

	stop atomic.Bool
	done chan struct{}
	task atomic.Pointer[task]

	busy   atomic.Int64 // ns spent on rounds that had packets
	load   atomic.Int64 // share of the last sample's time that was busy, in parts per million
	sample struct{ at, busy int64 }
	frames frameAccount
}

// start begins forwarding. It returns when the thread is pinned, or why it could
// not be.
func (t *thread) start() error {
	pinned := make(chan error)
	t.done = make(chan struct{})
	go func() {
		defer close(t.done)
		// The thread is never unlocked: a pinned thread must not be reused.
		runtime.LockOSThread()
		var err error
		if t.cpu >= 0 {
			err = xdp.PinThread(t.cpu)
		}
		pinned <- err
		if err == nil {
			t.run()
		}
	}()
	return <-pinned
}

// nanosPerTick is the length of a conntrack.Tick.
const nanosPerTick = int64(time.Second / conntrack.TicksPerSecond)

// tick is a time of CLOCK_MONOTONIC in the flow table's unit.
func tick(ns int64) conntrack.Tick { return conntrack.Tick(ns / nanosPerTick) }

// run is the worker's life: a step, and where there was nothing to do, a wait
// that adapts to the traffic.
func (t *thread) run() {
	last := t.clock.Now()
	accounted := last
	worked := false
	for !t.stop.Load() {
		if k := t.task.Load(); k != nil {
			t.perform(k)
		}
		ns := t.clock.Now()
		// The kernel's side reads this word in the steering program
		// (fresh); a plain aligned store would do, atomic says so to Go.
		atomic.StoreUint64(t.beat, uint64(ns))
		if worked {
			t.busy.Store(t.busy.Load() + ns - last)
		}
		last = ns
		worked = t.worker.Step(tick(ns)) > 0
		if ns-accounted >= int64(napTime) {
			accounted = ns
			t.account()
		}
		if !t.waiter.Idle(worked) {
			continue
		}
		t.worker.Idle(tick(ns), t.nap)
		t.account()
		t.worker.Offline()
		t.waiter.Sleep(napTime)
		t.worker.Online()
		last = t.clock.Now()
	}
	t.worker.Offline()
}

// running reports whether the thread forwards.
func (t *thread) running() bool {
	if t.done == nil {
		return false
	}
	select {
	case <-t.done:
		return false
	default:
		return true
	}
}

// account publishes where the frames are.
func (t *thread) account() {
	a := t.umem.Accounting()
	t.frames.store([...]int{a.Free, a.Fill, a.RX, a.TX, a.Held, a.Total})
}

// frameAccount is where the frames of a worker are, all at one moment. The
// worker stores, others load: a load that met a store is made again (a sequence
// lock; Go's atomics are sequentially consistent, so the numbers cannot be read
// from outside the two readings of the version).
type frameAccount struct {
	version atomic.Uint32 // odd while a store is under way
	numbers [6]atomic.Int64
}

func (f *frameAccount) store(numbers [6]int) {
	f.version.Add(1)
	for i, n := range numbers {
		f.numbers[i].Store(int64(n))
	}
	f.version.Add(1)
}

func (f *frameAccount) load() (numbers [6]int) {
	for {
		before := f.version.Load()
		for i := range numbers {
			numbers[i] = int(f.numbers[i].Load())
		}
		if before%2 == 0 && f.version.Load() == before {
			return numbers
		}
		runtime.Gosched()
	}
}

// halt ends the thread and waits for it.
func (t *thread) halt() error {
	if t.done == nil {
		return nil
	}
	t.stop.Store(true)
	err := t.waiter.Wake()
	<-t.done
	return err
}

// close gives back what the thread owned. It must have ended.
func (t *thread) close() error {
	return errors.Join(closePorts(t.umem, t.ports), t.waiter.Close())
}

// lastBeat is the newest heartbeat, in nanoseconds of CLOCK_MONOTONIC.
func (t *thread) lastBeat() int64 { return int64(atomic.LoadUint64(t.beat)) }

// frameStatus is where the frames were when the worker last published it.
func (t *thread) frameStatus() control.Frames {
	n := t.frames.load()
	return control.Frames{Free: n[0], Fill: n[1], RX: n[2], TX: n[3], Held: n[4], Total: n[5],
		Bytes: int64(n[5]) * int64(t.umem.FrameSize())}
}

// queueStatus describes the sockets of the thread on interface i.
func (t *thread) queueStatus(i int) (list []control.Queue) {
	full := t.worker.Counters().Ports[i].RingFull
	for _, s := range t.ports[i].sockets() {
		mode, reason := s.Mode()
		q := control.Queue{
			Queue: s.Queue(), Worker: t.id, Mode: mode.String(), ModeReason: reason,
			ZeroCopy: mode == xdp.ModeZeroCopy, Up: s.State() == xdp.StateUp,
		}
		l, traffic := s.RingLevels(), s.Traffic()
		q.FillRing, q.RXRing = control.Ring(l.Fill), control.Ring(l.RX)
		q.TXRing, q.CompletionRing = control.Ring(l.TX), control.Ring(l.Completion)
		q.RXPackets, q.RXBytes = traffic.RXPackets, traffic.RXBytes
		q.TXPackets, q.TXBytes = traffic.TXPackets, traffic.TXBytes
		if k, err := s.Statistics(); err == nil {
			q.Drops = control.QueueDrops{
				RXDropped: k.RXDropped, RXInvalid: k.RXInvalid, TXInvalid: k.TXInvalid,
				RXRingFull: k.RXRingFull, FillRingEmpty: k.RXFillEmpty, TXRingEmpty: k.TXRingEmpty,
			}
		}
		if l.TX.Size > 0 {
			q.Drops.TXRingFullDrops = full
		}
		list = append(list, q)
	}
	return list
}

// measure takes a sample of how busy the thread is. It belongs to the control
// goroutine.
func (t *thread) measure() {
	now, busy := t.clock.Now(), t.busy.Load()
	if span := now - t.sample.at; span > 0 && t.sample.at != 0 {
		t.load.Store(min((busy-t.sample.busy)*1e6/span, 1e6))
	}
	t.sample.at, t.sample.busy = now, busy
}

// utilisation is the share of the last sample's time spent on packets, 0 to 1.
func (t *thread) utilisation() float64 { return float64(t.load.Load()) / 1e6 }
