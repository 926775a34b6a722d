package conntrack

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

func word(ports map[uint16]bool, i int) (w uint64) {
	for b := range 64 {
		if ports[uint16(i*64+b)] {
			w |= 1 << b
		}
	}
	return w
}

// NextFree against looking at one port after the other.
func TestNextFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := NewExternal(external, nil)
		// A window with few free ports, somewhere, often at an end.
		base := rapid.SampledFrom([]uint16{0, 1, 63, 64, 1000, 65535 - 300}).Draw(t, "base")
		size := uint16(rapid.IntRange(1, 300).Draw(t, "size"))
		used := map[uint16]bool{}
		reserved := map[uint16]bool{}
		for i := range size {
			switch rapid.IntRange(0, 20).Draw(t, "kind") {
			case 0: // free
			case 1, 2, 3:
				reserved[base+i] = true
			default:
				used[base+i] = true
				if !x.claim(0, base+i, 1) {
					t.Fatalf("claim(%d) failed", base+i)
				}
			}
		}
		var words [portWords]uint64
		for i := range words {
			words[i] = word(reserved, i)
		}
		x.Reserve(ByHost, packet.ProtoTCP, &words)
		lo := base + uint16(rapid.IntRange(0, int(size)-1).Draw(t, "lo"))
		hi := lo + uint16(rapid.IntRange(0, int(base+size-1-lo)).Draw(t, "hi"))
		from := base + uint16(rapid.IntRange(0, int(size)-1).Draw(t, "from"))
		want, found := uint16(0), false
		like, alike := rapid.Uint16Range(0, 1).Draw(t, "like"), rapid.Bool().Draw(t, "alike")
		start := from
		if start < lo || start > hi {
			start = lo
		}
		for i := 0; i <= int(hi-lo) && !found; i++ {
			p := lo + uint16((int(start-lo)+i)%(int(hi-lo)+1))
			if !used[p] && !reserved[p] && (!alike || p%2 == like) {
				want, found = p, true
			}
		}
		got, ok := x.NextFree(packet.ProtoTCP, from, lo, hi)
		if alike {
			got, ok = x.NextFreeLike(packet.ProtoTCP, 1000+like, from, lo, hi)
		}
		if ok != found || got != want && ok {
			t.Fatalf("NextFree(%d, %d, %d) = %d, %v; want %d, %v", from, lo, hi, got, ok, want, found)
		}
		if ok && !x.claim(0, got, 1) {
			t.Fatalf("port %d was said to be free", got)
		}
		if p, ok := x.NextFree(packet.ProtoUDP, from, lo, hi); ok && (p < lo || p > hi) {
			t.Fatalf("port %d is out of range", p)
		}
	})
}

func TestNextFreeWholeRange(t *testing.T) {
	x := NewExternal(external, nil)
	for port := range 1 << 16 {
		if port != 77 {
			x.claim(2, uint16(port), 1)
		}
	}
	if p, ok := x.NextFree(packet.ProtoICMP, 40000, 0, 65535); !ok || p != 77 {
		t.Errorf("the last free port: %d, %v", p, ok)
	}
	x.claim(2, 77, 1)
	if p, ok := x.NextFree(packet.ProtoICMP, 40000, 0, 65535); ok {
		t.Errorf("nothing is free, got %d", p)
	}
	if x.Claimed() != 1<<16 {
		t.Errorf("%d ports are claimed", x.Claimed())
	}
	if _, ok := x.NextFree(47, 0, 0, 65535); ok {
		t.Error("GRE has no ports")
	}
}

// The ports that the host uses are not claimed, but stay with a mapping that has
// them.
func TestReserve(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	x := NewExternal(external, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	m, _, _, _ := w.NewMapping(packet.ProtoTCP, client, 80, x, 80, nil, 1)
	var ports [portWords]uint64
	ports[1] = 1<<(80-64) | 1<<(81-64)
	x.Reserve(ByHost, packet.ProtoTCP, &ports)
	if got := w.MappingAt(x, packet.ProtoTCP, 80); got != m {
		t.Error("a mapping lost its port to the host")
	}
	if _, _, taken, _ := w.NewMapping(packet.ProtoTCP, client, 81, x, 81, nil, 1); !taken {
		t.Error("a port of the host was given out")
	}
	if m, _, taken, _ := w.NewMapping(packet.ProtoUDP, client, 81, x, 81, nil, 1); taken {
		t.Error("TCP's ports are not UDP's")
	} else {
		w.Release(m)
	}
	w.Release(m)
	audit(t, table, 0)
}

func TestExternalComesAndGoes(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	x, y := NewExternal(external, nil), NewExternal(external+1, nil)
	for _, x := range []*External{y, x} {
		if err := table.AddExternal(x); err != nil {
			t.Fatal(err)
		}
	}
	if table.External(external) != x || table.External(external+1) != y || table.External(external+2) != nil {
		t.Fatal("externals are not found by address")
	}
	if table.AddExternal(NewExternal(external, nil)) == nil {
		t.Error("an address was added twice")
	}
	keep := masquerade(t, w, y, udp(client, 1, server, 1), 5000)
	end := masquerade(t, w, x, udp(client, 1, server, 2), 5000)
	table.RemoveExternal(x)
	if table.External(external) != nil || !x.Gone() {
		t.Error("an address that was removed is found")
	}
	if _, _, _, r := w.NewMapping(packet.ProtoUDP, client, 9, x, 9, nil, 1); r != verdict.NoExternalAddress {
		t.Errorf("mapped to an address that is gone: %v", r)
	}
	if err := table.AddExternal(NewExternal(external, nil)); err == nil {
		t.Error("another External took over ports that are held")
	}
	if n := w.Sweep(100, 2); n != 1 || end.Alive() || !keep.Alive() {
		t.Errorf("swept %d; the flow by the removed address lives: %v, the other: %v", n, end.Alive(), keep.Alive())
	}
	again := NewExternal(external, nil)
	if err := table.AddExternal(again); err != nil {
		t.Error(err)
	}
	if table.External(external) != again || table.External(external+1) != y {
		t.Error("externals are not found by address")
	}
	// Back before its mappings are gone: the same one, and the flows live on.
	table.RemoveExternal(y)
	if err := table.AddExternal(y); err != nil {
		t.Error(err)
	}
	if w.Sweep(100, 3); !keep.Alive() || y.Gone() {
		t.Error("an address that came back lost its flows")
	}
	audit(t, table, 0)
}

// masquerade makes a flow with a mapping and a source, as nat and the gateway do.
func masquerade(t testing.TB, w *Worker, x *External, key Tuple, port uint16) *Flow {
	t.Helper()
	m := w.FindMapping(key.Proto, key.Src, key.SrcPort, x)
	if m == nil {
		src, r := w.Source(key.Src)
		if r != verdict.None {
			t.Fatal(r)
		}
		var existed, taken bool
		if m, existed, taken, r = w.NewMapping(key.Proto, key.Src, key.SrcPort, x, port, src, 1); m == nil || existed {
			t.Fatal(m, existed, taken, r)
		}
	}
	nf := &NewFlow{Original: key, Reply: key.Reverse(), Kind: Masquerade, Mapping: m}
	nf.Reply.Dst, nf.Reply.DstPort = m.External()
	return mustCreate(t, w, nf, 1)
}

// RFC 4787 REQ-2: a source keeps the address that it got first.
func TestSourcePairs(t *testing.T) {
	w := newTable(t, 100, 1).Worker(0)
	s, _ := w.Source(client)
	again, _ := w.Source(client)
	if s != again || s.Address() != client || s.External() != 0 {
		t.Fatal("a source is one record")
	}
	if s.Pair(external) != external || s.Pair(external+1) != external || s.External() != external {
		t.Error("a source changed its external address")
	}
	w.ReleaseSource(s)
	w.ReleaseSource(s)
	fresh, _ := w.Source(client)
	if fresh.External() != 0 {
		t.Error("a source that ended left its pair behind")
	}
}

// TestFreeNear: of the 64 ports around one, a free one of the range is found
// exactly if there is any.
func TestFreeNear(t *testing.T) {
	table := newTable(t, 2000, 1)
	rapid.Check(t, func(rt *rapid.T) {
		x := NewExternal(external, nil)
		lo := uint16(rapid.IntRange(1, 200).Draw(rt, "lo"))
		hi := lo + uint16(rapid.IntRange(0, 200).Draw(rt, "more"))
		for _, port := range rapid.SliceOfN(rapid.IntRange(0, 511), 0, 500).Draw(rt, "held") {
			x.claim(1, uint16(port), uint32(1+port%len(table.mappings)))
		}
		from := uint16(rapid.IntRange(0, 500).Draw(rt, "from"))
		like := uint16(rapid.IntRange(0, 1).Draw(rt, "like"))
		var free [2]bool // by parity
		for p := max(lo, from&^63); from >= lo && from <= hi && p <= min(hi, from|63); p++ {
			free[p&1] = free[p&1] || !x.Held(packet.ProtoUDP, p)
		}
		good := func(port uint16) bool {
			return !x.Held(packet.ProtoUDP, port) && port >= lo && port <= hi && port&^63 == from&^63
		}
		if port, ok := x.FreeNear(packet.ProtoUDP, from, lo, hi); ok != (free[0] || free[1]) || ok && !good(port) {
			rt.Fatalf("port %d, %v from %d of [%d, %d], want %v", port, ok, from, lo, hi, free)
		}
		if port, ok := x.FreeNearLike(packet.ProtoUDP, like, from, lo, hi); ok != free[like] || ok && (!good(port) || port&1 != like) {
			rt.Fatalf("port %d, %v from %d of [%d, %d] like %d, want %v", port, ok, from, lo, hi, like, free)
		}
	})
}
