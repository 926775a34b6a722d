package conntrack

import "sluice/internal/verdict"

// Scope is towards whom a mapping is used: the mapping behaviours of RFC 4787.
//
// A mapping has an external port of its own, or shares that of another, its
// owner, which then does not end before it. What tells the sharers apart is the
// reply tuple of each flow, whose insertion is the claim; and where packets from
// any port of a peer may begin a flow (address-dependent filtering), the address
// of the peer, by which the mapping is listed: two sharers of a port are never
// listed by one address.
type Scope uint8

const (
	ScopeEndpoint Scope = iota // towards everybody: endpoint-independent
	ScopeAddress               // towards one address
	ScopeFlow                  // for one flow only; nothing finds it but the flow

	// ScopePeer is no mapping of its own: it says that the one whose port it
	// shares has had flows with one more address.
	ScopePeer
	scopes
)

// Claim is what Worker.Claim makes a mapping of.
type Claim struct {
	Proto      uint8
	Inside     uint32
	InsidePort uint16
	External   *External
	Port       uint16 // of External

	Scope  Scope
	Peer   uint32   // of a mapping that is listed, or of ScopeAddress or ScopePeer
	Listed bool     // by Peer
	On     *Mapping // whose port is shared; nil: the port must be free
	Early  bool     // take the port even if it rests

	Source  *Source // may be nil
	Service uint16  // whose client it is, 0 = a masqueraded endpoint; see Mapping.Service
}

// found reports whether the inside endpoint finds the mapping.
func (m *Mapping) found() bool { return m.scope == ScopeEndpoint || m.scope == ScopeAddress }

// key is the key by which the inside endpoint finds the mapping.
func (m *Mapping) key() key {
	if m.scope == ScopeAddress {
		return towardsKey(m.proto, m.inside, m.insidePort, m.zone, m.at, m.peer)
	}
	return mappingKey(m.proto, m.inside, m.insidePort, m.zone, m.external).of(m.service)
}

// peerKey is the key by which a packet of the peer's finds the mapping.
func (m *Mapping) peerKey() key {
	return peerKey(m.proto, m.external, m.externalPort, m.zone, m.peer)
}

// has reports whether k is a key of the mapping.
func (m *Mapping) has(k key) bool {
	if k.b>>56 == domainPeer>>56 {
		return m.listed != 0 && m.peerKey() == k
	}
	return m.found() && m.key() == k
}

// towardsKey is that of a mapping towards one address. The external address is in
// it by its place in the list, which does not change while mappings use it.
func towardsKey(proto uint8, inside uint32, port, zone, at uint16, peer uint32) key {
	return key{
		uint64(inside) | uint64(peer)<<32,
		uint64(port) | uint64(at)<<16 | uint64(zone)<<32 | uint64(proto)<<48 | domainTowards,
	}
}

func peerKey(proto uint8, external uint32, port, zone uint16, peer uint32) key {
	return key{
		uint64(external) | uint64(peer)<<32,
		uint64(port) | uint64(zone)<<32 | uint64(proto)<<48 | domainPeer,
	}
}

// adoptable is what a claim ends with that met another at its peer's entry, whose
// reference is the caller's: the other, where it serves the same endpoint towards
// the same peer just as well.
func (m *Mapping) adoptable(w *Worker, other *Mapping) *Mapping {
	if other == nil {
		return nil
	}
	same := other.whole.Load() != 0 && other.inside == m.inside && other.insidePort == m.insidePort &&
		(m.scope == ScopePeer || m.scope == ScopeAddress && other.scope == ScopeAddress)
	if !same {
		w.Release(other)
		return nil
	}
	return other
}

// Scope is towards whom the mapping is used.
func (m *Mapping) Scope() Scope { return m.scope }

// FindMappingTowards returns the mapping that an inside endpoint has at x towards
// one peer's address, with a reference, or nil.
func (w *Worker) FindMappingTowards(proto uint8, inside uint32, port uint16, x *External, peer uint32) *Mapping {
	return w.findMapping(towardsKey(proto, inside, port, 0, uint16(x.at.Load()), peer))
}

// PeerAt returns the mapping that is listed for a port of x and a peer's address:
// its inside endpoint has had a flow with that peer by that port. It takes no
// reference; nil is none.
func (w *Worker) PeerAt(x *External, proto uint8, port uint16, peer uint32) *Mapping {
	k := peerKey(proto, x.addr, port, 0, peer)
	word := w.table.find(k, w.table.seed.hash(k), kindMapping)
	if word == 0 {
		return nil
	}
	m := &w.table.mappings[slotID(word)]
	if m.refs.Load() == 0 || m.whole.Load() == 0 {
		return nil
	}
	return m
}

// Join takes a reference to a mapping that was found without one. It reports
// false where the mapping has ended meanwhile.
func (w *Worker) Join(m *Mapping) bool { return join(&m.refs) }

// List returns the mapping by which m's inside endpoint is found by the peer's
// address: m itself, or one more record that shares its port. It takes over the
// caller's reference to m where it returns another, and returns m where the
// address is listed for another endpoint: the flow then has its reply tuple only.
func (w *Worker) List(m *Mapping, peer uint32, now Tick) (*Mapping, verdict.Reason) {
	if m.listed != 0 && m.peer == peer {
		return m, verdict.None
	}
	t := w.table
	x := t.externals.Load().list[m.at]
	if other := w.PeerAt(x, m.proto, m.externalPort, peer); other != nil {
		if other.inside == m.inside && other.insidePort == m.insidePort && join(&other.refs) {
			w.Release(m)
			return other, verdict.None
		}
		return m, verdict.None
	}
	c := Claim{
		Proto: m.proto, Inside: m.inside, InsidePort: m.insidePort, External: x, Port: m.externalPort,
		Scope: ScopePeer, Peer: peer, Listed: true, On: m,
	}
	if m.source != 0 {
		c.Source = &t.sources[m.source]
		c.Source.refs.Add(1) // m has one: it has not ended
	}
	record, existed, _, r := w.Claim(&c, now)
	if (record == nil || existed) && c.Source != nil {
		w.ReleaseSource(c.Source)
	}
	if record == nil {
		if r == verdict.NoExternalAddress {
			r = verdict.None // m serves until its flows end
		}
		return m, r
	}
	w.Release(m)
	return record, verdict.None
}
