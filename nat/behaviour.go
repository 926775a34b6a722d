package nat

import (
	"sluice/conntrack"
	"sluice/internal/packet"
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
func (a *Allocator) MapFlow(w *conntrack.Worker, pool *Pool, ext *conntrack.External, key, target *conntrack.Tuple, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	c := conntrack.Claim{Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: ext, Peer: key.Dst}
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
		return a.create(w, &c, share, now)
	case MapAddressAndPort:
		c.Scope, c.Listed = conntrack.ScopeFlow, b.Filtering == FilterAddress
		return a.create(w, &c, share, now)
	}
	c.Listed = b.Filtering == FilterAddress && !hairpin
	m, r := a.endpoint(w, &c, share, now)
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
// MapFlow chose: it shares another port, if the behaviour allows it.
func (a *Allocator) ShareFlow(w *conntrack.Worker, ext *conntrack.External, key, target *conntrack.Tuple, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	if !a.behaviour.shares() {
		return nil, verdict.ReplyTupleTaken
	}
	c := conntrack.Claim{
		Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: ext, Peer: key.Dst,
		Scope: conntrack.ScopeFlow, Listed: a.behaviour.Filtering == FilterAddress,
	}
	return a.create(w, &c, target, now)
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

// How many ports share looks at: some at random, so that it is hard to guess
// which it takes, then some more from where it stopped the last time, so that
// what its packet did not find its retransmission will. Each is a look-up: all
// together are some tens of microseconds.
const (
	randomProbes = 64
	shareProbes  = 1024
)

// share makes the claim's mapping at a port that another mapping has, and that is
// free towards the flow's peer (RFC 7857 3). Of an endpoint-independent claim it makes one for
// a single flow.
func (a *Allocator) share(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, now conntrack.Tick) (m *conntrack.Mapping, made bool, r verdict.Reason) {
	if c.Scope == conntrack.ScopeEndpoint {
		c.Scope = conntrack.ScopeFlow
	}
	ports := a.ports
	if c.Proto == packet.ProtoICMP {
		ports = identifiers
	}
	if ports.Low == 0 && c.Proto != packet.ProtoICMP {
		ports.Low = 1
	}
	c.Early = false
	for i := range min(shareProbes, int(ports.High)-int(ports.Low)+1+randomProbes) {
		if i < randomProbes {
			c.Port = a.within(ports)
		} else {
			a.cursor++
			if !ports.contains(a.cursor) {
				a.cursor = ports.Low
			}
			c.Port = a.cursor
		}
		a.counts.Probes++
		if c.On = sharable(w, c, target, now); c.On == nil {
			continue
		}
		m, existed, taken, r := w.Claim(c, now)
		switch {
		case taken:
			a.counts.Races++
			continue
		case existed || r != verdict.None:
			return m, false, r
		}
		c.Source.Pair(c.External.Address())
		a.counts.Shared++
		return m, true, verdict.None
	}
	return nil, false, verdict.PortsExhausted
}

// sharable returns the mapping that has the claim's port, if the claim may share
// it: a masqueraded endpoint's, of another inside endpoint, and nobody uses the
// port towards the peer.
func sharable(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, now conntrack.Tick) *conntrack.Mapping {
	if c.External.Reserved(c.Proto, c.Port) {
		return nil
	}
	on := w.MappingAt(c.External, c.Proto, c.Port)
	if on == nil || on.Service() != 0 {
		return nil
	}
	if addr, port := on.Inside(); addr == c.Inside && port == c.InsidePort {
		return nil
	}
	if c.Listed && w.PeerAt(c.External, c.Proto, c.Port, c.Peer) != nil {
		return nil
	}
	reply := target.Reverse()
	reply.Dst = c.External.Address()
	reply.DstPort = c.Port
	if flow, _ := w.Find(reply, now); flow != nil {
		return nil
	}
	return on
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
