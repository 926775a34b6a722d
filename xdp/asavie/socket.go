package asavie

import (
	"fmt"
	"sync/atomic"
	"time"

	lib "github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"sluice/xdp"
)

// Socket is a socket of the library on one queue of one NIC, with its own UMEM.
// It belongs to its worker's goroutine.
type Socket struct {
	xsk      *lib.Socket // nil once closed
	nic      *xdp.NIC
	queue    int
	size     int  // of each ring
	receives bool // its receive half is with the kernel

	mode   xdp.Mode
	reason string

	state  atomic.Uint32 // xdp.State; gone means at its end, for whatever reason
	err    atomic.Pointer[error]
	failed chan<- struct{}
	wasted uint64 // frames that were queued and that the kernel never took

	traffic struct{ rxPackets, rxBytes, txPackets, txBytes atomic.Uint64 }
}

// openSocket opens the socket of a queue, with a ring of frames to send from
// and, where it receives, one to receive into.
func openSocket(cfg *xdp.PortConfig, queue, frameSize int, receives bool, patience time.Duration) (*Socket, error) {
	s := &Socket{nic: cfg.NIC, queue: queue, size: cfg.RingSize, receives: receives}
	frames := s.size
	if receives {
		frames = 2 * s.size
	}
	xsk, err := newSocket(cfg.NIC, queue, cfg.Mode, &lib.SocketOptions{
		NumFrames: frames, FrameSize: frameSize,
		FillRingNumDescs: s.size, CompletionRingNumDescs: s.size,
		// Both rings even where one is not used: the library reads the
		// indices of either without asking whether it is there.
		RxRingNumDescs: s.size, TxRingNumDescs: s.size,
	}, patience)
	if err != nil {
		return nil, err
	}
	s.xsk = xsk
	if receives {
		xsk.Fill(xsk.GetDescs(frames)[s.size:])
	}
	s.settle(cfg)
	return s, nil
}

// settle reads which mode the kernel chose.
func (s *Socket) settle(cfg *xdp.PortConfig) {
	options, err := unix.GetsockoptInt(s.xsk.FD(), unix.SOL_XDP, unix.XDP_OPTIONS)
	switch {
	case err == nil && options&unix.XDP_OPTIONS_ZEROCOPY != 0:
		s.mode = xdp.ModeZeroCopy
	case cfg.Mode == xdp.ModeGeneric:
		s.mode = xdp.ModeGeneric
	default:
		s.mode = xdp.ModeCopy
	}
	s.reason = "configured"
	if cfg.Mode == xdp.ModeAuto {
		s.reason = "the kernel's choice for the driver " + cfg.NIC.Driver
	}
}

// receive copies received frames, at most len(d), into the staging area.
func (s *Socket) receive(u *xdp.UMEM, d []xdp.Desc) (n int) {
	if s.State() == xdp.StateGone {
		return 0
	}
	staged := 0
	defer func() {
		if p := recover(); p != nil {
			s.fail("receive", p)
			u.Free(d[:staged])
			n = 0
		}
	}()
	ready := s.xsk.NumReceived()
	if ready == 0 {
		return 0
	}
	staged = u.Allocate(d[:min(ready, len(d))])
	bytes := uint64(0)
	got := s.xsk.Receive(staged)
	for i := range got {
		chunk := u.Frame(d[i])
		d[i].Len = uint32(copy(chunk[:cap(chunk)], s.xsk.GetFrame(got[i])))
		bytes += uint64(d[i].Len)
	}
	s.xsk.Fill(got) // there is room: the ring takes the whole receive half
	count(&s.traffic.rxPackets, &s.traffic.rxBytes, staged, bytes)
	return staged
}

// transmit copies frames out of the staging area, has the library queue them and
// kick once, and returns how many it took, from the first on. They stay the
// caller's to free.
func (s *Socket) transmit(u *xdp.UMEM, d []xdp.Desc) (n int) {
	if s.State() != xdp.StateUp {
		return 0
	}
	// Where it is the kick that panics, the frames are in the ring. What the
	// kernel did not take of them is then wasted.
	defer s.guard("transmit")
	slots := s.xsk.GetDescs(min(len(d), s.xsk.NumFreeTxSlots()))
	if len(slots) == 0 {
		return 0
	}
	bytes := uint64(0)
	for i := range slots {
		slots[i].Len = uint32(copy(s.xsk.GetFrame(slots[i]), u.Frame(d[i])))
		bytes += uint64(slots[i].Len)
	}
	n = len(slots)
	count(&s.traffic.txPackets, &s.traffic.txBytes, n, bytes)
	s.xsk.Transmit(slots)
	return n
}

// flush kicks until the kernel took what is queued, or takes no more, and takes
// back what was sent.
func (s *Socket) flush() {
	if s.State() == xdp.StateGone || s.xsk.NumTransmitted() == 0 {
		return
	}
	defer s.guard("flush")
	if s.State() == xdp.StateUp {
		for left := s.pending(); left > 0; {
			s.xsk.Transmit(nil)
			before := left
			if left = s.pending(); left == before {
				break
			}
		}
	}
	s.xsk.Complete(s.xsk.NumCompleted())
}

// pending is how many queued frames the kernel has not taken yet.
func (s *Socket) pending() int {
	if s.State() == xdp.StateGone {
		return 0
	}
	return s.size - s.xsk.NumFreeTxSlots()
}

// guard is deferred around calls of the library.
func (s *Socket) guard(doing string) {
	if p := recover(); p != nil {
		s.fail(doing, p)
	}
}

// fail ends the socket's use after a panic of the library. What it had queued
// will not be sent.
func (s *Socket) fail(doing string, p any) {
	err := fmt.Errorf("%s queue %d: driver asavie: %s: %v", s.nic.Name, s.queue, doing, p)
	s.wasted += uint64(s.pending())
	s.err.Store(&err)
	s.state.Store(uint32(xdp.StateGone))
	select {
	case s.failed <- struct{}{}:
	default: // whoever listens has been told, or nobody does
	}
}

// setUp tells the socket that its link came up or went down.
func (s *Socket) setUp(up bool) {
	switch {
	case s.State() == xdp.StateGone:
	case up:
		s.state.Store(uint32(xdp.StateUp))
	default:
		s.state.Store(uint32(xdp.StateDown))
	}
}

// close sends what is queued, as far as the kernel takes it, and closes the
// socket. Closing it again is no error.
func (s *Socket) close() error {
	if s.xsk == nil {
		return nil
	}
	s.flush()
	s.wasted += uint64(s.pending())
	s.state.Store(uint32(xdp.StateGone))
	err := closeSocket(s.xsk)
	s.xsk = nil
	if err != nil {
		return &xdp.SetupError{Interface: s.nic.Name, Queue: s.queue, Call: "close", Err: err}
	}
	return nil
}

// count adds to counters that nobody else writes.
func count(packets, bytes *atomic.Uint64, n int, sum uint64) {
	packets.Store(packets.Load() + uint64(n))
	bytes.Store(bytes.Load() + sum)
}
