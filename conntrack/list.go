package conntrack

import (
	"sync/atomic"

	"sluice/internal/verdict"
)

// Snapshot is a copy of a flow, taken at one moment but for its counters.
type Snapshot struct {
	ID, Generation  uint32
	Original, Reply Tuple
	Kind            Kind
	State           State
	InPort, OutPort uint8
	Service         uint16
	Backend         uint32
	Created         Tick
	LastSeen        Tick
	Timeout         Tick // silence after LastSeen that ends it
	Packets, Bytes  [2]uint64
}

// Cursor is a place in a walk over the flows. The zero value is the beginning.
type Cursor struct{ id uint32 }

// chunk is how many records a walk looks at between two burst boundaries: it
// keeps ended flows from being reused for some microseconds.
const chunk = 64

// Each calls fn with the live flows from the cursor on until it returns false or
// there are no more, and moves the cursor behind the last one. fn may take its
// time: it holds nothing back. Flows that begin or end meanwhile may or may not
// be seen; every other one is seen exactly once.
func (t *Table) Each(from *Cursor, fn func(Snapshot) bool) {
	var buffer [chunk]Snapshot
	for {
		start := from.id
		n := t.copyChunk(from, &buffer)
		for i := range buffer[:n] {
			if !fn(buffer[i]) {
				from.id = buffer[i].ID
				return
			}
		}
		if from.id == start {
			return
		}
	}
}

// copyChunk copies the live flows of the next records. The control plane's
// worker is online meanwhile, so that none of them is reused.
func (t *Table) copyChunk(from *Cursor, buffer *[chunk]Snapshot) (n int) {
	t.control.Lock()
	defer t.control.Unlock()
	w := t.workers[len(t.workers)-1]
	w.Online()
	defer w.Offline()
	limits := t.limits.Load()
	last := min(from.id+chunk, t.flowPool.fresh.Load())
	for id := from.id + 1; id <= last; id++ {
		if t.flows[id].snapshot(id, limits, &buffer[n]) {
			n++
		}
	}
	from.id = max(from.id, last)
	return n
}

// snapshot copies a live flow.
func (f *Flow) snapshot(id uint32, limits *limits, to *Snapshot) bool {
	s := status(f.status.Load())
	if s.phase() != phaseLive {
		return false
	}
	*to = Snapshot{
		ID: id, Generation: f.generation, Original: f.tuple[0], Reply: f.tuple[1],
		Kind: f.Kind(), State: s.state(), InPort: f.in, OutPort: f.out, Service: f.service, Backend: f.backend,
		Created: f.created, LastSeen: f.lastSeen(), Timeout: limits.of(s.state(), &f.tuple[Original]),
	}
	for d := range f.packets {
		to.Packets[d], to.Bytes[d] = atomic.LoadUint64(&f.packets[d]), atomic.LoadUint64(&f.bytes[d])
	}
	return true
}

// End ends the flow that id and generation name, for the control plane. It
// reports whether there was one.
func (t *Table) End(id, generation uint32, why verdict.Reason, now Tick) bool {
	t.control.Lock()
	defer t.control.Unlock()
	if id == 0 || int(id) >= len(t.flows) {
		return false
	}
	w := t.workers[len(t.workers)-1]
	w.Online()
	defer w.Offline()
	w.now = now
	f := &t.flows[id]
	// Live first: only then the generation does not change under us.
	return f.Alive() && f.generation == generation && w.Retire(f, why)
}

// Counts is how much of the table is in use.
type Counts struct {
	Flows, FlowCapacity       int
	Mappings, MappingCapacity int
	Sources, SourceCapacity   int
	States                    [States]int // flows in each state
}

// Count adds up the workers' counts. Its cost does not depend on the flows.
func (t *Table) Count() Counts {
	c := Counts{FlowCapacity: len(t.flows) - 1, MappingCapacity: len(t.mappings) - 1, SourceCapacity: len(t.sources) - 1}
	for _, w := range t.workers {
		for s := range w.states {
			n := int(w.states[s].Load())
			c.States[s] += n
			c.Flows += n
		}
		c.Mappings += int(w.mappingCount.Load())
		c.Sources += int(w.sourceCount.Load())
	}
	return c
}
