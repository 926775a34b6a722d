package conntrack

import "sluice/internal/verdict"

// locate finds what a flow's mapping will need, for p, and says whether it is
// there.
func (r *Remains) locate(f *Flow, p *pending) Loss {
	t := r.table
	p.x = nil
	if f.mapping == 0 {
		if t.homeless(f) {
			return LostAddress
		}
		return stays
	}
	a := &f.tuple[Reply]
	space, ok := portSpace(a.Proto)
	if !ok || int64(f.mapping) >= int64(len(t.mappings)) {
		return LostImplausible
	}
	if r.hairpin(f) && t.External(f.tuple[Original].Dst) == nil {
		return LostAddress
	}
	if r.latest == nil || r.latest.addr != a.Dst {
		if r.latest = t.External(a.Dst); r.latest == nil {
			return LostAddress
		}
	}
	p.x, p.port = r.latest, &r.latest.ports[space][a.DstPort]
	p.mapped = t.seed.hash(f.mappingKey()) // of most: see Scope
	return stays
}

// restoreMapping gives an indexed flow the mapping that it refers to, which for
// the first of its flows is made again. Nothing has changed where it returns
// other than stays.
func (r *Remains) restoreMapping(f *Flow, p *pending) Loss {
	t := r.table
	m := &t.mappings[f.mapping]
	if n := m.refs.Load(); n != 0 {
		if !m.translates(f) {
			return LostDuplicate
		}
		m.refs.Store(n + 1)
	} else if why := r.remap(m, f, p); why != stays {
		return why
	}
	if m.source != 0 {
		t.sources[m.source].flows.Add(1)
	}
	return stays
}

// hairpin reports whether a masqueraded flow has its destination translated,
// too: it was sent to an external address, from inside.
func (r *Remains) hairpin(f *Flow) bool {
	o, a := &f.tuple[Original], &f.tuple[Reply]
	return (f.Kind() == Masquerade || f.Kind() == PortForward) && (a.Src != o.Dst || a.SrcPort != o.DstPort)
}

// translates reports whether m is what f's source is translated by.
func (m *Mapping) translates(f *Flow) bool {
	o, a := &f.tuple[Original], &f.tuple[Reply]
	return m.proto == o.Proto && m.zone == o.Zone && m.service == f.scope() && m.inside == o.Src && m.insidePort == o.SrcPort &&
		m.external == a.Dst && m.externalPort == a.DstPort
}

// mappingKey is the key of the mapping that f's source is translated by.
func (f *Flow) mappingKey() key {
	o := &f.tuple[Original]
	return mappingKey(o.Proto, o.Src, o.SrcPort, o.Zone, f.tuple[Reply].Dst).of(f.scope())
}

// stage is when the mapping of flow f is made again: first those that have a port,
// then those that share one, and last what says more of another.
func (m *Mapping) stage(f *Flow) int {
	switch {
	case m.owner == 0 || !m.translates(f):
		return 0
	case m.scope == ScopePeer:
		return 2
	}
	return 1
}

// remap makes a mapping again for the first of its flows. What identifies it is
// the flow's, whose seal vouches for it; the record keeps its history, its scope
// and its source where it says the same.
func (r *Remains) remap(m *Mapping, f *Flow, p *pending) Loss {
	a, id := &f.tuple[Reply], f.mapping
	space, _ := portSpace(a.Proto)
	m.service = f.scope() // numbered anew, like the flow's
	torn := !m.translates(f) || m.scope >= scopes || m.listed > 1 || m.service != 0 && m.scope != ScopeEndpoint
	if torn {
		m.mend(f)
	}
	m.at = uint16(p.x.at.Load())
	if why := r.rehold(m, p, space, a.DstPort, id); why != stays {
		return why
	}
	if m.listed != 0 {
		k := m.peerKey()
		if r.enter(k, r.table.seed.hash(k), kindMapping|uint64(id)) != stays {
			m.listed = 0
		}
	}
	if m.found() {
		k := m.key()
		if why := r.enter(k, r.table.seed.hash(k), kindMapping|uint64(id)); why != stays {
			r.unhold(m, p, space, a.DstPort, id)
			return why
		}
	}
	m.quiet.Store(0)
	m.whole.Store(1)
	m.refs.Store(1)
	r.restoreSource(m, id)
	add(&r.counting.mappingCount, 1)
	if torn {
		r.report.Mended++
	}
	return stays
}

// mend makes the record say what the flow does.
func (m *Mapping) mend(f *Flow) {
	o, a := &f.tuple[Original], &f.tuple[Reply]
	m.inside, m.insidePort, m.external, m.externalPort = o.Src, o.SrcPort, a.Dst, a.DstPort
	m.proto, m.zone, m.source, m.created = o.Proto, o.Zone, 0, f.created
	m.scope, m.owner, m.listed, m.peer = ScopeEndpoint, 0, 0, 0
	m.lastOut.Store(uint32(f.created))
}

// rehold gives a mapping its port back, or its share in one. Where the owner of
// the port had no flow left, the first of those that shared it has the port now;
// and what only said more of a mapping that had none is that mapping.
func (r *Remains) rehold(m *Mapping, p *pending, space int, port uint16, id uint32) Loss {
	t := r.table
	holder := uint32(0)
	if m.owner != 0 {
		holder = p.port.Load()
	}
	m.owner = 0
	if m.scope == ScopePeer {
		k := mappingKey(m.proto, m.inside, m.insidePort, m.zone, m.external)
		word := t.find(k, t.seed.hash(k), kindMapping)
		if of := slotID(word); word != 0 && t.mappings[of].externalPort == port {
			holder = of
		} else {
			m.scope = ScopeEndpoint
		}
	}
	if holder != 0 {
		t.mappings[holder].refs.Add(1)
		m.owner = holder
		return stays
	}
	if !p.x.restore(space, port, id) {
		return LostDuplicate
	}
	return stays
}

// unhold takes rehold and the peer's entry back.
func (r *Remains) unhold(m *Mapping, p *pending, space int, port uint16, id uint32) {
	t := r.table
	if m.listed != 0 {
		h := t.seed.hash(m.peerKey())
		t.remove(h, tag(h)|slotLive|kindMapping|uint64(id))
	}
	if m.owner != 0 {
		t.mappings[m.owner].refs.Add(^uint32(0)) // not the last: a flow has one
		return
	}
	p.x.free(space, port, id)
}

// restoreRest lets the port of an ended mapping rest on, as long as its record
// tells of it: the next process must not give it away sooner than this one would
// have.
func (r *Remains) restoreRest(m *Mapping) {
	t := r.table
	quiet := m.quiet.Load()
	left := int32(quiet - uint32(r.now))
	space, ok := portSpace(m.proto)
	if quiet == 0 || left <= 0 || left > int32(t.rest.Load()) || m.owner != 0 || !ok {
		return
	}
	x := t.External(m.external)
	if x == nil || !x.ports[space][m.externalPort].CompareAndSwap(0, restWord(t.restTag(m.proto, m.inside, m.insidePort), Tick(quiet))) {
		return
	}
	x.resting[space].Add(1)
	x.setHeld(space, m.externalPort)
}

// restoreSource makes the source of mapping id again. Where the record that the
// mapping names is another address's, or the address has another record by now,
// that waits until it is known which records are free.
func (r *Remains) restoreSource(m *Mapping, id uint32) {
	t := r.table
	if m.service != 0 {
		m.source = 0
		return
	}
	if m.source != 0 && int64(m.source) < int64(len(t.sources)) {
		s := &t.sources[m.source]
		if s.addr == m.inside && s.zone == m.zone && (s.refs.Load() != 0 || r.revive(s, m.source)) {
			s.refs.Add(1)
			m.countPort(s)
			if t.External(s.External()) == nil {
				s.external.Store(m.external)
			}
			return
		}
	}
	m.source = 0
	r.orphans = append(r.orphans, id)
}

// revive indexes a source record that a mapping refers to.
func (r *Remains) revive(s *Source, id uint32) bool {
	k := s.key()
	if r.enter(k, r.table.seed.hash(k), kindSource|uint64(id)) != stays {
		return false
	}
	add(&r.counting.sourceCount, 1)
	return true
}

// mendSources gives the mappings that lost their source another one, when the
// free records are known.
func (r *Remains) mendSources() {
	t, w := r.table, r.counting
	w.Online()
	defer w.Offline()
	sharing := map[uint32]uint32{} // by owner
	for i := range t.mappings {
		if m := &t.mappings[i]; len(r.orphans) > 0 && m.refs.Load() != 0 && m.owner != 0 {
			sharing[m.owner]++
		}
	}
	for _, id := range r.orphans {
		m := &t.mappings[id]
		if m.zone != 0 {
			continue
		}
		s, why := w.Source(m.inside)
		if why != verdict.None {
			continue // it does without: the source's counts are less by it
		}
		s.Pair(m.external)
		s.flows.Add(m.refs.Load() - sharing[id])
		m.countPort(s)
		m.source = idOf(t.sources, s)
		r.report.Mended++
	}
}

// countPort counts the mapping's port to its source.
func (m *Mapping) countPort(s *Source) {
	if m.scope != ScopePeer {
		s.ports.Add(1)
	}
}

// restore claims a port that a mapping already held. The host may have come to
// use it since (Reserve); the mapping keeps it, as it would have without a
// restart.
func (x *External) restore(space int, port uint16, id uint32) bool {
	if !x.ports[space][port].CompareAndSwap(0, id) {
		return false
	}
	x.take(space, port)
	return true
}

// countSources counts the flows again that are counted by their source's address.
func (r *Remains) countSources() {
	t, w := r.table, r.counting
	w.Online()
	defer w.Offline()
	for i := range t.flows {
		f := &t.flows[i]
		s := status(f.status.Load())
		if s.phase() != phaseLive || s&counted == 0 {
			continue
		}
		source, why := w.Source(f.tuple[Original].Src)
		if why != verdict.None {
			f.status.Store(uint32(s &^ counted)) // its source's count is less by it
			continue
		}
		source.flows.Add(1)
	}
}
