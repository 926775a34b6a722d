package xdp

import (
	"time"

	"golang.org/x/sys/unix"
)

// txBatch is how many frames one kick sends in copy mode, unless
// XDP_MAX_TX_SKB_BUDGET raised it (net/xdp/xsk.c, TX_BATCH_SIZE).
const txBatch = 32

// probeInterval is how often a socket whose link was down is tried again,
// should nobody say that it is up.
const probeInterval = 100 * time.Millisecond

// Kick makes the kernel send what Transmit queued, where it needs telling. It
// never blocks and makes a bounded number of system calls, whatever they
// answer. It returns nil or, when the device just stopped or vanished, ENETDOWN
// or ENXIO; the frames then stay queued, and Kick does nothing until the socket
// is up again.
func (s *Socket) Kick() error {
	if s.sending == 0 || s.State() != StateUp {
		return nil
	}
	pending := s.tx.pending()
	// With zero-copy the driver polls the ring by itself until it sets the
	// flag. In copy mode the flag is always set.
	if pending == 0 || !s.tx.needWakeup() {
		return nil
	}
	return s.kick(pending)
}

// kick makes at most pending system calls for pending frames.
//
//	0                everything is sent, or the driver is awake
//	EAGAIN           the budget of one call is used up, or the device's queue is
//	                 full: again, as often as the budget needs
//	EBUSY            one frame was taken and dropped (peer's ring full, no
//	                 carrier, too long): again for the rest. With zero-copy, the
//	                 driver is busy: the next flush tries again
//	EINTR            again
//	ENETDOWN, ENXIO  never clears by itself while frames are queued: stop
//	other            out of memory (ENOBUFS, ENOMEM): the next flush tries again
func (s *Socket) kick(pending int) error {
	rounds := pending/s.budget + 1
	for range pending {
		switch errno := s.sendto(); errno {
		case unix.EAGAIN:
			if rounds--; rounds == 0 || s.zeroCopy {
				return nil
			}
		case unix.EBUSY:
			if s.zeroCopy {
				return nil
			}
			s.wasted++
		case unix.EINTR:
		case unix.ENETDOWN, unix.ENXIO:
			return s.stop(errno)
		default:
			return nil
		}
	}
	return nil
}

// sendto is the kick itself. It is a raw system call, which does not tell Go's
// scheduler: the call takes up to 150 µs of work and never sleeps, and to hand
// the processor to another thread and get it back costs a sixth of the worker's
// time.
func (s *Socket) sendto() unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// stop records that the device cannot send. ENXIO is what an unbound socket
// answers, but also what some drivers answer while no XDP program is attached;
// the socket's pending error (xsk_notifier) tells a deleted device from those.
func (s *Socket) stop(errno unix.Errno) error {
	if errno == unix.ENXIO {
		if e, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
			s.state.Store(uint32(StateGone))
			return unix.ENXIO
		}
	}
	s.state.Store(uint32(StateDown))
	s.probe = time.Now().Add(probeInterval)
	return errno
}

// SetUp tells the socket that its link came up or went down. Frames queued
// while it was down are sent by the next Kick after it is up.
func (s *Socket) SetUp(up bool) {
	switch {
	case s.State() == StateGone:
	case up:
		s.state.Store(uint32(StateUp))
	default:
		s.state.Store(uint32(StateDown))
		s.probe = time.Now().Add(probeInterval)
	}
}

// retry tries a socket that is down again, at most once every probeInterval, so
// that a missed or coalesced link event cannot silence it for good.
func (s *Socket) retry() {
	if time.Now().Before(s.probe) {
		return
	}
	if s.kick(1) == nil {
		s.state.Store(uint32(StateUp))
	}
}
