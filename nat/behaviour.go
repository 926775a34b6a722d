package nat

import (
	"sluice/conntrack"
	"sluice/internal/verdict"
)

// MappingBehaviour is towards whom an inside endpoint keeps its external one: the
// mapping behaviours of RFC 4787. In the dependent modes an inside endpoint never has one
// external port towards two destinations while free ports are left.
type MappingBehaviour uint8

// The mapping behaviours.
const (
	MapEndpoint       MappingBehaviour = iota // endpoint-independent
	MapAddress                                // address-dependent
	MapAddressAndPort                         // address-and-port-dependent
)

// FilteringBehaviour is from whom packets to an external endpoint begin a flow:
// the filtering behaviours of RFC 4787. The zero value is the strictest.
type FilteringBehaviour uint8

// The filtering behaviours.
const (
	FilterAddressAndPort FilteringBehaviour = iota // nobody: flows begin inside
	FilterAddress                                  // addresses that the inside endpoint has had flows with
	FilterEndpoint                                 // everybody
)

// Behaviour is how mappings are made and who may use them. It holds for what
// begins from now on: a mapping that exists stays what it was made.
//
// A port is shared by several mappings only as far as whoever sends to it can be
// told apart: never, in ordinary operation, where mapping or filtering is
// endpoint-independent; by the peer's address where that decides; by the reply
// tuples of the flows otherwise. Even then free ports are used up first.
type Behaviour struct {
	Mapping   MappingBehaviour
	Filtering FilteringBehaviour

	// Overload has a port shared towards another destination where none is
	// left, whatever the above: this gives up RFC 4787 REQ-3 and REQ-11 for the
	// mappings made then, which have one flow each. Strangers that filtering
	// lets in reach the endpoint that had the port first.
	Overload bool

	// Random has every mapping get a port that is searched for: none keeps its
	// inside port (RFC 6056, RFC 7857 9).
	Random bool
}

// The words of the behaviours, as the configuration has them.
const (
	wordEndpoint = "endpoint-independent"
	wordAddress  = "address-dependent"
	wordPort     = "address-and-port-dependent"
)

// ConfiguredBehaviour is the behaviour that the words ask for. A word that is
// none is the default: endpoint-independent mapping, address-and-port-dependent
// filtering.
func ConfiguredBehaviour(mapping, filtering string, overload bool) Behaviour {
	b := Behaviour{Overload: overload}
	switch mapping {
	case wordAddress:
		b.Mapping = MapAddress
	case wordPort:
		b.Mapping = MapAddressAndPort
	}
	switch filtering {
	case wordAddress:
		b.Filtering = FilterAddress
	case wordEndpoint:
		b.Filtering = FilterEndpoint
	}
	return b
}

// String returns the word of the behaviour.
func (m MappingBehaviour) String() string {
	return [...]string{MapEndpoint: wordEndpoint, MapAddress: wordAddress, MapAddressAndPort: wordPort}[m%3]
}

// String returns the word of the behaviour.
func (f FilteringBehaviour) String() string {
	return [...]string{FilterAddressAndPort: wordPort, FilterAddress: wordAddress, FilterEndpoint: wordEndpoint}[f%3]
}

// shares reports whether mappings may share a port when none is left.
func (b Behaviour) shares() bool {
	return b.Overload || b.Mapping != MapEndpoint && b.Filtering != FilterEndpoint
}

// SetBehaviour changes what is mapped from now on.
func (a *Allocator) SetBehaviour(b Behaviour) { a.behaviour = b }

// MapFlow returns the mapping for a new flow (RFC 4787 REQ-1), with a reference that the caller
// holds, and makes it if there is none: at ext, or where that is nil, at the
// address of the pool that the source is paired with. key is the flow's tuple as
// its packet arrived, target the same with the destination that it will leave
// with. With ext the flow is hairpinned.
//
// Where the mapping's port is shared, the claim is the insertion of the flow's
// reply tuple: if conntrack.Worker.Create says that it is taken, another worker
// was faster, and ShareFlow may find another port.
//
// With PortSearchWaiting the flow has no port yet, and no more may be looked at
// now: MapFlow with the same arguments goes on, where s says.
func (a *Allocator) MapFlow(w *conntrack.Worker, pool *Pool, ext *conntrack.External, key, target *conntrack.Tuple, s *Search, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	return a.mapFlow(w, pool, ext, 0, key, target, s, now)
}

// mapFlow is MapFlow, which tries the port of a hint first where that is not 0.
func (a *Allocator) mapFlow(w *conntrack.Worker, pool *Pool, ext *conntrack.External, hint uint16, key, target *conntrack.Tuple, s *Search, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	c := conntrack.Claim{Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: ext, Port: hint, Peer: key.Dst}
	if ext == nil {
		var r verdict.Reason
		if c.External, c.Source, r = pool.choose(w, key.Src); r != verdict.None {
			return nil, r
		}
	}
	hairpin := ext != nil
	b := a.behaviour
	share := target
	if !b.shares() {
		share = nil
	}
	switch b.Mapping {
	case MapAddress:
		c.Scope, c.Listed = conntrack.ScopeAddress, b.Filtering != FilterEndpoint
		if m := find(w, &c); m != nil {
			if c.Source != nil {
				w.ReleaseSource(c.Source)
			}
			return m, verdict.None
		}
		return a.create(w, &c, share, s, now)
	case MapAddressAndPort:
		c.Scope, c.Listed = conntrack.ScopeFlow, b.Filtering == FilterAddress
		return a.create(w, &c, share, s, now)
	}
	c.Listed = b.Filtering == FilterAddress && !hairpin
	m, r := a.endpoint(w, &c, share, s, now)
	if m == nil || !c.Listed || m.Scope() != conntrack.ScopeEndpoint {
		return m, r
	}
	listed, r := w.List(m, key.Dst, now)
	if r != verdict.None {
		w.Release(m)
		return nil, r
	}
	return listed, verdict.None
}

// ShareFlow is MapFlow for a flow whose reply tuple another has at the port that
// MapFlow chose: it shares another port, if the behaviour allows it. s is MapFlow's.
func (a *Allocator) ShareFlow(w *conntrack.Worker, ext *conntrack.External, key, target *conntrack.Tuple, s *Search, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	if !a.behaviour.shares() {
		return nil, verdict.ReplyTupleTaken
	}
	s.lost = true
	c := conntrack.Claim{
		Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: ext, Peer: key.Dst,
		Scope: conntrack.ScopeFlow, Listed: a.behaviour.Filtering == FilterAddress,
	}
	return a.create(w, &c, target, s, now)
}

// find returns the mapping that a claim's endpoint has already, with a reference,
// or nil.
func find(w *conntrack.Worker, c *conntrack.Claim) *conntrack.Mapping {
	switch c.Scope {
	case conntrack.ScopeEndpoint:
		return w.FindMapping(c.Proto, c.Inside, c.InsidePort, c.External)
	case conntrack.ScopeAddress:
		return w.FindMappingTowards(c.Proto, c.Inside, c.InsidePort, c.External, c.Peer)
	}
	return nil
}

// Admitted returns the mapping by which a packet from outside, to an external
// endpoint that m holds, begins a flow, or the reason why it does not. It takes
// no reference.
func (b Behaviour) Admitted(w *conntrack.Worker, x *conntrack.External, m *conntrack.Mapping, proto uint8, port uint16, peer uint32) (*conntrack.Mapping, verdict.Reason) {
	switch {
	case m.Service() != 0: // a service's clients have it: nobody is to reach them by it
	case b.Filtering == FilterEndpoint: // RFC 4787 REQ-8, RFC 5382 REQ-3, RFC 6888 REQ-7
		return m, verdict.None
	case b.Filtering == FilterAddress:
		if m := w.PeerAt(x, proto, port, peer); m != nil {
			return m, verdict.None
		}
	}
	return nil, verdict.Filtered
}
