package conntrack

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// Verify walks everything that there is and returns what does not fit together:
// each entry of the index must lead to a live record whose key leads back to it,
// each live record have its entries; overflow counts, references, ports and held
// bits must add up; and each record must be exactly one of free, in limbo and
// live. Nobody may use the table meanwhile. It takes some tenths of a second and
// a few bytes of memory for each of a million flows.
func (t *Table) Verify() error { return t.verify(0) }

// verify is Verify while the caller holds references to mappings.
func (t *Table) verify(held int) error {
	v := &verification{
		t: t, overflow: make([]uint32, len(t.buckets)),
		refs: make([]uint32, len(t.mappings)), sourceRefs: make([]uint32, len(t.sources)), sourceFlows: make([]uint32, len(t.sources)),
		sourcePorts: make([]uint32, len(t.sources)),
	}
	for kind, n := range [...]int{len(t.flows), len(t.flows), len(t.mappings), len(t.sources)} {
		v.indexed[kind] = newBitmap(n)
	}
	v.listed = newBitmap(len(t.mappings))
	v.index()
	flows := v.flows()
	mappings, ports := v.mappings(held)
	sources := v.sources()
	v.externals(ports)
	v.pool("flow", t.flowPool, flows, func(w *Worker) *stash { return &w.flows })
	v.pool("mapping", t.mappingPool, mappings, func(w *Worker) *stash { return &w.mappings })
	v.pool("source", t.sourcePool, sources, func(w *Worker) *stash { return &w.sources })
	if c := t.Count(); c.Flows != flows.n || c.Mappings != mappings.n || c.Sources != sources.n {
		v.fault("counts are %d flows, %d mappings, %d sources; there are %d, %d, %d",
			c.Flows, c.Mappings, c.Sources, flows.n, mappings.n, sources.n)
	}
	return errors.Join(v.faults...)
}

// verification is what Verify has found so far.
type verification struct {
	t        *Table
	indexed  [4]bitmap // records that have an entry, by its kind
	listed   bitmap    // mappings that have one by a peer's address
	overflow []uint32  // of each bucket, by the entries that were found

	refs                                 []uint32 // flows of each mapping, and mappings that share its port
	sourceRefs, sourceFlows, sourcePorts []uint32
	faults                               []error
}

// maxFaults is how many faults are told: where there is one there are often
// thousands.
const maxFaults = 20

func (v *verification) fault(format string, args ...any) {
	if len(v.faults) < maxFaults {
		v.faults = append(v.faults, fmt.Errorf("flow table: "+format, args...))
	}
}

// bitmap is a set of ids.
type bitmap struct {
	words []uint64
	n     int
}

func newBitmap(n int) bitmap { return bitmap{words: make([]uint64, n/64+1)} }

func (b *bitmap) has(id uint32) bool { return b.words[id/64]&(1<<(id%64)) != 0 }

// add reports whether id was not in the set.
func (b *bitmap) add(id uint32) bool {
	if b.has(id) {
		return false
	}
	b.words[id/64] |= 1 << (id % 64)
	b.n++
	return true
}

// index checks each slot.
func (v *verification) index() {
	t := v.t
	for at := range t.buckets {
		for i := range t.buckets[at].slot {
			if word := t.buckets[at].slot[i].Load(); word != 0 {
				v.entry(uint32(at), word)
			}
		}
	}
	for at := range t.buckets {
		if n := t.buckets[at].overflow.Load(); n != uint64(v.overflow[at]) {
			v.fault("bucket %d counts %d entries further on, there are %d", at, n, v.overflow[at])
		}
	}
}

func (v *verification) entry(at uint32, word uint64) {
	t, id, kind := v.t, slotID(word), word&kindMask>>kindShift
	if word&slotState != slotLive || id == 0 || !v.holdsLive(word) {
		v.fault("bucket %d: entry %#x leads to nothing live", at, word)
		return
	}
	h, set := t.seed.hash(t.keyOf(word)), &v.indexed[kind]
	if word&kindMask == kindMapping && t.mappings[id].listed != 0 {
		if peer := t.seed.hash(t.mappings[id].peerKey()); tag(peer) == word>>tagShift<<tagShift {
			h, set = peer, &v.listed
		}
	}
	if !set.add(id) {
		v.fault("bucket %d: entry %#x is there twice", at, word)
	}
	if tag(h) != word>>tagShift<<tagShift {
		v.fault("bucket %d: entry %#x has another key's tag", at, word)
	}
	c := t.chain(h)
	for c.at != at {
		v.overflow[c.at]++
		if !c.next(h) {
			v.fault("bucket %d: entry %#x is not on its chain", at, word)
			return
		}
	}
}

// holdsLive reports whether a slot word names a live record.
func (v *verification) holdsLive(word uint64) bool {
	t, id := v.t, slotID(word)
	switch word & kindMask {
	case kindMapping:
		return int(id) < len(t.mappings) && t.mappings[id].refs.Load() != 0
	case kindSource:
		return int(id) < len(t.sources) && t.sources[id].refs.Load() != 0
	default:
		return int(id) < len(t.flows) && t.flows[id].Alive()
	}
}

// keyOf is the key of the record that a slot word leads to.
func (t *Table) keyOf(word uint64) key {
	switch id := slotID(word); word & kindMask {
	case kindMapping:
		return t.mappings[id].key()
	case kindSource:
		return t.sources[id].key()
	default:
		return t.flows[id].tuple[slotDirection(word)].key()
	}
}

// flows checks the flow records, and counts what they refer to.
func (v *verification) flows() (live bitmap) {
	t := v.t
	live = newBitmap(len(t.flows))
	for i := range t.flows {
		f, id := &t.flows[i], uint32(i)
		s := status(f.status.Load())
		if s.phase() == phaseBuilding {
			v.fault("flow %d is half created", id)
		}
		if s.phase() != phaseLive {
			continue
		}
		live.add(id)
		if !f.sealed() {
			v.fault("flow %d is torn", id)
		}
		if !s.state().of(f.tuple[Original].Proto) {
			v.fault("flow %d of protocol %d is in state %v", id, f.tuple[Original].Proto, s.state())
		}
		if !v.indexed[Original].has(id) || !v.indexed[Reply].has(id) && f.tuple[Original] != f.tuple[Reply] {
			v.fault("flow %d is not in the index", id)
		}
		if int(f.mapping) >= len(t.mappings) {
			v.fault("flow %d has mapping %d of %d", id, f.mapping, len(t.mappings)-1)
			continue
		}
		if s&counted != 0 {
			v.countedFlow(f, id)
		}
		m := &t.mappings[f.mapping]
		v.refs[f.mapping]++
		if f.mapping != 0 && !m.translates(f) {
			v.fault("flow %d is translated otherwise than its mapping %d", id, f.mapping)
		}
		if int(m.source) < len(t.sources) {
			v.sourceFlows[m.source]++
		}
	}
	return live
}

// countedFlow finds the source that a flow is counted to by its address.
func (v *verification) countedFlow(f *Flow, id uint32) {
	k := sourceKey(f.tuple[Original].Src, 0)
	word := v.t.find(k, v.t.seed.hash(k), kindSource)
	if word == 0 || f.mapping != 0 && v.t.mappings[f.mapping].source != 0 {
		v.fault("flow %d is counted to a source that is not there, or twice", id)
		return
	}
	v.sourceRefs[slotID(word)]++
	v.sourceFlows[slotID(word)]++
}

// mappings checks the mapping records. held references are the caller's.
func (v *verification) mappings(held int) (live bitmap, ports int) {
	t := v.t
	live = newBitmap(len(t.mappings))
	for i := range t.mappings {
		if m := &t.mappings[i]; m.refs.Load() != 0 && int(m.owner) < len(t.mappings) {
			v.refs[m.owner]++
		}
	}
	v.refs[0] = 0
	surplus := 0
	for i := range t.mappings[1:] {
		m, id := &t.mappings[i+1], uint32(i+1)
		refs := m.refs.Load()
		surplus += int(refs) - int(v.refs[id])
		if refs < v.refs[id] {
			v.fault("mapping %d has %d references, and %d flows and sharers", id, refs, v.refs[id])
		}
		if refs == 0 {
			continue
		}
		live.add(id)
		v.mapping(m, id)
		if m.owner == 0 {
			ports++
		}
	}
	if surplus != held {
		v.fault("mappings have %d references more than flows, of which %d are known", surplus, held)
	}
	return live, ports
}

// mapping checks one that is live.
func (v *verification) mapping(m *Mapping, id uint32) {
	t := v.t
	if int(m.source) < len(t.sources) {
		v.sourceRefs[m.source]++
		if m.scope != ScopePeer {
			v.sourcePorts[m.source]++
		}
	} else {
		v.fault("mapping %d has source %d of %d", id, m.source, len(t.sources)-1)
	}
	if m.whole.Load() == 0 || m.scope >= scopes {
		v.fault("mapping %d is half created, or of no scope: %d", id, m.scope)
	}
	if v.indexed[kindMapping>>kindShift].has(id) != m.found() || v.listed.has(id) != (m.listed != 0) {
		v.fault("mapping %d of scope %d, listed: %v, has other entries in the index", id, m.scope, m.listed != 0)
	}
	holder := id
	for owner, depth := m.owner, 0; owner != 0 && int(owner) < len(t.mappings) && depth < 4; depth++ {
		if t.mappings[owner].refs.Load() == 0 {
			v.fault("mapping %d shares the port of mapping %d, which has ended", id, owner)
		}
		holder, owner = owner, t.mappings[owner].owner
	}
	list := t.externals.Load().list
	space, ok := portSpace(m.proto)
	if !ok || int(m.at) >= len(list) || list[m.at] == nil || list[m.at].addr != m.external {
		v.fault("mapping %d is at no external address", id)
	} else if got := list[m.at].ports[space][m.externalPort].Load(); got != holder {
		v.fault("mapping %d uses port %d of mapping %d, which mapping %d holds", id, m.externalPort, holder, got)
	}
}

// externals checks the ports and their bits.
func (v *verification) externals(held int) {
	ports := 0
	for _, x := range v.t.externals.Load().list {
		if x == nil {
			continue
		}
		for space := range x.ports {
			var mapped, resting int32
			for port := range x.ports[space] {
				bit := atomic.LoadUint64(&x.held[space*portWords+port/64])&(1<<(port%64)) != 0
				static := x.static[space][port/64].Load()&(1<<(port%64)) != 0
				switch word := x.ports[space][port].Load(); {
				case (word != 0 || static) != bit || word == waking:
					v.fault("external address %#08x port %d: word %#x, held %v", x.addr, port, word, bit)
				case word&restBit != 0:
					resting++
				case word != 0:
					mapped++
				}
			}
			if mapped != x.mapped[space].Load() || resting != x.resting[space].Load() {
				v.fault("external address %#08x counts %d ports, %d resting; there are %d, %d", x.addr, x.mapped[space].Load(), x.resting[space].Load(), mapped, resting)
			}
			ports += int(mapped)
		}
	}
	if ports != held {
		v.fault("%d ports are held by %d mappings", ports, held)
	}
}

func (v *verification) sources() (live bitmap) {
	t := v.t
	live = newBitmap(len(t.sources))
	for i := range t.sources[1:] {
		s, id := &t.sources[i+1], uint32(i+1)
		if s.refs.Load() != v.sourceRefs[id] || s.refs.Load() != 0 && (s.flows.Load() != v.sourceFlows[id] || s.ports.Load() != v.sourcePorts[id]) {
			v.fault("source %d counts %d mappings, %d ports, %d flows; it has %d, %d, %d",
				id, s.refs.Load(), s.ports.Load(), s.flows.Load(), v.sourceRefs[id], v.sourcePorts[id], v.sourceFlows[id])
		}
		if s.refs.Load() == 0 {
			continue
		}
		live.add(id)
		if !v.indexed[kindSource>>kindShift].has(id) {
			v.fault("source %d is not in the index", id)
		}
	}
	return live
}

// pool checks that free, in limbo and live add up to what was handed out, each
// id once.
func (v *verification) pool(name string, p *pool, live bitmap, of func(*Worker) *stash) {
	seen := live
	fresh := p.fresh.Load()
	put := func(id uint32, place string) bool {
		if id == 0 || id > fresh || !seen.add(id) {
			v.fault("%s %d is %s, and somewhere else, or was never handed out", name, id, place)
			return false
		}
		return true
	}
	for id := uint32(p.head.Load()); id != 0; id = p.link(id).Load() {
		if !put(id, "free") {
			return // perhaps a circle
		}
	}
	for _, w := range v.t.workers {
		s := of(w)
		for _, id := range s.ids[:s.n] {
			put(id, "in a stash")
		}
		for i := range s.limbo {
			b := &s.limbo[i]
			id := b.first
			for range b.n {
				if !put(id, "in limbo") {
					return
				}
				id = p.link(id).Load()
			}
		}
	}
	if seen.n != int(fresh) {
		v.fault("%ss: %d of the %d handed out are nowhere", name, int(fresh)-seen.n, fresh)
	}
}
