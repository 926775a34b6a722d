package conntrack

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/verdict"
)

// scoped makes a flow by a mapping of some scope, as nat does: at a free port, or
// sharing one. It returns nil where that is not to be had.
func (l *left) scoped(t rapid.TB, key Tuple, port uint16, scope Scope, listed bool, now Tick) *Flow {
	t.Helper()
	x := l.table.External(external)
	var m *Mapping
	switch scope {
	case ScopeEndpoint, ScopePeer:
		m = l.w.FindMapping(key.Proto, key.Src, key.SrcPort, x)
	case ScopeAddress:
		m = l.w.FindMappingTowards(key.Proto, key.Src, key.SrcPort, x, key.Dst)
	}
	if m == nil {
		src, r := l.w.Source(key.Src)
		if r != verdict.None {
			t.Fatal(r)
		}
		c := Claim{Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: x, Port: port, Scope: scope, Peer: key.Dst, Listed: listed, Source: src}
		if scope == ScopePeer {
			c.Scope = ScopeEndpoint
		}
		if on := l.w.MappingAt(x, key.Proto, port); on != nil {
			c.On = on
		}
		var existed, taken bool
		if m, existed, taken, r = l.w.Claim(&c, now); m == nil || existed {
			l.w.ReleaseSource(src)
		}
		if m == nil {
			if !taken && r != verdict.None {
				t.Fatal(r)
			}
			return nil
		}
	}
	if scope == ScopePeer {
		listed, r := l.w.List(m, key.Dst, now)
		if r != verdict.None {
			t.Fatal(r)
		}
		m = listed
	}
	nf := &NewFlow{Original: key, Reply: key.Reverse(), Kind: Masquerade, Mapping: m, OutPort: 1}
	nf.Reply.Dst, nf.Reply.DstPort = m.External()
	f, _, existed, r := l.w.Create(nf, now)
	if existed || r != verdict.None {
		l.w.Release(m)
	}
	if r == verdict.ReplyTupleTaken {
		return nil
	}
	return f
}

// TestScopesSurviveRestart: whatever scopes the mappings have, whoever shares
// ports with whom, and whichever of them have ended: all flows are adopted with
// their ports, what listed a peer's address still does, and the table is whole,
// then and after all flows have ended.
func TestScopesSurviveRestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLeft(t, 64, external)
		var flows []*Flow
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if n := len(flows); n > 0 && rapid.IntRange(0, 2).Draw(t, "end") == 0 {
				i := rapid.IntRange(0, n-1).Draw(t, "which")
				l.w.Retire(flows[i], verdict.Filtered)
				flows = append(flows[:i], flows[i+1:]...)
				l.w.Quiesce()
				continue
			}
			key := udp(client+rapid.Uint32Range(0, 2).Draw(t, "host"), rapid.Uint16Range(1, 2).Draw(t, "port"), server+rapid.Uint32Range(0, 2).Draw(t, "peer"), rapid.Uint16Range(53, 54).Draw(t, "to"))
			if f, _ := l.w.Find(key, 100); f != nil {
				continue
			}
			scope := rapid.SampledFrom([]Scope{ScopeEndpoint, ScopeAddress, ScopeFlow, ScopePeer}).Draw(t, "scope")
			port := rapid.Uint16Range(5000, 5002).Draw(t, "external")
			if f := l.scoped(t, key, port, scope, rapid.Bool().Draw(t, "listed") || scope == ScopePeer, 100); f != nil {
				flows = append(flows, f)
			}
			l.w.Quiesce()
		}
		audit(t, l.table, 0)
		type peer struct {
			addr uint32
			port uint16
		}
		listed := map[peer]uint32{}
		for _, f := range flows {
			o, port := f.Tuple(Original), f.Tuple(Reply).DstPort
			if m := l.w.PeerAt(l.table.External(external), o.Proto, port, o.Dst); m != nil && &l.table.mappings[f.mapping] == m && m.peer == o.Dst {
				listed[peer{o.Dst, port}] = m.inside
			}
		}
		table, report := l.adopted(t, l.copy(), 200, external)
		if report.Adopted != len(flows) || report.Mended != 0 {
			t.Fatalf("%d flows were there: %v", len(flows), report)
		}
		w := table.Worker(0)
		for at, inside := range listed {
			if m := w.PeerAt(table.External(external), 17, at.port, at.addr); m == nil || m.inside != inside {
				t.Errorf("%#x is not listed for port %d of %#x any more", at.addr, at.port, inside)
			}
		}
		for id := range table.flows {
			if f := &table.flows[id]; f.Alive() {
				w.now = 200
				w.Retire(f, verdict.Filtered)
			}
		}
		if c := table.Count(); c.Flows != 0 || c.Mappings != 0 || c.Sources != 0 {
			t.Errorf("left over: %+v", c)
		}
		audit(t, table, 0)
	})
}
