package conntrack

// SourceUse is what one inside address has of the gateway.
type SourceUse struct {
	Addr     uint32
	External uint32 // that it is paired with
	Ports    int    // external ports, of all protocols
	Flows    int
}

// Sources calls yield with every inside address that has mappings, or flows that are
// counted to it, until it
// returns false. It copies what it shows, in pieces, and holds nothing back while
// yield runs.
func (t *Table) Sources(yield func(SourceUse) bool) {
	var buffer [chunk]SourceUse
	for first := uint32(1); first <= t.sourcePool.fresh.Load(); first += chunk {
		n := 0
		last := min(first+chunk-1, t.sourcePool.fresh.Load())
		t.Look(func(*Worker) {
			for id := first; id <= last; id++ {
				if s := &t.sources[id]; s.refs.Load() != 0 {
					buffer[n] = SourceUse{s.addr, s.External(), s.Ports(), s.Flows()}
					n++
				}
			}
		})
		for _, use := range buffer[:n] {
			if !yield(use) {
				return
			}
		}
	}
}

// MappingUse is one mapping.
type MappingUse struct {
	Proto                    uint8
	Inside, External         uint32
	InsidePort, ExternalPort uint16
	Scope                    Scope
	Peer                     uint32 // of ScopeAddress and ScopePeer
	Shared                   bool   // the port is another mapping's, too
	Service                  uint16 // see Mapping.Service
	References               int    // flows, and mappings that share its port
	Created                  Tick
	LastOut                  Tick // when its last flow began
}

// Mappings calls yield with every mapping until it returns false, as Sources does.
func (t *Table) Mappings(yield func(MappingUse) bool) {
	var buffer [chunk]MappingUse
	for first := uint32(1); first <= t.mappingPool.fresh.Load(); first += chunk {
		n := 0
		last := min(first+chunk-1, t.mappingPool.fresh.Load())
		t.Look(func(*Worker) {
			for id := first; id <= last; id++ {
				if m := &t.mappings[id]; m.refs.Load() != 0 && m.whole.Load() != 0 {
					buffer[n] = m.use()
					n++
				}
			}
		})
		for i := range buffer[:n] {
			if !yield(buffer[i]) {
				return
			}
		}
	}
}

func (m *Mapping) use() MappingUse {
	return MappingUse{
		Proto: m.proto, Inside: m.inside, External: m.external, InsidePort: m.insidePort, ExternalPort: m.externalPort,
		Scope: m.scope, Peer: m.peer, Shared: m.owner != 0 && m.scope != ScopePeer, Service: m.service,
		References: int(m.refs.Load()), Created: m.created, LastOut: Tick(m.lastOut.Load()),
	}
}

// PortUse is how the ports of one protocol at one external address are used.
type PortUse struct {
	Mapped  int
	Resting int    // see rest.go
	Refused uint64 // new mappings, since the address was added
}

// Use is how the ports of proto at x are used.
func (x *External) Use(proto uint8) PortUse {
	space, ok := portSpace(proto)
	if !ok {
		return PortUse{}
	}
	return PortUse{int(x.mapped[space].Load()), int(x.resting[space].Load()), x.refused[space].Load()}
}

// Refuse counts a new mapping that found no port.
func (x *External) Refuse(proto uint8) {
	if space, ok := portSpace(proto); ok {
		x.refused[space].Add(1)
	}
}

// Capacity is how many ports of proto from lo to hi may be given out.
func (x *External) Capacity(proto uint8, lo, hi uint16) (n int) {
	space, ok := portSpace(proto)
	if !ok {
		return 0
	}
	for port := int(lo); port <= int(hi); port++ {
		if !x.barred(space, uint16(port)) {
			n++
		}
	}
	return n
}
