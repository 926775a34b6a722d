package gateway

import (
	"sync/atomic"

	"sluice/internal/verdict"
	"sluice/nat"
)

// PortCounters count what a worker received and sent on one port. Bytes are
// those of whole frames.
type PortCounters struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	RingFull           uint64 // frames that the transmit ring had no room for
}

// Counters are a worker's own. The worker adds to them plainly and publishes
// copies; nobody else touches them.
type Counters struct {
	Drops [verdict.Count]uint64

	// Packets for the kernel by the reason for which they would have been
	// dropped: those it was given, and those that there was no room for,
	// which are drops.
	Punts, PuntsRefused [verdict.Count]uint64

	Ports [MaxPorts]PortCounters

	Completed  uint64 // partial transport checksums finished
	ARPReplies uint64 // answers for pool addresses
	Held       uint64 // frames that waited for a neighbour
	Resolves   uint64 // neighbours asked for
	Bursts     uint64
	Packets    uint64

	Errors        [ErrorKinds]uint64 // ICMP errors of our own, by kind
	ErrorsLimited uint64             // those not sent for the limit's sake
	Fragmented    uint64             // packets that left in fragments
	Fragments     uint64             // the fragments that they became

	FragmentsFollowed   uint64 // fragments of datagrams that may have to be translated
	FragmentsHeld       uint64 // of them, those that came before the first one of their datagram
	FragmentsHandedOver uint64 // given to the worker that has their datagram
	Services            ServiceCounters

	OutOfWindow  uint64 // TCP segments that passed and left no trace: see conntrack.Worker.Update
	Clamped      uint64 // SYNs whose maximum segment size was lowered
	EarlyDrops   uint64 // flows that ended to make room: see conntrack.Worker.EarlyDrop
	SYNsHeld     uint64 // unsolicited SYNs that an answer was put off for
	SearchesHeld uint64 // packets whose search for a port to share took more than a step
	EchoReplies  uint64 // answers to pings of pool addresses

	PortSearch nat.AllocatorCounters // as of the last publication
}

// words is the number of 64-bit words in Counters.
const words = 3*int(verdict.Count) + MaxPorts*5 + 25 + int(ErrorKinds) + serviceWords

// published holds the words of a Counters as the control plane may read them.
// Publishing happens a few times a second, so that the atomic stores cost a
// packet nothing.
type published [words]atomic.Uint64

func (p *published) store(c *Counters) {
	i := 0
	put := func(v uint64) {
		p[i].Store(v)
		i++
	}
	for _, list := range []*[verdict.Count]uint64{&c.Drops, &c.Punts, &c.PuntsRefused} {
		for _, v := range list {
			put(v)
		}
	}
	for j := range c.Ports {
		q := &c.Ports[j]
		put(q.RxPackets)
		put(q.RxBytes)
		put(q.TxPackets)
		put(q.TxBytes)
		put(q.RingFull)
	}
	for _, v := range c.Errors {
		put(v)
	}
	c.Services.each(func(v *uint64) { put(*v) })
	for _, v := range []uint64{c.Completed, c.ARPReplies, c.Held, c.Resolves, c.Bursts, c.Packets, c.ErrorsLimited, c.Fragmented, c.Fragments,
		c.PortSearch.Kept, c.PortSearch.Searched, c.PortSearch.Races, c.PortSearch.Exhausted,
		c.PortSearch.Early, c.PortSearch.Shared, c.PortSearch.Probes,
		c.FragmentsFollowed, c.FragmentsHeld, c.FragmentsHandedOver,
		c.OutOfWindow, c.Clamped, c.EarlyDrops, c.SYNsHeld, c.EchoReplies, c.SearchesHeld} {
		put(v)
	}
}

func (p *published) load() (c Counters) {
	i := 0
	get := func() uint64 {
		i++
		return p[i-1].Load()
	}
	for _, list := range []*[verdict.Count]uint64{&c.Drops, &c.Punts, &c.PuntsRefused} {
		for j := range list {
			list[j] = get()
		}
	}
	for j := range c.Ports {
		c.Ports[j] = PortCounters{get(), get(), get(), get(), get()}
	}
	for j := range c.Errors {
		c.Errors[j] = get()
	}
	c.Services.each(func(v *uint64) { *v = get() })
	for _, v := range []*uint64{&c.Completed, &c.ARPReplies, &c.Held, &c.Resolves, &c.Bursts, &c.Packets, &c.ErrorsLimited, &c.Fragmented, &c.Fragments,
		&c.PortSearch.Kept, &c.PortSearch.Searched, &c.PortSearch.Races, &c.PortSearch.Exhausted,
		&c.PortSearch.Early, &c.PortSearch.Shared, &c.PortSearch.Probes,
		&c.FragmentsFollowed, &c.FragmentsHeld, &c.FragmentsHandedOver,
		&c.OutOfWindow, &c.Clamped, &c.EarlyDrops, &c.SYNsHeld, &c.EchoReplies, &c.SearchesHeld} {
		*v = get()
	}
	return c
}

// publish lets others see what was counted.
func (w *Worker) publish() {
	w.counters.PortSearch = w.alloc.Counters()
	w.published.store(&w.counters)
	w.backends.Load().store()
}
