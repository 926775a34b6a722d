package xdp

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultRingSize is enough for 3 ms at 650,000 packets a second.
	DefaultRingSize = 2048

	// DefaultBacklog is how many received frames may wait for the worker where
	// the kernel copies them. There no ring of the hardware's is in front, and a
	// sender on the same machine is faster than whoever forwards.
	DefaultBacklog = 8192
)

// State says whether a socket's device can send.
type State uint32

const (
	StateUp   State = iota
	StateDown       // the link is down: nothing is sent until it is up again
	StateGone       // the device was deleted: close and open anew
)

func (s State) String() string {
	switch s {
	case StateUp:
		return "up"
	case StateDown:
		return "down"
	case StateGone:
		return "gone"
	}
	return "invalid"
}

// Socket is an AF_XDP socket on one queue of one NIC, with its own fill and
// completion ring. It belongs to its worker's goroutine.
type Socket struct {
	umem  *UMEM
	nic   *NIC
	queue int
	fd    int
	id    int // index in umem.sockets

	rx, tx           ring[Desc]
	fill, completion ring[uint64]
	maps             [4][]byte // the rings' memory

	atFill, atTX place
	filled       int // frames on the fill side
	sending      int // frames on the TX side
	fillLevel    int // frames that the kernel is to have for what comes, 0 without RX
	fillMost     int // frames on the fill side at most, with those that wait in the RX ring
	fillBatch    int // missing frames that are worth a refill

	mode     Mode
	reason   string
	budget   int  // frames that one kick sends in copy mode
	zeroCopy bool // as the kernel says

	state  atomic.Uint32 // State; written by the worker
	probe  time.Time     // when down: when to try again
	closed bool

	patience time.Duration // how long bind retries EBUSY

	traffic traffic
	wasted  uint64 // frames that the kernel dropped instead of sending (kick: EBUSY), or never took
}

// Receive fetches received frames, at most len(d), and returns how many. They
// are the caller's until transmitted or freed.
func (s *Socket) Receive(d []Desc) int {
	if !s.Receives() {
		return 0
	}
	n := s.rx.ready(len(d))
	if n == 0 {
		return 0
	}
	u := s.umem
	got, bytes := 0, uint64(0)
	for i := range n {
		desc := s.rx.get(i)
		f := u.index(desc.Addr)
		if !u.at(f, s.atFill) {
			u.strays++ // not what this socket was given: nothing to take back
			continue
		}
		s.filled--
		u.fill--
		if !u.whole(desc) {
			u.strays++
			u.push(f)
			continue
		}
		u.place[f] = placeReceived
		d[got] = desc
		bytes += uint64(desc.Len)
		got++
	}
	s.rx.release(n)
	u.rx += got
	count(&s.traffic.rxPackets, &s.traffic.rxBytes, got, bytes)
	return got
}

// Transmit queues frames for sending and returns how many it took, from the
// first on. The rest stay the caller's. The kernel sends them after Kick. Taken
// frames come back to the UMEM by themselves; one that cannot be sent (no
// bytes, or not in one chunk) is taken and freed, so that it harms no other.
func (s *Socket) Transmit(d []Desc) int {
	if s.State() != StateUp {
		return 0
	}
	u := s.umem
	// No more than the ring's size is under way, so that the completion ring,
	// of the same size, never makes the kernel wait.
	n := s.tx.room(min(len(d), len(s.tx.entries)-s.sending))
	sent, bytes := 0, uint64(0)
	for i := range n {
		f := u.index(d[i].Addr)
		if !u.leaveCaller(f) {
			continue
		}
		if !u.whole(d[i]) {
			u.strays++
			u.push(f)
			continue
		}
		u.place[f] = s.atTX
		s.tx.put(sent, Desc{Addr: d[i].Addr, Len: d[i].Len})
		bytes += uint64(d[i].Len)
		sent++
	}
	if sent > 0 {
		s.tx.submit(sent)
		s.sending += sent
		u.tx += sent
		count(&s.traffic.txPackets, &s.traffic.txBytes, sent, bytes)
	}
	return n
}

// Reap takes back the frames that the kernel is done sending, and returns how
// many.
func (s *Socket) Reap() int {
	if s.sending == 0 {
		return 0
	}
	n := s.completion.ready(len(s.completion.entries))
	if n == 0 {
		return 0
	}
	u := s.umem
	for i := range n {
		f := u.index(s.completion.get(i))
		if !u.at(f, s.atTX) {
			u.strays++
			continue
		}
		u.push(f)
		s.sending--
		u.tx--
	}
	s.completion.release(n)
	return n
}

// wanted is how many frames the fill side should have: those for what comes, and
// besides those that have come and wait. So a backlog does not eat up what the
// kernel has to receive into, and without one no more frames go round than
// without the room for it, which keeps them in the cache.
func (s *Socket) wanted() int {
	if s.fillMost == s.fillLevel {
		return s.fillLevel
	}
	return min(s.fillLevel+s.rx.waiting(txBatch), s.fillMost)
}

// Refill gives free frames to the kernel to receive into, where enough are
// missing to be worth it, and returns how many. It wakes the driver where it
// asks for that.
func (s *Socket) Refill() int {
	missing := s.wanted() - s.filled
	if missing < s.fillBatch || s.State() == StateGone {
		return 0
	}
	u := s.umem
	n := s.fill.room(min(missing, len(u.free)))
	if n == 0 {
		return 0
	}
	rest := len(u.free) - n
	for i, f := range u.free[rest:] {
		u.place[f] = s.atFill
		s.fill.put(i, uint64(f)<<u.shift)
	}
	u.free = u.free[:rest]
	s.fill.submit(n)
	s.filled += n
	u.fill += n
	// A driver that ran out of frames sleeps until it is told of new ones
	// (xsk_set_rx_need_wakeup). In copy mode the flag is never set.
	if s.fill.needWakeup() {
		unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	}
	return n
}

// Pending is how many queued frames the kernel has not taken yet.
func (s *Socket) Pending() int {
	if s.sending == 0 {
		return 0
	}
	return s.tx.pending()
}

// FD is the socket's descriptor, for the XSKMAP and for poll.
func (s *Socket) FD() int { return s.fd }

// Queue is the NIC's queue that the socket is bound to.
func (s *Socket) Queue() int { return s.queue }

// NIC is the interface that the socket is bound to.
func (s *Socket) NIC() *NIC { return s.nic }

// Receives reports whether the socket has an RX ring, thus belongs in the XSKMAP.
func (s *Socket) Receives() bool { return s.fillLevel > 0 }

// Mode is how frames get there: zero-copy, copy or generic; and why.
func (s *Socket) Mode() (mode Mode, reason string) { return s.mode, s.reason }

// State may be called from any goroutine.
func (s *Socket) State() State { return State(s.state.Load()) }

// Wasted is how many frames the kernel took and dropped instead of sending
// them, since the peer's ring was full, or there was no carrier; and of a closed
// socket those, too, that it never took.
func (s *Socket) Wasted() uint64 { return s.wasted }
