package gateway

import (
	"sync/atomic"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// Burst is the most frames a worker takes from a port at once.
const Burst = conntrack.Burst

// Neighbour is a next hop whose link address a worker needs.
type Neighbour struct {
	Port fib.PortID
	Addr uint32
}

// Config is what a worker is made of. All of it outlives the worker.
type Config struct {
	ID       int
	Workers  int // that share the table and the external addresses
	Table    *conntrack.Table
	Ports    []Port // indexed by fib.PortID, at most MaxPorts
	Memory   Memory
	Snapshot *atomic.Pointer[Snapshot] // never nil inside

	// Resolve takes the neighbours to ask for. A send that would block is
	// skipped and tried again with the next packet. This channel holds the
	// only lock that a worker ever meets, at most once a neighbour and tick.
	Resolve chan<- Neighbour

	// Defend has addresses that another station says it has, with the port that it
	// said so on: they are announced there once more. nil is never.
	Defend <-chan Neighbour

	// Fragments is shared by all workers; nil is a worker that is alone. Wake ends
	// the sleep of another one that was handed a fragment; it is called at most
	// once a step and worker, from the worker's goroutine.
	Fragments *fragment.Exchange
	Wake      func(worker int)

	// Punt takes what the kernel must have; nil drops it.
	Punt Punter

	// Seed makes the port search unpredictable (RFC 6056); random per worker.
	Seed [32]byte
}

// Worker runs the pipeline for the queues it owns.
type Worker struct {
	id       int
	flows    *conntrack.Worker
	table    *conntrack.Table
	ports    []Port
	memory   Memory
	bytes    []byte
	pointer  *atomic.Pointer[Snapshot]
	snapshot *Snapshot // the one in use since the last burst boundary
	adopted  atomic.Pointer[Snapshot]
	looking  atomic.Pointer[Looks] // set by the control plane: see SetLooks
	looks    *Looks                // as it was at the last burst boundary; nil is none
	alloc    nat.Allocator
	resolve  chan<- Neighbour
	punter   Punter
	now      conntrack.Tick
	keyed    keyed
	idents   idents
	limit    errorLimit
	echoes   errorLimit
	mtu      uint16 // that the packet at hand does not fit
	manner   manner // in which it is dropped
	moved    bool   // its flow ended for its backend's sake; it begins another

	in      fib.PortID // port of the burst at hand
	frames  [Burst]xdp.Desc
	packets [Burst]packet.Packet
	lookup  conntrack.Lookup
	ahead   ahead
	index   [Burst]uint8 // lookup slot → frame of the burst
	out     [MaxPorts]outQueue
	wasted  [MaxPorts]uint64 // what each port had wasted when last asked
	dead    [Burst]xdp.Desc  // frames done with in this burst, freed together
	nDead   int
	pieces  [maxFragments - 1]xdp.Desc // of the packet at hand, but for the first
	hold    hold

	exchange *fragment.Exchange
	inbox    *fragment.Inbox    // what others hand over; nil where there are no others
	store    *fragment.Store    // the datagrams in fragments that this worker has
	datagram *fragment.Datagram // of the fragment at hand
	led      conntrack.Tuple    // by which the last fragment found its flow
	owes     []bool             // workers that something was handed to in this step
	wake     func(worker int)
	spare    [1]xdp.Desc // a frame for a copy

	searches searches
	syns     heldSYNs
	full     conntrack.Tick // when a table was last found full; meaningful while pressed
	pressed  bool

	backends   atomic.Pointer[backendCounts] // set by this worker alone
	announcing announcement
	defend     <-chan Neighbour

	counters  Counters
	published published
}

// New makes a worker and registers it with the flow table.
func New(c Config) *Worker {
	w := &Worker{
		id: c.ID, table: c.Table, flows: c.Table.Worker(c.ID),
		ports: c.Ports, memory: c.Memory, bytes: c.Memory.Bytes(),
		pointer: c.Snapshot, snapshot: c.Snapshot.Load(), resolve: c.Resolve, punter: c.Punt,
	}
	if w.exchange = c.Fragments; w.exchange == nil {
		w.exchange = fragment.NewExchange(1, newKeyed(c.Seed))
	}
	w.inbox, w.store = w.exchange.Inbox(c.ID), fragment.NewStore(w.exchange)
	w.defend = c.Defend
	w.owes, w.wake = make([]bool, w.exchange.Workers()), c.Wake
	w.alloc.Seed(c.Seed)
	w.keyed = newKeyed(c.Seed)
	w.idents = newIdents(w.keyed, c.ID, c.Workers)
	w.backends.Store(newBackendCounts(0))
	w.announce()
	w.adopt(w.snapshot)
	return w
}

// sweepPerStep is how many flow records one busy step looks at for expiry: 32
// records of one line each are under a microsecond. An idle worker is swept by
// Idle instead.
const sweepPerStep = 32

// Step takes one burst from every port, passes it on, and returns how many
// frames it saw; not 0 where packets wait for a port that is being searched. now is
// the current tick.
func (w *Worker) Step(now conntrack.Tick) int {
	w.begin(now)
	seen := 0
	if w.inbox != nil {
		seen = w.takeOver()
	}
	if w.looks != nil {
		w.captureQueued()
	}
	for i := range w.ports {
		n := w.ports[i].Receive(w.frames[:])
		if n > 0 {
			w.burst(fib.PortID(i), n)
			seen += n
		}
	}
	w.end(seen)
	if seen == 0 && w.searches.n > 0 {
		return 1 // there is more to do than to sleep until a frame comes
	}
	return seen
}

// begin enters a burst boundary: from here on the snapshot in use is the newest,
// and what waited for a change is tried again.
func (w *Worker) begin(now conntrack.Tick) {
	w.looks = w.looking.Load()
	s := w.pointer.Load()
	changed := s != w.snapshot
	if changed {
		w.adopt(s)
	}
	if now != w.now {
		w.now = now
		changed = true
		w.expireDatagrams()
		w.publish()
		w.announceMore()
	}
	if changed && w.hold.n > 0 {
		w.retryHeld()
	}
	if w.syns.n > 0 {
		w.answerSYNs()
	}
	w.alloc.Allow(searchPorts)
	if w.searches.n > 0 {
		w.goOnSearching()
	}
}

// adopt makes s the snapshot in use, and tells ports whose link came up or went
// down.
func (w *Worker) adopt(s *Snapshot) {
	for i := range w.ports {
		before, after := w.snapshot.Routes.Interface(fib.PortID(i)), s.Routes.Interface(fib.PortID(i))
		if before != nil && after != nil && before.Up != after.Up {
			w.ports[i].SetUp(after.Up)
		}
	}
	if w.announces(s) {
		w.announce()
	}
	w.snapshot = s
	w.growBackends(s.Balance.Backends)
	w.alloc.SetPorts(s.Ports)
	w.alloc.SetBehaviour(s.Behaviour)
	w.adopted.Store(s)
}

// Adopted is the snapshot that the worker uses. It may be called from any
// goroutine; once it returns a new one, no older one is read any more.
func (w *Worker) Adopted() *Snapshot { return w.adopted.Load() }

// end leaves the burst boundary: sends, gives memory back, and lets other
// workers reuse what this one no longer looks at.
func (w *Worker) end(seen int) {
	for i := range w.ports {
		w.transmit(fib.PortID(i))
		w.ports[i].Flush()
		w.countWasted(i)
	}
	if seen > 0 {
		w.flows.Sweep(sweepPerStep, w.now)
		w.counters.Bursts++
		w.counters.Packets += uint64(seen)
	}
	if w.inbox != nil {
		w.callOwners()
	}
	w.flows.Quiesce()
}

// Idle expires up to n flow records while there is no traffic, and publishes the
// counters. Offline must follow before the worker sleeps.
func (w *Worker) Idle(now conntrack.Tick, n int) {
	w.begin(now)
	w.flows.Sweep(n, now)
	w.publish()
	w.end(0)
}

// Offline tells the flow table that this worker sleeps and looks at no record;
// Online ends that.
func (w *Worker) Offline() { w.flows.Offline() }

// Online must be called before the Step that follows Offline.
func (w *Worker) Online() { w.flows.Online() }

// Waiting is the number of frames that wait for a neighbour's link address, or for
// a port.
func (w *Worker) Waiting() int { return w.hold.n + w.framesSearching() }

// Counters returns what was last published, at most a tick old while there is
// traffic. It may be called from any goroutine.
func (w *Worker) Counters() Counters { return w.published.load() }

// queue puts a frame that is ready to leave on port i's out queue.
func (w *Worker) queue(i fib.PortID, d xdp.Desc) {
	q := &w.out[i]
	if q.n == len(q.descs) {
		w.transmit(i)
	}
	q.descs[q.n] = d
	q.n++
}

// transmit hands port i what was queued for it.
func (w *Worker) transmit(i fib.PortID) {
	q := &w.out[i]
	if q.n == 0 {
		return
	}
	sent := w.ports[i].Transmit(q.descs[:q.n])
	c := &w.counters.Ports[i]
	for _, d := range q.descs[:sent] {
		c.TxPackets++
		c.TxBytes += uint64(d.Len)
	}
	if sent < q.n {
		r := verdict.TransmitRingFull
		c.RingFull += uint64(q.n - sent)
		if iface := w.snapshot.Routes.Interface(i); iface == nil || !iface.Up || !w.ports[i].Up() {
			r = verdict.InterfaceDown
		}
		w.counters.Drops[r] += uint64(q.n - sent)
		w.memory.Free(q.descs[sent:q.n])
	}
	q.n = 0
}

// countWasted turns frames that port i took and could not send into drops.
func (w *Worker) countWasted(i int) {
	n := w.ports[i].Wasted()
	if n != w.wasted[i] {
		w.counters.Drops[verdict.TransmitFailed] += n - w.wasted[i]
		w.counters.Ports[i].TxPackets -= n - w.wasted[i]
		w.wasted[i] = n
	}
}

// drop counts a frame under its reason and gives it back at the end of the
// burst.
func (w *Worker) drop(d xdp.Desc, r verdict.Reason) {
	w.counters.Drops[r]++
	w.discard(d)
}

// discard gives a frame back at the end of the burst.
func (w *Worker) discard(d xdp.Desc) {
	if w.nDead == len(w.dead) {
		w.free()
	}
	w.dead[w.nDead] = d
	w.nDead++
}

// free gives the discarded frames back.
func (w *Worker) free() {
	w.memory.Free(w.dead[:w.nDead])
	w.nDead = 0
}
