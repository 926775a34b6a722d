package xdp

import "sync/atomic"

// RingLevel is how full a ring is, in descriptors.
type RingLevel struct{ Size, Used int }

// RingLevels are the levels of a socket's rings. A ring that the socket does not
// use has size 0.
type RingLevels struct{ Fill, RX, TX, Completion RingLevel }

// RingLevels reads the indices that both sides share. It may be called from any
// goroutine while the socket is open; the levels of a busy socket are those of
// slightly different moments.
func (s *Socket) RingLevels() RingLevels {
	return RingLevels{
		Fill: s.fill.level(), RX: s.rx.level(), TX: s.tx.level(), Completion: s.completion.level(),
	}
}

// Backlog is how many received frames wait in the fullest ring of the port's
// queues. It belongs to the worker.
func (p *Port) Backlog() (most int) {
	for _, s := range p.rx {
		most = max(most, s.rx.level().Used)
	}
	return most
}

// level reads the shared indices, not the private copies, which belong to the
// worker.
func (r *ring[T]) level() RingLevel {
	if len(r.entries) == 0 {
		return RingLevel{}
	}
	// The consumer first: it only follows the producer, so that the difference
	// is never negative.
	consumed := atomic.LoadUint32(r.consumer)
	used := atomic.LoadUint32(r.producer) - consumed
	return RingLevel{Size: len(r.entries), Used: min(int(used), len(r.entries))}
}

// Traffic counts what went through a socket: frames given to the worker and
// taken from it, and their bytes.
type Traffic struct {
	RXPackets, RXBytes uint64
	TXPackets, TXBytes uint64
}

// traffic is Traffic as the worker counts it. One store a burst is all it costs;
// nobody else writes, so load and store need not be one step.
type traffic struct {
	rxPackets, rxBytes, txPackets, txBytes atomic.Uint64
}

func count(packets, bytes *atomic.Uint64, n int, sum uint64) {
	packets.Store(packets.Load() + uint64(n))
	bytes.Store(bytes.Load() + sum)
}

// Traffic may be called from any goroutine.
func (s *Socket) Traffic() Traffic {
	return Traffic{
		RXPackets: s.traffic.rxPackets.Load(), RXBytes: s.traffic.rxBytes.Load(),
		TXPackets: s.traffic.txPackets.Load(), TXBytes: s.traffic.txBytes.Load(),
	}
}
