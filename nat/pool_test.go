package nat

import (
	"testing"

	"sluice/conntrack"
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
