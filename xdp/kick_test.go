package xdp

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// countingSocket is a socket of u over heap rings whose system calls go to a
// socket pair: every kick arrives at peer as an empty datagram, every wake-up of
// the fill ring takes away one that waits at fd.
type countingSocket struct {
	*Socket
	tx, rx *heapRing[Desc]
	fill   *heapRing[uint64]
	peer   int
}

func newCountingSocket(t *testing.T, u *UMEM, size int) *countingSocket {
	t.Helper()
	s, rx, tx, fill, _ := heapSocket(u, size)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.fd = fds[0]
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &countingSocket{s, tx, rx, fill, fds[1]}
}

// datagrams takes away what waits at fd and returns how many.
func datagrams(t *testing.T, fd int) int {
	t.Helper()
	var b [8]byte
	for n := 0; ; n++ {
		if _, _, err := unix.Recvfrom(fd, b[:], 0); errors.Is(err, unix.EAGAIN) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *countingSocket) queue(t *testing.T, n int) {
	t.Helper()
	d := make([]Desc, n)
	if got := s.umem.Allocate(d); got != n {
		t.Fatalf("%d of %d frames", got, n)
	}
	for i := range d {
		d[i].Len = 60
	}
	if got := s.Transmit(d); got != n {
		t.Fatalf("queued %d of %d", got, n)
	}
}

// TestKickHonoursNeedWakeup: a system call is made only when there is something
// to send and the kernel asks for it.
func TestKickHonoursNeedWakeup(t *testing.T) {
	s := newCountingSocket(t, heapUMEM(16), 8)
	kick := func(want int, when string) {
		t.Helper()
		if err := s.Kick(); err != nil {
			t.Error(err)
		}
		if got := datagrams(t, s.peer); got != want {
			t.Errorf("%s: %d system calls, want %d", when, got, want)
		}
	}
	s.tx.flags = ringNeedWakeup
	kick(0, "nothing queued")
	s.queue(t, 3)
	kick(1, "queued")
	s.tx.flags = 0
	kick(0, "the driver is awake")
	s.tx.flags = ringNeedWakeup
	s.tx.consumer += 3
	kick(0, "all taken by the kernel")
	s.queue(t, 1)
	s.SetUp(false)
	kick(0, "the link is down")
	s.SetUp(true)
	kick(1, "the link is up again")
}

// TestRefillHonoursNeedWakeup likewise for a driver that ran out of frames.
func TestRefillHonoursNeedWakeup(t *testing.T) {
	s := newCountingSocket(t, heapUMEM(16), 8)
	wakes := func() int {
		if err := unix.Sendto(s.peer, nil, 0, nil); err != nil {
			t.Fatal(err)
		}
		s.Refill()
		return 1 - datagrams(t, s.fd)
	}
	if n := wakes(); n != 0 || s.filled != 8 {
		t.Errorf("%d wake-ups without the flag, %d frames", n, s.filled)
	}
	s.fill.flags = ringNeedWakeup
	if n := wakes(); n != 0 {
		t.Errorf("%d wake-ups without new frames", n)
	}
	kernel := s.rx.end()
	kernel.put(0, Desc{Addr: s.fill.entries[0], Len: 60})
	kernel.submit(1)
	s.fill.consumer++
	var d [1]Desc
	if s.Receive(d[:]) != 1 {
		t.Fatal("nothing received")
	}
	if n := wakes(); n != 1 {
		t.Errorf("%d wake-ups for a driver that sleeps", n)
	}
}

// TestKickEndsOnEAGAIN: a device whose queue stays full is left alone after as
// many calls as the budget of one would need.
func TestKickEndsOnEAGAIN(t *testing.T) {
	for _, zeroCopy := range []bool{false, true} {
		s := newCountingSocket(t, heapUMEM(256), 128)
		s.zeroCopy = zeroCopy
		s.tx.flags = ringNeedWakeup
		for unix.Sendto(s.fd, nil, unix.MSG_DONTWAIT, nil) == nil { // fill the peer's queue
		}
		s.queue(t, 100)
		start := time.Now()
		for range 1000 {
			if err := s.Kick(); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("1000 kicks took %v", d)
		}
		if s.State() != StateUp || s.Pending() != 100 {
			t.Errorf("state %v, %d pending", s.State(), s.Pending())
		}
	}
}

// TestKickErrnos: what a device that stops or vanishes does to a socket.
func TestKickErrnos(t *testing.T) {
	u := heapUMEM(8)
	s := newCountingSocket(t, u, 4)
	s.tx.flags = ringNeedWakeup
	s.queue(t, 2)
	if err := s.stop(unix.ENETDOWN); !errors.Is(err, unix.ENETDOWN) || s.State() != StateDown {
		t.Errorf("ENETDOWN: %v, state %v", err, s.State())
	}
	var d [1]Desc
	u.Allocate(d[:])
	d[0].Len = 60
	if n := s.Transmit(d[:]); n != 0 {
		t.Error("takes frames while down")
	}
	s.SetUp(true)
	if n := s.Transmit(d[:]); n != 1 || s.Pending() != 3 {
		t.Errorf("took %d, %d pending after the link is up", n, s.Pending())
	}
	// ENXIO of a socket without an error pending: a driver that is not ready.
	if err := s.stop(unix.ENXIO); !errors.Is(err, unix.ENXIO) || s.State() != StateDown {
		t.Errorf("ENXIO: %v, state %v", err, s.State())
	}
	// It comes back by itself, but not at once.
	s.retry()
	if s.State() != StateDown || datagrams(t, s.peer) != 0 {
		t.Error("tried again at once")
	}
	s.probe = time.Now()
	s.retry()
	if s.State() != StateUp || datagrams(t, s.peer) != 1 {
		t.Errorf("state %v after the next attempt", s.State())
	}
	// ENXIO where the socket knows no more: the device is gone for good.
	s.fd = -1
	if err := s.stop(unix.ENXIO); !errors.Is(err, unix.ENXIO) || s.State() != StateGone {
		t.Errorf("ENXIO: %v, state %v", err, s.State())
	}
	if s.SetUp(true); s.State() != StateGone {
		t.Error("a deleted device came back")
	}
	audit(t, u)
}
