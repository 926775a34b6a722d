package conntrack

import (
	"sync"
	"sync/atomic"

	"sluice/internal/verdict"
)

// Table is the flow memory and what leads to it.
type Table struct {
	header   *header
	seed     seed
	nBuckets uint32
	buckets  []bucket
	flows    []Flow // by id; 0 is never used
	mappings []Mapping
	sources  []Source

	limits    atomic.Pointer[limits]
	externals atomic.Pointer[externals]
	workers   []*Worker // the last one is the control plane's
	peers     peers

	flowPool, mappingPool, sourcePool *pool

	_     [cacheLine]byte
	epoch atomic.Uint64 // begins at 1
	_     [cacheLine - 8]byte
	swept atomic.Uint32 // Sweep's place, shared: the records are swept by whoever has time
	woken atomic.Uint32 // wakePorts', likewise
	_     [cacheLine - 8]byte

	rest        atomic.Uint32 // Timeouts.PortRest
	sourceLimit atomic.Uint32 // see SetSourceLimit

	control sync.Mutex // guards the control plane's worker and changes of externals
}

// start makes everything that is not in the memory.
func (t *Table) start(cfg *Config) {
	t.nBuckets = uint32(len(t.buckets))
	t.SetTimeouts(&cfg.Timeouts)
	t.externals.Store(&externals{})
	t.epoch.Store(1)
	n := cfg.Workers + 1
	t.flowPool = newPool(len(t.flows)-1, n, func(id uint32) *atomic.Uint32 { return &t.flows[id].link })
	t.mappingPool = newPool(len(t.mappings)-1, n, func(id uint32) *atomic.Uint32 { return &t.mappings[id].link })
	t.sourcePool = newPool(len(t.sources)-1, n, func(id uint32) *atomic.Uint32 { return &t.sources[id].link })
	for i := range n {
		w := &Worker{table: t, probe: uint64(i) << 48}
		w.flows.pool, w.mappings.pool, w.sources.pool = t.flowPool, t.mappingPool, t.sourcePool
		w.events.init(cfg.Events)
		t.workers = append(t.workers, w)
	}
}

// SetTimeouts changes the time-outs of all flows, those that exist too.
func (t *Table) SetTimeouts(timeouts *Timeouts) {
	t.limits.Store(timeouts.limits())
	t.rest.Store(uint32(timeouts.PortRest))
}

// ID is the id of a flow: with its generation, the flow's stable name.
func (t *Table) ID(f *Flow) uint32 { return idOf(t.flows, f) }

// Worker is the handle by which one goroutine uses the table.
type Worker struct {
	// local is the epoch that this worker last saw at a burst boundary, 0
	// while it looks at nothing. Others read it.
	_     [cacheLine]byte
	local atomic.Uint64
	_     [cacheLine - 8]byte

	table    *Table
	now      Tick // of the call at hand, for events
	flows    stash
	mappings stash
	sources  stash
	events   Ring
	ahead    Ahead
	probe    uint64 // counts the records that EarlyDrop looked at

	// How many flows in each state, mappings and sources began here minus
	// how many ended here: only the sums over all workers mean anything.
	// Written by this worker alone.
	states       [States]atomic.Int64
	mappingCount atomic.Int64
	sourceCount  atomic.Int64
}

// Worker returns the handle of worker i, of Config.Workers, and puts it online.
// Each may be used by one goroutine at a time.
func (t *Table) Worker(i int) *Worker {
	w := t.workers[:len(t.workers)-1][i]
	w.Online()
	return w
}

// note is the one place that every birth, change of state and end of a flow
// comes through: it keeps the counts and tells whoever watches.
func (w *Worker) note(what EventType, f *Flow, from, to State, why verdict.Reason) {
	if from != StateNone {
		add(&w.states[from], -1)
	}
	if to != StateNone {
		add(&w.states[to], 1)
	}
	if w.events.open.Load() {
		state := to
		if what == EventEnd {
			state = from
		}
		w.events.write(what, w.table.ID(f), f, state, why, w.now)
	}
}
