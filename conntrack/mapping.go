package conntrack

import (
	"sync/atomic"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Mapping ties an inside endpoint to an external one: 64 bytes. It lives as long
// as somebody holds a reference: each flow that uses it, and whoever is about to
// create one. A pointer without a reference is good until the worker's next
// Quiesce.
type Mapping struct {
	inside, external         uint32
	insidePort, externalPort uint16
	zone                     uint16
	at                       uint16 // the External's place in the table's list
	source                   uint32 // id, 0 = none
	created                  Tick
	generation               uint32
	proto                    uint8
	_                        uint8
	service                  uint16 // whose clients it is of, 0 = masqueraded

	refs    atomic.Uint32 // 0 = ended: cannot be joined any more
	lastOut atomic.Uint32 // Tick of the last flow that began
	link    atomic.Uint32
	_       [20]byte
}

// Inside is the mapping's inside address and port.
func (m *Mapping) Inside() (addr uint32, port uint16) { return m.inside, m.insidePort }

// External is the mapping's external address and port.
func (m *Mapping) External() (addr uint32, port uint16) { return m.external, m.externalPort }

// Proto is the IP protocol that is mapped.
func (m *Mapping) Proto() uint8 { return m.proto }

func (m *Mapping) key() key {
	return mappingKey(m.proto, m.inside, m.insidePort, m.zone, m.external).of(m.service)
}

// join takes a reference, unless the mapping has ended.
func join(refs *atomic.Uint32) bool {
	for {
		n := refs.Load()
		if n == 0 {
			return false
		}
		if refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// begin and end count a flow to the mapping's source.
func (m *Mapping) begin(t *Table, now Tick) {
	m.lastOut.Store(uint32(now))
	if m.source != 0 {
		t.sources[m.source].flows.Add(1)
	}
}

func (m *Mapping) end(t *Table) {
	if m.source != 0 {
		t.sources[m.source].flows.Add(^uint32(0))
	}
}

// portSpace is the array of an External that proto's ports are in: protocols
// share nothing (RFC 7857 5, RFC 7857 6).
func portSpace(proto uint8) (int, bool) {
	switch proto {
	case packet.ProtoTCP:
		return 0, true
	case packet.ProtoUDP:
		return 1, true
	case packet.ProtoICMP:
		return 2, true
	}
	return 0, false
}

// FindMapping returns the mapping of an inside endpoint at x with a reference,
// or nil.
func (w *Worker) FindMapping(proto uint8, inside uint32, port uint16, x *External) *Mapping {
	return w.findMapping(mappingKey(proto, inside, port, 0, x.addr))
}

func (w *Worker) findMapping(k key) *Mapping {
	h := w.table.seed.hash(k)
	word := w.table.find(k, h, kindMapping)
	if word == 0 {
		return nil
	}
	if m := &w.table.mappings[slotID(word)]; join(&m.refs) {
		return m
	}
	return nil
}

// NewMapping maps an inside endpoint to port extPort of x. The reference is the
// caller's. Where the endpoint has a mapping already, since another worker was
// faster, that one is returned with a reference, and existed is true. portTaken
// says that extPort is not to be had: try another.
//
// src may be nil. The caller's reference to it goes over to the mapping if, and
// only if, a new mapping is returned.
func (w *Worker) NewMapping(proto uint8, inside uint32, port uint16, x *External, extPort uint16, src *Source, now Tick) (m *Mapping, existed, portTaken bool, r verdict.Reason) {
	return w.newMapping(0, proto, inside, port, x, extPort, src, now)
}

func (w *Worker) newMapping(service uint16, proto uint8, inside uint32, port uint16, x *External, extPort uint16, src *Source, now Tick) (m *Mapping, existed, portTaken bool, r verdict.Reason) {
	space, ok := portSpace(proto)
	switch {
	case !ok:
		return nil, false, false, verdict.ProtocolUnsupported
	case x.Gone():
		return nil, false, false, verdict.NoExternalAddress
	}
	id := w.mappings.take()
	if id == 0 {
		return nil, false, false, verdict.MappingTableFull
	}
	m = &w.table.mappings[id]
	m.inside, m.insidePort = inside, port
	m.external, m.externalPort, m.at = x.addr, extPort, uint16(x.at.Load())
	m.proto, m.zone, m.service = proto, 0, service
	m.source = 0
	if src != nil {
		m.source = idOf(w.table.sources, src)
	}
	m.created = now
	m.generation++
	m.refs.Store(1)
	m.lastOut.Store(uint32(now))
	if !x.claim(space, extPort, id) {
		m.refs.Store(0)
		w.mappings.untake(id)
		return nil, false, true, verdict.None
	}
	if other, r := w.enter(m, id); other != nil || r != verdict.None {
		m.refs.Store(0)
		x.free(space, extPort, id)
		w.mappings.bury(id, w.table.epoch.Load())
		return other, other != nil, false, r
	}
	add(&w.mappingCount, 1)
	return m, false, false, verdict.None
}

// enter inserts the entry of a mapping whose port is claimed. It returns the
// mapping that the endpoint has already, with a reference, if there is one.
func (w *Worker) enter(m *Mapping, id uint32) (*Mapping, verdict.Reason) {
	t := w.table
	k := m.key()
	h := t.seed.hash(k)
	for {
		word, out := t.insert(k, h, tag(h)|kindMapping|uint64(id))
		switch out {
		case inserted:
			return nil, verdict.None
		case full:
			return nil, verdict.MappingTableFull
		}
		if other := &t.mappings[slotID(word)]; join(&other.refs) {
			return other, verdict.None
		}
		t.remove(h, word) // ended, and not yet taken out
	}
}

// Release gives back a reference. With the last one the mapping ends and its
// port is free, at once (RFC 7857 11).
func (w *Worker) Release(m *Mapping) {
	if m.refs.Add(^uint32(0)) != 0 {
		return
	}
	t := w.table
	id := idOf(t.mappings, m)
	k := m.key()
	h := t.seed.hash(k)
	t.remove(h, tag(h)|slotLive|kindMapping|uint64(id))
	space, _ := portSpace(m.proto)
	t.externals.Load().list[m.at].free(space, m.externalPort, id)
	if m.source != 0 {
		w.ReleaseSource(&t.sources[m.source])
	}
	add(&w.mappingCount, -1)
	w.mappings.bury(id, t.epoch.Load())
}

// MappingAt returns the mapping that holds a port of x, or nil. It takes no
// reference.
func (w *Worker) MappingAt(x *External, proto uint8, port uint16) *Mapping {
	space, ok := portSpace(proto)
	if !ok {
		return nil
	}
	id := x.ports[space][port].Load()
	if id == 0 {
		return nil
	}
	m := &w.table.mappings[id]
	if m.refs.Load() == 0 {
		return nil
	}
	return m
}
