package conntrack

import (
	"strings"
	"testing"

	"sluice/internal/verdict"
)

// Verify finds each fault, and none in a table that is as it should be.
func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name, want string
		damage     func(l *left, f *Flow, m *Mapping)
	}{
		{"none", "", func(*left, *Flow, *Mapping) {}},
		{"torn flow", "is torn", func(_ *left, f *Flow, _ *Mapping) { f.tuple[1].DstPort++ }},
		{"ended flow in the index", "leads to nothing live", func(_ *left, f *Flow, _ *Mapping) { f.status.Store(uint32(phaseDead)) }},
		{"half created flow", "half created", func(_ *left, f *Flow, _ *Mapping) {
			f.status.Store(uint32(status(f.status.Load()).withPhase(phaseBuilding)))
		}},
		{"state of another protocol", "is in state", func(_ *left, f *Flow, _ *Mapping) {
			f.status.Store(uint32(status(f.status.Load()).withState(TCPClose)))
		}},
		{"flow without an entry", "is not in the index", func(l *left, f *Flow, _ *Mapping) {
			h := l.table.seed.hash(f.tuple[Reply].key())
			l.table.remove(h, tag(h)|slotLive|kindReply|uint64(l.table.ID(f)))
		}},
		{"tentative entry", "leads to nothing live", func(l *left, f *Flow, _ *Mapping) {
			h := l.table.seed.hash(f.tuple[Original].key())
			l.table.claim(h, tag(h)|slotTentative|kindOriginal|uint64(l.table.ID(f)))
		}},
		{"entry twice", "is there twice", func(l *left, f *Flow, _ *Mapping) {
			h := l.table.seed.hash(f.tuple[Original].key())
			l.table.claim(h, tag(h)|slotLive|kindOriginal|uint64(l.table.ID(f)))
		}},
		{"overflow count", "entries further on", func(l *left, _ *Flow, _ *Mapping) { l.table.buckets[3].overflow.Add(1) }},
		{"reference too many", "1 references more", func(_ *left, _ *Flow, m *Mapping) { m.refs.Add(1) }},
		{"reference too few", "references, and", func(_ *left, _ *Flow, m *Mapping) { m.refs.Store(1) }},
		{"other translation", "otherwise than its mapping", func(_ *left, _ *Flow, m *Mapping) { m.insidePort++ }},
		{"port of nobody", "which mapping 0 holds", func(l *left, _ *Flow, m *Mapping) {
			l.table.External(external).ports[1][m.externalPort].Store(0)
		}},
		{"bit not set", "held false", func(l *left, _ *Flow, _ *Mapping) { clear(l.table.External(external).held) }},
		{"bit too many", "held true", func(l *left, _ *Flow, _ *Mapping) { l.table.External(external).held[0] = 1 }},
		{"ports miscounted", "counts 2 ports", func(l *left, _ *Flow, _ *Mapping) { l.table.External(external).mapped[1].Add(1) }},
		{"source miscounted", "counts 1 mappings, 1 ports, 3 flows", func(l *left, _ *Flow, m *Mapping) { l.table.sources[m.source].flows.Add(1) }},
		{"flows miscounted", "counts are 3 flows", func(l *left, _ *Flow, _ *Mapping) { add(&l.w.states[UDPReplied], 1) }},
		{"record lost", "are nowhere", func(l *left, _ *Flow, _ *Mapping) { l.w.flows.n-- }},
		{"record free and live", "somewhere else", func(l *left, f *Flow, _ *Mapping) { l.w.flows.untake(l.table.ID(f)) }},
		{"circle of free records", "somewhere else", func(l *left, _ *Flow, _ *Mapping) {
			id := l.w.flows.take()
			l.table.flowPool.push(id, id)
			l.table.flows[id].link.Store(id)
		}},
	} {
		l := newLeft(t, 100, external)
		f := l.masquerade(t, udp(client, 4000, server, 53), external, 61000, 100)
		l.masquerade(t, udp(client, 4000, server+1, 53), external, 61000, 100)
		ended := mustCreate(t, l.w, plain(udp(client, 1, server, 1)), 100)
		l.w.Retire(ended, verdict.Filtered) // in limbo
		c.damage(l, f, &l.table.mappings[f.mapping])
		err := l.table.Verify()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
