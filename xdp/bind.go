package xdp

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bindFirst binds the socket that registered the UMEM, and settles its mode.
func (s *Socket) bindFirst(cfg SocketConfig) error {
	const wakeup = unix.XDP_USE_NEED_WAKEUP
	reason := cfg.Reason
	switch cfg.Mode {
	case ModeZeroCopy:
		if err := s.bind(unix.XDP_ZEROCOPY|wakeup, 0, callBindZero); err != nil {
			return err
		}
		return s.settleFirst(cfg, reason)
	case ModeAuto:
		if cfg.NIC.FeaturesKnown && !cfg.NIC.ZeroCopy {
			reason = noZeroCopy(cfg.NIC)
			break
		}
		err := s.bind(unix.XDP_ZEROCOPY|wakeup, 0, callBindZero)
		if err == nil {
			return s.settleFirst(cfg, "the driver "+cfg.NIC.Driver+" offers it")
		}
		if !refusesZeroCopy(err) {
			return err
		}
		reason = fmt.Sprintf("the driver %s refuses zero-copy: %v", cfg.NIC.Driver, errors.Unwrap(err))
	}
	if err := s.bind(unix.XDP_COPY|wakeup, 0, callBindCopy); err != nil {
		return err
	}
	return s.settleFirst(cfg, reason)
}

func (s *Socket) settleFirst(cfg SocketConfig, reason string) error {
	if err := s.settle(cfg, reason); err != nil {
		return err
	}
	s.umem.zeroCopy = s.zeroCopy
	s.umem.reason = fmt.Sprintf("the worker's UMEM is shared with %s, which is in %v mode (%s)", s.nic.Name, s.mode, reason)
	return nil
}

// bindShared binds a socket to another queue or device with the UMEM, thus the
// mode, that o registered.
func (s *Socket) bindShared(cfg SocketConfig, o *Socket) error {
	u := s.umem
	if cfg.Mode != ModeAuto && u.zeroCopy != (cfg.Mode == ModeZeroCopy) {
		return &SetupError{
			Interface: s.nic.Name, Queue: s.queue, Call: callBindShared,
			Err:    fmt.Errorf("mode %v is asked for, but %s", cfg.Mode, u.reason),
			Remedy: "ask for one mode on all interfaces, or for auto",
		}
	}
	// The kernel takes no other flag here: mode and need-wakeup are inherited.
	if err := s.bind(unix.XDP_SHARED_UMEM, o.fd, callBindShared); err != nil {
		return err
	}
	reason := u.reason
	switch {
	case o.nic.Ifindex == s.nic.Ifindex:
		reason = o.reason
	case cfg.Mode != ModeAuto:
		reason = cfg.Reason
	case cfg.NIC.FeaturesKnown && !cfg.NIC.ZeroCopy:
		reason = noZeroCopy(cfg.NIC)
	}
	return s.settle(cfg, reason)
}

// bind binds s, and retries while the queue is being torn down.
func (s *Socket) bind(flags uint16, shared int, call string) error {
	sa := &unix.SockaddrXDP{
		Flags: flags, Ifindex: uint32(s.nic.Ifindex), QueueID: uint32(s.queue), SharedUmemFD: uint32(shared),
	}
	deadline := time.Now().Add(s.patience)
	for {
		err := unix.Bind(s.fd, sa)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return setupError(s.nic.Name, s.queue, call, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// settle reads which mode the kernel chose: the truth, whatever was asked for.
func (s *Socket) settle(cfg SocketConfig, reason string) error {
	var options uint32
	if _, err := getsockopt(s.fd, unix.XDP_OPTIONS, unsafe.Pointer(&options), unsafe.Sizeof(options)); err != nil {
		return setupError(s.nic.Name, s.queue, callOptions, err)
	}
	s.reason = reason
	s.zeroCopy = options&unix.XDP_OPTIONS_ZEROCOPY != 0
	switch {
	case s.zeroCopy:
		s.mode = ModeZeroCopy
	case cfg.Mode == ModeGeneric:
		s.mode = ModeGeneric
	default:
		s.mode = ModeCopy
	}
	return nil
}

// noZeroCopy is the reason for copy mode on a NIC known to have nothing better.
func noZeroCopy(n *NIC) string { return "the driver " + n.Driver + " has no zero-copy" }

// refusesZeroCopy reports whether a failed bind says something of zero-copy,
// and not that the queue is taken, a privilege missing or the device gone.
func refusesZeroCopy(err error) bool {
	for _, e := range []unix.Errno{unix.EBUSY, unix.EPERM, unix.EACCES, unix.ENODEV, unix.ENETDOWN, unix.EINTR} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

// drainPatience is how long Close waits for frames that are being sent.
const drainPatience = 20 * time.Millisecond

// Close sends what is queued, as far as that takes no longer than 20 ms, and
// closes the socket; its slot in an XSKMAP becomes empty by itself.
//
// Its frames become free again as soon as the kernel cannot touch them any
// more: those to be received into at once in copy mode, all of them when the
// device is gone, and otherwise when the queue was bound anew, which the kernel
// allows only after the driver let go.
func (s *Socket) Close() error {
	if s.closed {
		return nil
	}
	s.drain()
	gone := !s.bound()
	s.wasted += uint64(s.Pending()) // the kernel has not taken them and now never will
	err := s.discard()
	u := s.umem
	switch {
	case gone, s.sending == 0 && !s.zeroCopy:
		u.reclaim(s)
	case !s.zeroCopy:
		u.reclaimPlace(s, s.atFill)
	}
	return err
}

// drain waits a moment for queued frames to leave.
func (s *Socket) drain() {
	for deadline := time.Now().Add(drainPatience); ; time.Sleep(time.Millisecond) {
		err := s.Kick()
		s.Reap()
		if err != nil || s.sending == 0 || s.State() != StateUp || time.Now().After(deadline) {
			return
		}
	}
}

// discard undoes the mappings and closes the descriptor. The kernel releases a
// socket only when both are gone.
func (s *Socket) discard() error {
	// Whoever still uses the socket finds it gone, and touches no ring.
	s.closed, s.fillLevel, s.fillMost = true, 0, 0
	s.state.Store(uint32(StateGone))
	var errs []error
	for i, m := range s.maps {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
			s.maps[i] = nil
		}
	}
	s.rx, s.tx = ring[Desc]{}, ring[Desc]{}
	s.fill, s.completion = ring[uint64]{}, ring[uint64]{}
	// A child between fork and exec would keep the descriptor, thus the socket.
	syscall.ForkLock.RLock()
	errs = append(errs, unix.Close(s.fd))
	syscall.ForkLock.RUnlock()
	s.fd = -1
	if err := errors.Join(errs...); err != nil {
		return setupError(s.nic.Name, s.queue, "close", err)
	}
	return nil
}

// reclaim frees all frames of a closed socket and forgets it.
func (u *UMEM) reclaim(s *Socket) {
	u.reclaimPlace(s, s.atFill)
	u.reclaimPlace(s, s.atTX)
	u.sockets[s.id] = nil
}

// reclaimPlace frees the frames on one side of a closed socket.
func (u *UMEM) reclaimPlace(s *Socket, at place) {
	for f, p := range u.place {
		if p != at {
			continue
		}
		u.push(uint64(f))
		if at == s.atFill {
			s.filled--
			u.fill--
		} else {
			s.sending--
			u.tx--
		}
	}
}

// reclaimProven frees what was left of closed sockets on the queue that s is
// bound to.
func (u *UMEM) reclaimProven(s *Socket) {
	for _, o := range u.sockets {
		if o != nil && o.closed && o.queue == s.queue && o.nic.Ifindex == s.nic.Ifindex {
			u.reclaim(o)
		}
	}
}
