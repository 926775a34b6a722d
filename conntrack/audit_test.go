package conntrack

import (
	"math/bits"

	"pgregory.net/rapid"
)

// audit checks everything that must hold of a table while nobody uses it: each
// entry of the index leads to a live record whose key leads back to it, each
// live record has its entries, overflow counts, references, ports and held bits
// add up, and every record is exactly one of free, in limbo, and live. held says
// how many mapping references the test itself holds.
func audit(t rapid.TB, table *Table, held int) {
	t.Helper()
	entries := auditIndex(t, table)
	flows := auditFlows(t, table, entries)
	mappings := auditMappings(t, table, entries, held)
	sources := auditSources(t, table, entries)
	for word := range entries {
		t.Errorf("index: entry %#x leads to nothing live", word)
	}
	auditPool(t, "flow", table, table.flowPool, flows, func(w *Worker) *stash { return &w.flows })
	auditPool(t, "mapping", table, table.mappingPool, mappings, func(w *Worker) *stash { return &w.mappings })
	auditPool(t, "source", table, table.sourcePool, sources, func(w *Worker) *stash { return &w.sources })
	c := table.Count()
	if c.Flows != len(flows) || c.Mappings != len(mappings) || c.Sources != len(sources) {
		t.Errorf("counts are %d flows, %d mappings, %d sources; there are %d, %d, %d",
			c.Flows, c.Mappings, c.Sources, len(flows), len(mappings), len(sources))
	}
}

// auditIndex checks the slots and returns them, as a set.
func auditIndex(t rapid.TB, table *Table) map[uint64]bool {
	t.Helper()
	entries := map[uint64]bool{}
	overflow := make([]uint64, len(table.buckets))
	for at := range table.buckets {
		for i := range table.buckets[at].slot {
			word := table.buckets[at].slot[i].Load()
			if word == 0 {
				continue
			}
			if word&slotState != slotLive {
				t.Errorf("bucket %d slot %d: %#x is not live", at, i, word)
			}
			if entries[word] {
				t.Errorf("bucket %d slot %d: %#x is there twice", at, i, word)
			}
			entries[word] = true
			h := table.seed.hash(table.keyOf(word))
			if tag(h) != word>>tagShift<<tagShift {
				t.Errorf("bucket %d slot %d: %#x has another key's tag", at, i, word)
			}
			c := table.chain(h)
			for int(c.at) != at {
				overflow[c.at]++
				if !c.next(h) {
					t.Fatalf("bucket %d slot %d: %#x is not on its chain", at, i, word)
				}
			}
		}
	}
	for at := range table.buckets {
		if n := table.buckets[at].overflow.Load(); n != overflow[at] {
			t.Errorf("bucket %d counts %d entries further on, there are %d", at, n, overflow[at])
		}
	}
	return entries
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

// take removes an entry that must be there from the set.
func take(t rapid.TB, table *Table, entries map[uint64]bool, k key, kind uint64, id uint32) {
	t.Helper()
	word := tag(table.seed.hash(k)) | slotLive | kind | uint64(id)
	if !entries[word] {
		t.Errorf("record %d of kind %d: not in the index", id, kind>>kindShift)
	}
	delete(entries, word)
}

func auditFlows(t rapid.TB, table *Table, entries map[uint64]bool) map[uint32]bool {
	t.Helper()
	live := map[uint32]bool{}
	for i := range table.flows {
		f, id := &table.flows[i], uint32(i)
		switch status(f.status.Load()).phase() {
		case phaseFree, phaseDead:
		case phaseLive:
			live[id] = true
			if !f.sealed() {
				t.Errorf("flow %d is torn", id)
			}
			take(t, table, entries, f.tuple[Original].key(), kindOriginal, id)
			if f.tuple[Original] != f.tuple[Reply] {
				take(t, table, entries, f.tuple[Reply].key(), kindReply, id)
			}
		default:
			t.Errorf("flow %d is in phase %d", id, status(f.status.Load()).phase())
		}
	}
	return live
}

func auditMappings(t rapid.TB, table *Table, entries map[uint64]bool, held int) map[uint32]bool {
	t.Helper()
	live := map[uint32]bool{}
	ports := 0
	for i := range table.mappings {
		m, id := &table.mappings[i], uint32(i)
		if m.refs.Load() == 0 {
			continue
		}
		live[id] = true
		held += int(m.refs.Load())
		take(t, table, entries, m.key(), kindMapping, id)
		x := table.externals.Load().list[m.at]
		space, _ := portSpace(m.proto)
		if got := x.ports[space][m.externalPort].Load(); got != id {
			t.Errorf("mapping %d holds port %d, which is mapping %d's", id, m.externalPort, got)
		}
	}
	for i := range table.flows {
		if f := &table.flows[i]; f.Alive() && f.mapping != 0 {
			held--
		}
	}
	if held != 0 && len(live) > 0 {
		t.Errorf("mappings have %d references more than flows", held)
	}
	for _, x := range table.externals.Load().list {
		claimed := 0
		for i, word := range x.held {
			for ; word != 0; word &= word - 1 {
				port := i%portWords*64 + bits.TrailingZeros64(word)
				if x.ports[i/portWords][port].Load() == 0 {
					t.Errorf("external %#x port %d is held by nobody", x.addr, port)
				}
				claimed++
			}
		}
		if claimed != x.Claimed() {
			t.Errorf("external %#x counts %d ports, holds %d", x.addr, x.Claimed(), claimed)
		}
		ports += claimed
	}
	if ports != len(live) {
		t.Errorf("%d ports are held by %d mappings", ports, len(live))
	}
	return live
}

func auditSources(t rapid.TB, table *Table, entries map[uint64]bool) map[uint32]bool {
	t.Helper()
	live := map[uint32]bool{}
	refs, flows := map[uint32]uint32{}, map[uint32]uint32{}
	for i := range table.mappings {
		if m := &table.mappings[i]; m.refs.Load() != 0 {
			refs[m.source]++
		}
	}
	for i := range table.flows {
		if f := &table.flows[i]; f.Alive() && f.mapping != 0 {
			flows[table.mappings[f.mapping].source]++
		}
	}
	for i := range table.sources[1:] {
		s, id := &table.sources[i+1], uint32(i+1)
		if s.refs.Load() == 0 {
			continue
		}
		live[id] = true
		take(t, table, entries, s.key(), kindSource, id)
		if s.refs.Load() != refs[id] || s.flows.Load() != flows[id] {
			t.Errorf("source %d counts %d mappings, %d flows; it has %d, %d", id, s.refs.Load(), s.flows.Load(), refs[id], flows[id])
		}
	}
	return live
}

// auditPool checks that free + limbo + live = capacity, each id once.
func auditPool(t rapid.TB, name string, table *Table, p *pool, live map[uint32]bool, of func(*Worker) *stash) {
	t.Helper()
	where := map[uint32]string{}
	put := func(id uint32, place string) {
		if id == 0 || id > p.fresh.Load() {
			t.Fatalf("%s %d is %s, but was never handed out", name, id, place)
		}
		if where[id] != "" {
			t.Fatalf("%s %d is both %s and %s", name, id, where[id], place)
		}
		where[id] = place
	}
	for id := range live {
		put(id, "live")
	}
	for id := uint32(p.head.Load()); id != 0; id = p.link(id).Load() {
		put(id, "free")
	}
	for _, w := range table.workers {
		s := of(w)
		for _, id := range s.ids[:s.n] {
			put(id, "in a stash")
		}
		for i := range s.limbo {
			b := &s.limbo[i]
			n := 0
			for id := b.first; n < b.n; id = p.link(id).Load() {
				put(id, "in limbo")
				n++
			}
		}
	}
	if len(where) != int(p.fresh.Load()) {
		t.Errorf("%ss: %d of the %d handed out are nowhere", name, int(p.fresh.Load())-len(where), p.fresh.Load())
	}
}
