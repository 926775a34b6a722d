package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spinStart is the first time a worker spins for, once spinning seems
	// worth it.
	spinStart = 10 * time.Microsecond

	// sendPatience is how long a wait lasts at most while frames are queued
	// that the kernel could not take: its send buffer or the device's queue is
	// full, and nothing readable will announce that it no longer is.
	sendPatience = time.Millisecond
)

// DefaultSpin is the longest a worker spins before it sleeps. A wake-up from
// poll costs about as much.
const DefaultSpin = 50 * time.Microsecond

// oneEvent is the number 1 as an eventfd takes it.
var oneEvent = binary.NativeEndian.AppendUint64(nil, 1)

// WaiterConfig says how a worker waits.
type WaiterConfig struct {
	Ports []*Port
	Spin  time.Duration // the longest to spin; 0 = DefaultSpin, negative = never

	// Yield gives the CPU away on every spin: for workers that share CPUs with
	// each other or with the softirqs that feed them.
	Yield bool
}

// Waitable is a port that a Waiter can wait for: Port, or another driver's.
type Waitable interface {
	// Descriptors are those of the sockets that receive. They are asked for
	// when the Waiter is told of the port.
	Descriptors() []int

	// State and Pending are asked for once a sleep.
	State() State
	Pending() int
}

// Waiter decides when a worker without work spins and when it sleeps, and
// sleeps for it, until a frame arrives, Wake is called or a time is over. It
// belongs to the worker's goroutine, except for Wake.
//
// How long to spin adapts to the traffic, as halt polling in the kernel's KVM
// does: a sleep that turned out short doubles it, as does a spin that found
// work; a spin in vain halves it. So dense traffic never waits for a wake-up of
// the thread, and sparse traffic costs next to no CPU.
type Waiter struct {
	fds   []unix.PollFd // [0] is the eventfd
	ports []Waitable
	event int
	count [8]byte // what the eventfd had, once read
	max   time.Duration
	yield bool

	spin     time.Duration // what to spin for now
	spinning bool          // since the time below
	since    time.Time
}

// NewWaiter makes a Waiter for a worker's ports.
func NewWaiter(cfg WaiterConfig) (*Waiter, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w: too many open files? raise RLIMIT_NOFILE (systemd: LimitNOFILE=)", err)
	}
	w := &Waiter{event: event, max: cfg.Spin, yield: cfg.Yield}
	switch {
	case w.max == 0:
		w.max = DefaultSpin
	case w.max < 0:
		w.max = 0
	}
	w.SetPorts(cfg.Ports)
	return w, nil
}

// SetPorts replaces the ports to wait for, after one was closed or opened anew.
func (w *Waiter) SetPorts(ports []*Port) {
	w.begin()
	for _, p := range ports {
		w.add(p)
	}
}

// Watch is SetPorts for the ports of whatever driver.
func (w *Waiter) Watch(ports []Waitable) {
	w.begin()
	for _, p := range ports {
		w.add(p)
	}
}

func (w *Waiter) begin() {
	w.ports = w.ports[:0]
	w.fds = append(w.fds[:0], unix.PollFd{Fd: int32(w.event), Events: unix.POLLIN})
}

func (w *Waiter) add(p Waitable) {
	w.ports = append(w.ports, p)
	for _, fd := range p.Descriptors() {
		w.fds = append(w.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
}

// Idle is called after each round with whether there was work in it, and
// reports whether the worker should sleep now; otherwise it should go round
// again. What others wait for from this worker it does between Idle and Sleep.
func (w *Waiter) Idle(worked bool) bool {
	if worked {
		if w.spinning {
			w.spinning = false
			w.grow()
		}
		return false
	}
	if w.spin == 0 {
		return true
	}
	now := time.Now()
	if !w.spinning {
		w.spinning, w.since = true, now
	} else if now.Sub(w.since) >= w.spin {
		w.spinning = false
		w.spin /= 2
		if w.spin < spinStart/4 {
			w.spin = 0
		}
		return true
	}
	if w.yield {
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return false
}

// grow lengthens the spin.
func (w *Waiter) grow() {
	w.spin = min(max(2*w.spin, spinStart), w.max)
}

// Sleep waits in poll(2) until a socket has frames, Wake was called or timeout
// is over, and reports whether it was woken by Wake. The kernel sends what is
// queued while it looks (net/xdp/xsk.c, xsk_poll).
func (w *Waiter) Sleep(timeout time.Duration) (woken bool) {
	for _, p := range w.ports {
		if p.State() == StateUp && p.Pending() > 0 {
			timeout = min(timeout, sendPatience)
			break
		}
	}
	start := time.Now()
	// poll counts milliseconds; round up, so that a short wait is not a spin.
	n, err := unix.Poll(w.fds, int((timeout+time.Millisecond-1)/time.Millisecond))
	if err != nil || n == 0 {
		return false // EINTR is the scheduler's pre-emption signal: the caller goes round
	}
	if time.Since(start) < w.max {
		w.grow()
	}
	for i := range w.fds[1:] {
		// A socket in error would end every poll at once; the state of its
		// port tells what happened.
		if fd := &w.fds[1+i]; fd.Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			fd.Fd = -1
		}
	}
	if w.fds[0].Revents&unix.POLLIN == 0 {
		return false
	}
	unix.Read(w.event, w.count[:]) // sets it to 0; how often Wake was called does not matter
	return true
}

// Wait is Idle and Sleep in one, for a worker with nothing to do in between.
func (w *Waiter) Wait(worked bool, timeout time.Duration) {
	if w.Idle(worked) {
		w.Sleep(timeout)
	}
}

// Wake ends the current sleep, or else the next. It may be called from any
// goroutine until Close.
func (w *Waiter) Wake() error {
	// EAGAIN: the counter is full, thus not zero, which is all that matters.
	if _, err := unix.Write(w.event, oneEvent); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("eventfd: write: %w", err)
	}
	return nil
}

// Close releases the eventfd. Wake must not be called any more.
func (w *Waiter) Close() error { return unix.Close(w.event) }
