package asavie

import "sluice/xdp"

// FD is the socket's descriptor, for the XSKMAP and for poll.
func (s *Socket) FD() int { return s.xsk.FD() }

// Queue is the NIC's queue that the socket is bound to.
func (s *Socket) Queue() int { return s.queue }

// Receives reports whether the socket belongs in the XSKMAP.
func (s *Socket) Receives() bool { return s.receives }

// Mode is how frames get there, and why.
func (s *Socket) Mode() (mode xdp.Mode, reason string) { return s.mode, s.reason }

// State may be called from any goroutine.
func (s *Socket) State() xdp.State { return xdp.State(s.state.Load()) }

// Traffic may be called from any goroutine.
func (s *Socket) Traffic() xdp.Traffic {
	t := &s.traffic
	return xdp.Traffic{
		RXPackets: t.rxPackets.Load(), RXBytes: t.rxBytes.Load(),
		TXPackets: t.txPackets.Load(), TXBytes: t.txBytes.Load(),
	}
}

// RingLevels are how full the rings are. It may be called from any goroutine
// while the socket is open.
func (s *Socket) RingLevels() xdp.RingLevels {
	if s.xsk == nil {
		return xdp.RingLevels{}
	}
	level := func(used func() int) xdp.RingLevel {
		// The library reads the producer first. Where the consumer moves on
		// before it reads that, it calls the ring full: the lower of two.
		return xdp.RingLevel{Size: s.size, Used: min(used(), used())}
	}
	l := xdp.RingLevels{
		TX:         level(func() int { return s.size - s.xsk.NumFreeTxSlots() }),
		Completion: level(s.xsk.NumCompleted),
	}
	if s.receives {
		l.Fill = level(func() int { return s.size - s.xsk.NumFreeFillSlots() })
		l.RX = level(s.xsk.NumReceived)
	}
	return l
}

// Statistics asks the kernel. It may be called from any goroutine while the
// socket is open.
func (s *Socket) Statistics() (xdp.Statistics, error) {
	if s.xsk == nil {
		return xdp.Statistics{}, nil
	}
	all, err := s.xsk.Stats()
	if err != nil {
		return xdp.Statistics{}, &xdp.SetupError{Interface: s.nic.Name, Queue: s.queue, Call: "getsockopt(XDP_STATISTICS)", Err: err}
	}
	k := &all.KernelStats
	return xdp.Statistics{
		RXDropped: k.Rx_dropped, RXRingFull: k.Rx_ring_full, RXFillEmpty: k.Rx_fill_ring_empty_descs,
		RXInvalid: k.Rx_invalid_descs, TXInvalid: k.Tx_invalid_descs, TXRingEmpty: k.Tx_ring_empty_descs,
	}, nil
}
