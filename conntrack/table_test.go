package conntrack

import (
	"testing"
	"unsafe"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// aligned is n bytes of zeroed heap memory, aligned to a cache line: heap, so
// that the race detector sees it.
func aligned(n int) []byte {
	b := make([]byte, n+cacheLine)
	off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (cacheLine - 1)
	return b[off : off+n : off+n]
}

func newTable(t testing.TB, flows, workers int) *Table {
	t.Helper()
	cfg := Config{MaxFlows: flows, Workers: workers, Timeouts: restless(), Seed: [2]uint64{0x0123456789abcdef, 0xfedcba9876543210}}
	table, err := New(aligned(Size(cfg)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

const (
	client   uint32 = 0x0a000005 // 10.0.0.5
	server   uint32 = 0xc6336401 // 198.51.100.1
	external uint32 = 0xc0000201 // 192.0.2.1
)

func udp(src uint32, sport uint16, dst uint32, dport uint16) Tuple {
	return Tuple{Src: src, Dst: dst, SrcPort: sport, DstPort: dport, Proto: packet.ProtoUDP}
}

func plain(original Tuple) *NewFlow {
	return &NewFlow{Original: original, Reply: original.Reverse(), Kind: Forward}
}

// mustCreate makes a flow that does not exist yet.
func mustCreate(t testing.TB, w *Worker, nf *NewFlow, now Tick) *Flow {
	t.Helper()
	f, d, existed, r := w.Create(nf, now)
	if f == nil || d != Original || existed || r != verdict.None {
		t.Fatalf("Create(%v) = %v, %v, existed %v, %v", nf.Original, f, d, existed, r)
	}
	return f
}

func TestFindBothDirections(t *testing.T) {
	w := newTable(t, 100, 1).Worker(0)
	key := udp(client, 4000, server, 53)
	reply := udp(server, 53, external, 61000)
	f := mustCreate(t, w, &NewFlow{Original: key, Reply: reply, Kind: Masquerade, InPort: 1, OutPort: 2}, 100)
	for _, c := range []struct {
		key  Tuple
		want *Flow
		dir  Direction
		out  Tuple
	}{
		{key, f, Original, udp(external, 61000, server, 53)},
		{reply, f, Reply, udp(server, 53, client, 4000)},
		{key.Reverse(), nil, 0, Tuple{}},
		{reply.Reverse(), nil, 0, Tuple{}},
	} {
		got, dir := w.Find(c.key, 101)
		if got != c.want || dir != c.dir {
			t.Errorf("Find(%v) = %p, %v; want %p, %v", c.key, got, dir, c.want, c.dir)
		}
		if got != nil && got.Translated(dir) != c.out {
			t.Errorf("Translated(%v) = %v, want %v", dir, got.Translated(dir), c.out)
		}
	}
	if f.Kind() != Masquerade || f.InPort() != 1 || f.OutPort() != 2 || f.Generation() != 1 || !f.sealed() {
		t.Errorf("flow %+v", f)
	}
}

func TestMappingLife(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	held := make([]uint64, HeldWords)
	x := NewExternal(external, held)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	src, r := w.Source(client)
	if r != verdict.None {
		t.Fatal(r)
	}
	m, existed, taken, r := w.NewMapping(packet.ProtoUDP, client, 4000, x, 4000, src, 1)
	if m == nil || existed || taken || r != verdict.None {
		t.Fatal(m, existed, taken, r)
	}
	if !x.Holds(packet.ProtoUDP, 4000) || x.Holds(packet.ProtoTCP, 4000) || held[1024+4000/64] != 1<<(4000%64) {
		t.Error("the port is not held")
	}
	if _, _, taken, _ := w.NewMapping(packet.ProtoUDP, client, 4001, x, 4000, nil, 1); !taken {
		t.Error("a port was claimed twice")
	}
	again, existed, _, _ := w.NewMapping(packet.ProtoUDP, client, 4000, x, 4002, nil, 1)
	if again != m || !existed || x.Holds(packet.ProtoUDP, 4002) {
		t.Error("an endpoint was mapped twice")
	}
	f := mustCreate(t, w, &NewFlow{Original: udp(client, 4000, server, 53), Reply: udp(server, 53, external, 4000), Kind: Masquerade, Mapping: m}, 1)
	if src.Flows() != 1 {
		t.Errorf("source counts %d flows", src.Flows())
	}
	w.Release(again)
	if got := w.MappingAt(x, packet.ProtoUDP, 4000); got != m {
		t.Error("the flow does not hold its mapping")
	}
	if !w.Retire(f, verdict.Filtered) || w.Retire(f, verdict.Filtered) {
		t.Error("a flow ends once")
	}
	if x.Holds(packet.ProtoUDP, 4000) || held[1024+4000/64] != 0 || w.MappingAt(x, packet.ProtoUDP, 4000) != nil {
		t.Error("the port is held after the last flow")
	}
	if c := table.Count(); c.Flows != 0 || c.Mappings != 0 || c.Sources != 0 {
		t.Errorf("counts %+v", c)
	}
}
