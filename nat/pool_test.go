package nat

import (
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

func externals(from string, n int) (list []*conntrack.External) {
	for i := range uint32(n) {
		list = append(list, conntrack.NewExternal(addr(from)+i, nil))
	}
	return list
}

func TestPool(t *testing.T) {
	const sources = 4000
	four := externals("192.0.2.1", 4)
	pool := NewPool(four...)

	t.Run("RFC 4787 REQ-2: paired, whatever the order of the list", func(t *testing.T) {
		reversed := NewPool(four[3], four[2], four[1], four[0])
		for src := range uint32(sources) {
			if a, b := pool.External(src), reversed.External(src); a != b {
				t.Fatalf("%s: %s and %s", address(src), address(a.Address()), address(b.Address()))
			}
		}
	})
	t.Run("sources spread evenly", func(t *testing.T) {
		count := map[*conntrack.External]int{}
		for src := range uint32(sources) {
			count[pool.External(addr("10.0.0.0")+src)]++
		}
		for _, x := range four {
			// 1000 are expected with a deviation of 27.
			if n := count[x]; n < 850 || n > 1150 {
				t.Errorf("%s serves %d of %d", address(x.Address()), n, sources)
			}
		}
	})
	t.Run("only the sources of an address that goes move", func(t *testing.T) {
		without := NewPool(four[0], four[1], four[3])
		for src := range uint32(sources) {
			before, after := pool.External(src), without.External(src)
			if before != four[2] && before != after {
				t.Fatalf("%s moved from %s to %s", address(src), address(before.Address()), address(after.Address()))
			}
		}
	})
	t.Run("one address serves all, none serves none", func(t *testing.T) {
		if x := NewPool(four[1]).External(addr("10.0.0.1")); x != four[1] {
			t.Errorf("got %v", x)
		}
		if x := NewPool().External(addr("10.0.0.1")); x != nil {
			t.Errorf("got %v", x)
		}
	})
	t.Run("holds its addresses", func(t *testing.T) {
		if !pool.Holds(addr("192.0.2.4")) || pool.Holds(addr("192.0.2.5")) {
			t.Error("Holds is wrong at the end of the list")
		}
	})
	t.Run("keeps nothing of the caller's list", func(t *testing.T) {
		list := append([]*conntrack.External(nil), four...)
		p := NewPool(list...)
		clear(list)
		if p.External(1) == nil {
			t.Error("the pool changed with the list")
		}
	})
}

// TestPairedPooling: RFC 4787 REQ-2. A source with mappings keeps its address when
// the pool changes; one that has none any more may get another.
func TestPairedPooling(t *testing.T) {
	b := newBench(t, 1, 4096)
	list := externals("192.0.2.10", 4)
	for _, x := range list {
		must(t, b.table.AddExternal(x))
	}
	w, a := b.workers[0], b.allocs[0]
	address := func(pool *Pool, inside uint32, port uint16) (uint32, *conntrack.Mapping) {
		m, r := a.MapFrom(w, pool, packet.ProtoUDP, inside, port, now)
		if r != verdict.None {
			t.Fatal(r)
		}
		addr, _ := m.External()
		return addr, m
	}
	moved := 0
	for i := range uint32(200) {
		inside := addr("10.0.0.0") + i
		small, large := NewPool(list[0], list[1]), NewPool(list...)
		before, first := address(small, inside, 5000)
		if again, m := address(small, inside, 5000); again != before || m != first {
			t.Fatalf("source %d: the same endpoint has two mappings", i)
		}
		after, second := address(large, inside, 5001)
		if after != before {
			t.Fatalf("source %d: split over two addresses", i)
		}
		w.Release(first)
		w.Release(first)
		w.Release(second)
		w.Quiesce()
		if later, _ := address(large, inside, 5002); later != before {
			moved++
		}
	}
	if moved < 50 || moved > 150 {
		t.Errorf("%d of 200 sources use the new half of the pool", moved)
	}
}

func TestMapFromPools(t *testing.T) {
	b := newBench(t, 1, 1024)
	w, a := b.workers[0], b.allocs[0]
	for name, pool := range map[string]*Pool{"no pool": nil, "an empty pool": NewPool()} {
		if _, r := a.MapFrom(w, pool, packet.ProtoUDP, 1, 1, now); r != verdict.NoExternalAddress {
			t.Errorf("%s: %v", name, r)
		}
	}
	m, r := a.MapFrom(w, NewPool(b.external), packet.ProtoUDP, addr("10.0.0.1"), 5000, now)
	if r != verdict.None {
		t.Fatal(r)
	}
	if ext, port := m.External(); ext != b.external.Address() || port != 5000 {
		t.Errorf("mapped to %s:%d", address(ext), port)
	}
}

func TestPoolAllocs(t *testing.T) {
	pool := NewPool(externals("192.0.2.1", 4)...)
	if n := testing.AllocsPerRun(100, func() {
		pool.External(1)
		pool.Holds(1)
	}); n != 0 {
		t.Errorf("External allocates %v times", n)
	}
}

func BenchmarkPool256(b *testing.B) {
	pool := NewPool(externals("198.51.100.0", 256)...)
	src := uint32(0)
	for b.Loop() {
		pool.External(src)
		src++
	}
}
