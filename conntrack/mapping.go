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
	scope                    Scope
	service                  uint16 // whose clients it is of, 0 = masqueraded

	refs    atomic.Uint32 // 0 = ended: cannot be joined any more
	lastOut atomic.Uint32 // Tick of the last flow that began
	link    atomic.Uint32
	quiet   atomic.Uint32 // Tick until which its port is to rest, 0 = not at all
	whole   atomic.Uint32 // 1 once all its entries are in: see PeerAt, MappingAt
	peer    uint32        // address that scope and listed speak of
	owner   uint32        // id of the mapping whose port it uses, 0 = it has its own
	listed  uint8         // 1: PeerAt finds it by peer
	_       [3]byte
}

// Inside is the mapping's inside address and port.
func (m *Mapping) Inside() (addr uint32, port uint16) { return m.inside, m.insidePort }

// External is the mapping's external address and port.
func (m *Mapping) External() (addr uint32, port uint16) { return m.external, m.externalPort }

// Proto is the IP protocol that is mapped.
func (m *Mapping) Proto() uint8 { return m.proto }

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

// end takes a flow off the mapping's source, which Create counted to it.
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
	return w.Claim(&Claim{Proto: proto, Inside: inside, InsidePort: port, External: x, Port: extPort, Source: src, Service: service}, now)
}

// Claim makes a mapping; see NewMapping, which it is with all there is to say.
func (w *Worker) Claim(c *Claim, now Tick) (m *Mapping, existed, portTaken bool, r verdict.Reason) {
	space, ok := portSpace(c.Proto)
	switch {
	case !ok:
		return nil, false, false, verdict.ProtocolUnsupported
	case c.External.Gone():
		return nil, false, false, verdict.NoExternalAddress
	}
	id := w.mappings.take()
	if id == 0 {
		return nil, false, false, verdict.MappingTableFull
	}
	m = &w.table.mappings[id]
	w.table.fillMapping(m, c, now)
	if !w.hold(m, c, space, id, now) {
		m.refs.Store(0)
		w.mappings.untake(id)
		return nil, false, true, verdict.None
	}
	if other, taken, r := w.enter(m, id); other != nil || taken || r != verdict.None {
		m.refs.Store(0)
		w.letGo(m, id)
		w.mappings.bury(id, w.table.epoch.Load())
		return other, other != nil, taken, r
	}
	m.whole.Store(1)
	if m.source != 0 {
		m.countPort(&w.table.sources[m.source])
	}
	add(&w.mappingCount, 1)
	return m, false, false, verdict.None
}

// fillMapping writes a free record.
func (t *Table) fillMapping(m *Mapping, c *Claim, now Tick) {
	m.inside, m.insidePort = c.Inside, c.InsidePort
	m.external, m.externalPort, m.at = c.External.addr, c.Port, uint16(c.External.at.Load())
	m.proto, m.zone, m.service = c.Proto, 0, c.Service
	m.scope, m.peer, m.owner, m.listed = c.Scope, c.Peer, 0, 0
	if c.Listed {
		m.listed = 1
	}
	m.source = 0
	if c.Source != nil {
		m.source = idOf(t.sources, c.Source)
	}
	m.created = now
	m.generation++
	storeRelaxed(&m.whole, 0)
	storeRelaxed(&m.quiet, 0)
	storeRelaxed(&m.refs, 1)
	storeRelaxed(&m.lastOut, uint32(now))
}

// hold claims the mapping's port, or a share in the one it is to use.
func (w *Worker) hold(m *Mapping, c *Claim, space int, id uint32, now Tick) bool {
	if c.On != nil {
		// While it has not ended it holds its port, and now it cannot.
		if !join(&c.On.refs) {
			return false
		}
		m.owner = idOf(w.table.mappings, c.On)
		return true
	}
	x := c.External
	return x.claim(space, c.Port, id) || x.reclaim(space, c.Port, id, w.table.restTag(c.Proto, c.Inside, c.InsidePort), now, c.Early)
}

// enter inserts the entries of a mapping that has its port. It returns the
// mapping that the endpoint has already, with a reference, if there is one; taken
// says that another endpoint shares the port towards the same peer.
func (w *Worker) enter(m *Mapping, id uint32) (other *Mapping, taken bool, r verdict.Reason) {
	t := w.table
	if m.listed != 0 {
		k := m.peerKey()
		if other, r := w.enterKey(k, id); other != nil || r != verdict.None {
			other = m.adoptable(w, other)
			return other, other == nil && r == verdict.None, r
		}
	}
	if !m.found() {
		return nil, false, verdict.None
	}
	if other, r = w.enterKey(m.key(), id); (other != nil || r != verdict.None) && m.listed != 0 {
		h := t.seed.hash(m.peerKey())
		t.remove(h, tag(h)|slotLive|kindMapping|uint64(id))
	}
	return other, false, r
}

// enterKey inserts one entry of mapping id, or returns the live mapping that has
// the key, with a reference.
func (w *Worker) enterKey(k key, id uint32) (*Mapping, verdict.Reason) {
	t := w.table
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

// letGo gives up the port of a mapping that has ended, or its share in one. A
// port that was used rests (RFC 6888 REQ-8).
func (w *Worker) letGo(m *Mapping, id uint32) {
	t := w.table
	quiet := m.quiet.Load()
	if m.owner != 0 {
		owner := &t.mappings[m.owner]
		owner.hush(Tick(quiet))
		w.Release(owner)
		return
	}
	space, _ := portSpace(m.proto)
	x := t.externals.Load().list[m.at]
	if quiet != 0 && int32(quiet-uint32(w.now)) > 0 && !x.Gone() {
		x.lull(space, m.externalPort, id, restWord(t.restTag(m.proto, m.inside, m.insidePort), Tick(quiet)))
		return
	}
	x.free(space, m.externalPort, id)
}

// Release gives back a reference. With the last one the mapping ends (RFC 7857
// 11). Its port is free then if no flow ever used it; otherwise it rests.
func (w *Worker) Release(m *Mapping) {
	if m.refs.Add(^uint32(0)) != 0 {
		return
	}
	t := w.table
	id := idOf(t.mappings, m)
	if m.listed != 0 {
		h := t.seed.hash(m.peerKey())
		t.remove(h, tag(h)|slotLive|kindMapping|uint64(id))
	}
	if m.found() {
		h := t.seed.hash(m.key())
		t.remove(h, tag(h)|slotLive|kindMapping|uint64(id))
	}
	w.letGo(m, id)
	if m.source != 0 {
		if m.scope != ScopePeer {
			t.sources[m.source].ports.Add(^uint32(0))
		}
		w.ReleaseSource(&t.sources[m.source])
	}
	add(&w.mappingCount, -1)
	w.mappings.bury(id, t.epoch.Load())
}

// hush has the mapping's port rest until then, at least. Plain: of two that end
// flows at once one may be lost, and both are now.
func (m *Mapping) hush(until Tick) {
	if until != 0 && (m.quiet.Load() == 0 || int32(uint32(until)-m.quiet.Load()) > 0) {
		m.quiet.Store(uint32(until))
	}
}

// MappingAt returns the mapping that holds a port of x, or nil. It takes no
// reference. Where others share the port, it is the one that had it first.
func (w *Worker) MappingAt(x *External, proto uint8, port uint16) *Mapping {
	space, ok := portSpace(proto)
	if !ok {
		return nil
	}
	id := x.ports[space][port].Load()
	if id == 0 || id&restBit != 0 {
		return nil
	}
	m := &w.table.mappings[id]
	if m.refs.Load() == 0 || m.whole.Load() == 0 {
		return nil
	}
	return m
}
