package conntrack

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// The memory, in order, each part aligned to two cache lines:
//
//	header    512 bytes: what is needed to read the rest, see header.go
//	buckets   64 bytes each, 3/4 as many as flows, rounded up to a prime
//	flows     128 bytes each; record 0 is never used, so that id 0 is "none"
//	mappings  64 bytes each, as many as flows
//	sources   32 bytes each, a quarter as many as flows
//
// Records are the truth; the index, the lists of free records and the port
// arrays can all be made again from them.

const (
	cacheLine = 64
	linePair  = 128     // what processors fetch together: a flow is one such pair
	maxFlows  = 1 << 30 // ids have 32 bits, and so have counts of buckets
)

// layoutHash changes when the size or place of anything in a record does.
func layoutHash() uint32 {
	var f Flow
	var m Mapping
	var s Source
	h := uint64(golden)
	for _, v := range []uintptr{
		unsafe.Sizeof(header{}), unsafe.Sizeof(bucket{}), unsafe.Sizeof(f), unsafe.Sizeof(m), unsafe.Sizeof(s),
		unsafe.Offsetof(f.tuple), unsafe.Offsetof(f.mapping), unsafe.Offsetof(f.backend), unsafe.Offsetof(f.service),
		unsafe.Offsetof(f.in), unsafe.Offsetof(f.out), unsafe.Offsetof(f.created), unsafe.Offsetof(f.generation),
		unsafe.Offsetof(f.seal), unsafe.Offsetof(f.nextHop), unsafe.Offsetof(f.status), unsafe.Offsetof(f.seen),
		unsafe.Offsetof(f.packets), unsafe.Offsetof(f.bytes), unsafe.Offsetof(f.sent), unsafe.Offsetof(f.acked),
		unsafe.Offsetof(f.windows),
		unsafe.Offsetof(m.inside), unsafe.Offsetof(m.external), unsafe.Offsetof(m.insidePort), unsafe.Offsetof(m.externalPort),
		unsafe.Offsetof(m.zone), unsafe.Offsetof(m.proto), unsafe.Offsetof(m.service), unsafe.Offsetof(m.source), unsafe.Offsetof(m.created),
		unsafe.Offsetof(m.refs), unsafe.Offsetof(m.quiet), unsafe.Offsetof(m.peer), unsafe.Offsetof(m.owner), unsafe.Offsetof(m.scope), unsafe.Offsetof(m.listed),
		unsafe.Offsetof(s.addr), unsafe.Offsetof(s.refs), unsafe.Offsetof(s.flows),
		uintptr(phaseLive), uintptr(States),
	} {
		h = mix(h^uint64(v), prime0)
	}
	return uint32(h)
}

// Config sizes a table.
type Config struct {
	MaxFlows int // flows, and mappings; sources are a quarter of it
	Workers  int // goroutines that use the table at the same time
	Timeouts Timeouts
	Seed     [2]uint64 // random
	Events   int       // events that a worker keeps for the reader; 0 = 1024

	// What the records refer to, so that another process knows whether it
	// can adopt them.
	Boot      [16]byte // the boot whose clock the Ticks are of
	Namespace uint64   // the network namespace of the addresses
	Services  Services // nil: flows of services keep their ids
	Ports     []string // the interfaces that InPort and OutPort number, at most 64
}

// shape is where everything lies: counts and offsets in bytes.
type shape struct {
	flows, mappings, sources, buckets int

	bucketsAt, flowsAt, mappingsAt, sourcesAt, size uintptr
}

// maxSources is a quarter of the flows, but not so few that a small table
// refuses a source for which it has room for a flow.
func maxSources(flows int) int { return max(flows/4, min(flows, 1024)) }

func (c *Config) shape() shape { return shapeOf(c.MaxFlows) }

func shapeOf(flows int) shape {
	s := shape{flows: flows, mappings: flows, sources: maxSources(flows)}
	// Full, with a mapping for each flow, the index holds 3.25 entries for
	// each: 62 % of its slots at three quarters of a bucket for each flow.
	s.buckets = primeFrom(max(s.flows-s.flows/4, 2*maxChain))
	at := unsafe.Sizeof(header{})
	part := func(size uintptr, n int) uintptr {
		start := (at + linePair - 1) &^ (linePair - 1)
		at = start + size*uintptr(n)
		return start
	}
	s.bucketsAt = part(unsafe.Sizeof(bucket{}), s.buckets)
	s.flowsAt = part(unsafe.Sizeof(Flow{}), s.flows+1)
	s.mappingsAt = part(unsafe.Sizeof(Mapping{}), s.mappings+1)
	s.sourcesAt = part(unsafe.Sizeof(Source{}), s.sources+1)
	s.size = at
	return s
}

// primeFrom is the least prime from n on. With a prime number of buckets every
// stride visits all of them.
func primeFrom(n int) int {
	for n |= 1; ; n += 2 {
		prime := true
		for d := 3; d*d <= n && prime; d += 2 {
			prime = n%d != 0
		}
		if prime {
			return n
		}
	}
}

// Size is how many bytes of memory New needs for cfg.
func Size(cfg Config) int {
	s := cfg.shape()
	return int(s.size)
}

func (c *Config) validate(mem []byte) error {
	switch {
	case c.MaxFlows < 1 || c.MaxFlows > maxFlows:
		return fmt.Errorf("flow table for %d flows: set conntrack.max-flows between 1 and %d", c.MaxFlows, maxFlows)
	case c.Workers < 1:
		return fmt.Errorf("flow table for %d workers: at least one is needed", c.Workers)
	case len(c.Ports) > maxPorts:
		return fmt.Errorf("flow table for %d interfaces: at most %d fit", len(c.Ports), maxPorts)
	case len(mem) < Size(*c):
		return fmt.Errorf("flow table for %d flows in %d bytes: %d are needed", c.MaxFlows, len(mem), Size(*c))
	case uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%cacheLine != 0:
		return fmt.Errorf("flow table memory at %p: it must be aligned to %d bytes", unsafe.SliceData(mem), cacheLine)
	}
	return nil
}

// New lays a table over mem: at least Size(cfg) bytes, zeroed, aligned to 64.
// The table keeps mem. It may lie outside the Go heap: no record holds a Go
// pointer.
func New(mem []byte, cfg Config) (*Table, error) {
	if err := cfg.validate(mem); err != nil {
		return nil, err
	}
	s := cfg.shape()
	h := headerOf(mem)
	if h.magic != 0 {
		return nil, fmt.Errorf("flow table memory holds a table (layout version %d) already; hand in zeroed memory", h.version)
	}
	h.describe(&cfg, &s)
	t := lay(mem, &cfg, &s)
	// Last: memory without the magic is not yet, or no longer, a table.
	atomic.StoreUint64(&h.magic, magic)
	return t, nil
}

// lay makes a table over memory whose header is good.
func lay(mem []byte, cfg *Config, s *shape) *Table {
	t := &Table{
		header:   headerOf(mem),
		buckets:  over[bucket](mem, s.bucketsAt, s.buckets),
		flows:    over[Flow](mem, s.flowsAt, s.flows+1),
		mappings: over[Mapping](mem, s.mappingsAt, s.mappings+1),
		sources:  over[Source](mem, s.sourcesAt, s.sources+1),
	}
	t.seed = t.header.seed
	t.start(cfg)
	return t
}

// over views n records of type T at offset at of mem. T holds no pointers, any
// bytes are a valid T, and at is a multiple of the cache line, which no T needs
// more of: so the view is as good as a slice of T that Go made. mem is long
// enough by validate; the slice expression asserts it again.
func over[T any](mem []byte, at uintptr, n int) []T {
	var zero T
	part := mem[at : at+uintptr(n)*unsafe.Sizeof(zero)]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(part))), n)
}

// idOf is the index of record r, which must point into records.
func idOf[T any](records []T, r *T) uint32 {
	// Both pointers are into the same array: their difference is a multiple
	// of the size of T. The compiler turns the division into a shift.
	return uint32((uintptr(unsafe.Pointer(r)) - uintptr(unsafe.Pointer(unsafe.SliceData(records)))) / unsafe.Sizeof(*r))
}
