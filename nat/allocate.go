package nat

import (
	"math/bits"
	"math/rand/v2"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// PortRange is the external ports that TCP and UDP are mapped to, both ends
// included. Port 0 is never given out, whatever Low says.
type PortRange struct{ Low, High uint16 }

// DefaultPorts is the range that RFC 6056 3.2 asks for.
var DefaultPorts = PortRange{1024, 65535}

// identifiers is the range of ICMP echo: every identifier is as good as another.
var identifiers = PortRange{0, 65535}

func (r PortRange) empty() bool            { return r.Low > r.High }
func (r PortRange) contains(p uint16) bool { return r.Low <= p && p <= r.High }
func (r PortRange) within(low, high uint16) PortRange {
	return PortRange{max(r.Low, low), min(r.High, high)}
}

// classes divides the ports of proto into those where a mapping of an inside
// port belongs, and the rest, either of which may be empty. RFC 4787 REQ-3a: the
// well-known ports map among themselves, and so do the others.
func (r PortRange) classes(proto uint8, inside uint16) (own, rest PortRange) {
	if proto == packet.ProtoICMP {
		return identifiers, PortRange{1, 0}
	}
	low, high := r.within(1, 1023), r.within(1024, 65535)
	if inside < 1024 {
		return low, high
	}
	return high, low
}

// Allocator finds external ports for the mappings that one worker makes. The
// zero value must be seeded before use. It belongs to one worker: the generator
// is its own, so that workers neither wait for each other nor can be predicted
// from each other.
type Allocator struct {
	ports     PortRange
	behaviour Behaviour
	random    rand.ChaCha8
	allowed   int // ports that may be looked at for sharing: see Allow
	guessed   guess
	counts    AllocatorCounters
}

// AllocatorCounters is how the search went, added to by the worker alone.
type AllocatorCounters struct {
	Kept      uint64 // mappings with their inside port
	Searched  uint64 // mappings with another port
	Early     uint64 // those among them whose port had not rested long enough
	Shared    uint64 // mappings with a port that another has, too
	Races     uint64 // ports lost to another worker between search and claim
	Exhausted uint64 // refusals: no port free on the address
	Probes    uint64 // ports looked at for sharing
}

// Seed keys the choice of ports, which must be different for every worker and
// start (RFC 6056 section 3.3), and sets the range to DefaultPorts.
func (a *Allocator) Seed(seed [32]byte) {
	a.random.Seed(seed)
	a.ports = DefaultPorts
}

// SetPorts changes the range for mappings made from now on; those that exist
// keep their ports (RFC 4787 REQ-11).
func (a *Allocator) SetPorts(r PortRange) { a.ports = r }

// Counters returns a copy of the worker's counts.
func (a *Allocator) Counters() AllocatorCounters { return a.counts }

// raceLimit is how many claims may be lost to other workers before Map takes the
// address for exhausted. Each loss is another worker's gain, so it is only met
// where next to nothing is free: and there a port whose mapping is just ending
// looks free before it can be claimed, which must not keep a worker busy for as
// long as the one that ends it is off its CPU.
const raceLimit = 64

// MapFrom is Map at the address of the pool that the inside source is paired
// with; see Pool. It returns NoExternalAddress for a pool that is empty or nil.
func (a *Allocator) MapFrom(w *conntrack.Worker, pool *Pool, proto uint8, inside uint32, port uint16, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	ext, source, r := pool.choose(w, inside)
	if r != verdict.None {
		return nil, r
	}
	return a.endpoint(w, &conntrack.Claim{Proto: proto, Inside: inside, InsidePort: port, External: ext, Source: source}, nil, nil, now)
}

// Map returns the mapping of the inside endpoint at the external address ext,
// with a reference that the caller holds, and makes it if there is none. The
// mapping is the same towards every destination (RFC 4787 REQ-1, RFC 5382
// REQ-1), and no other endpoint has its port (RFC 4787 REQ-3, RFC 5382 REQ-7).
// For ICMP echo, port is the identifier (RFC 5508 REQ-1a).
//
// The inside port is kept where it is free and in the range (but see
// Behaviour.Random); otherwise the next
// free one is taken from a random start, over the whole range; and where none is
// free, one that still rests (see conntrack.External.LongestResting). So this
// fails with PortsExhausted when no port is free, and never by chance; and it
// never ends a mapping to make room (RFC 6888 REQ-11A, REQ-11D).
func (a *Allocator) Map(w *conntrack.Worker, ext *conntrack.External, proto uint8, inside uint32, port uint16, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	return a.endpoint(w, &conntrack.Claim{Proto: proto, Inside: inside, InsidePort: port, External: ext}, nil, nil, now)
}

// endpoint is Map for a claim that is endpoint-independent. It takes over the
// reference to the claim's source, if there is one. target is that of the packet
// that the mapping is for, nil where its port must not be shared.
func (a *Allocator) endpoint(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, s *Search, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	if m := w.FindMapping(c.Proto, c.Inside, c.InsidePort, c.External); m != nil {
		if c.Source != nil {
			w.ReleaseSource(c.Source)
		}
		return m, verdict.None
	}
	return a.create(w, c, target, s, now)
}

// create makes the mapping of a claim for which there was none a moment ago. It
// takes over the reference to its source, if there is one already.
func (a *Allocator) create(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, s *Search, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	if c.Source == nil {
		var r verdict.Reason
		if c.Source, r = w.Source(c.Inside); r != verdict.None {
			return nil, r
		}
	}
	if w.Table().Full(c.Source) {
		w.ReleaseSource(c.Source)
		return nil, verdict.SourceLimit
	}
	var m *conntrack.Mapping
	made, r := false, verdict.PortsExhausted
	if s == nil || !s.lost {
		m, made, r = a.claim(w, c, now)
	}
	if m == nil && r == verdict.PortsExhausted {
		// The last port may have gone to another worker for this very endpoint.
		if m = find(w, c); m == nil && target != nil {
			m, made, r = a.share(w, c, target, s, now)
		}
	}
	if !made {
		w.ReleaseSource(c.Source)
	}
	if m != nil {
		return m, verdict.None
	}
	if r == verdict.PortsExhausted {
		a.counts.Exhausted++
		c.External.Refuse(c.Proto)
	}
	return nil, r
}

// claim tries the ports that the claim may have, one after the other: first the one
// that was chosen ahead, if any. made says that the mapping is new.
func (a *Allocator) claim(w *conntrack.Worker, c *conntrack.Claim, now conntrack.Tick) (m *conntrack.Mapping, made bool, r verdict.Reason) {
	for attempt := range raceLimit {
		hinted := attempt == 0 && c.Port != 0 && w.Available(c.External, c.Proto, c.Port, c.Inside, c.InsidePort, now)
		if !hinted && !a.candidate(w, c, attempt == 0, now) {
			break
		}
		m, existed, taken, r := w.Claim(c, now)
		if taken {
			a.counts.Races++
			continue
		}
		if existed || r != verdict.None {
			return m, false, r
		}
		c.Source.Pair(c.External.Address())
		switch {
		case c.Port == c.InsidePort:
			a.counts.Kept++
		default:
			a.counts.Searched++
		}
		if c.Early {
			a.counts.Early++
		}
		return m, true, verdict.None
	}
	return nil, false, verdict.PortsExhausted
}

// candidate sets the claim's port to one that is neither mapped nor the host's:
// the inside one if keep is set and it is free, otherwise one of its class,
// otherwise any, otherwise one that rests. It returns false if there is none in
// the whole range.
func (a *Allocator) candidate(w *conntrack.Worker, c *conntrack.Claim, keep bool, now conntrack.Tick) bool {
	own, rest := a.ports.classes(c.Proto, c.InsidePort)
	c.Early = false
	if keep && !a.behaviour.Random && own.contains(c.InsidePort) && w.Available(c.External, c.Proto, c.InsidePort, c.Inside, c.InsidePort, now) {
		c.Port = c.InsidePort
		return true
	}
	for _, r := range [2]PortRange{own, rest} {
		if port, ok := a.free(c, r); ok {
			c.Port = port
			return true
		}
	}
	for _, r := range [2]PortRange{own, rest} {
		if !r.empty() {
			port, ok := c.External.LongestResting(c.Proto, a.within(r), r.Low, r.High, now)
			if ok {
				c.Port, c.Early = port, true
				return true
			}
		}
	}
	return false
}

// nearProbes is how many places of the range are tried at random.
const nearProbes = 4

// free is a free port of r, if there is any: near one of a few random places, else the
// next one from another. Without the former, whatever begins in a stretch where all
// are taken would get the port after that, which is easy to guess, and far from where the
// search began. UDP keeps the parity of the inside
// port while a port has it (RFC 4787 REQ-4): RTP has even ports, its RTCP odd ones. It
// is given up where ports are to be hard to guess (RFC 7857 8).
func (a *Allocator) free(c *conntrack.Claim, r PortRange) (port uint16, ok bool) {
	if r.empty() {
		return 0, false
	}
	parity := c.Proto == packet.ProtoUDP && !a.behaviour.Random
	for range nearProbes {
		if parity {
			port, ok = c.External.FreeNearLike(c.Proto, c.InsidePort, a.within(r), r.Low, r.High)
		} else {
			port, ok = c.External.FreeNear(c.Proto, a.within(r), r.Low, r.High)
		}
		if ok {
			return port, true
		}
	}
	from := a.within(r)
	if parity {
		if port, ok = c.External.NextFreeLike(c.Proto, c.InsidePort, from, r.Low, r.High); ok {
			return port, ok
		}
	}
	return c.External.NextFree(c.Proto, from, r.Low, r.High)
}

// within is a random port of r, which is not empty: where a search begins (RFC
// 6056 3.3.2, RFC 6888 REQ-15, RFC 7857 9).
func (a *Allocator) within(r PortRange) uint16 {
	return r.Low + uint16(a.below(uint32(r.High-r.Low)+1))
}

// below is a random number under n.
func (a *Allocator) below(n uint32) uint32 {
	// The high half of random × n is uniform over [0, n) but for n / 2^64.
	v, _ := bits.Mul64(a.random.Uint64(), uint64(n))
	return uint32(v)
}
