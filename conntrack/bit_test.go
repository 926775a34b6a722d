package conntrack

import (
	"sync"
	"sync/atomic"
	"testing"

	"sluice/internal/packet"
)

// TestFreeClearsBitFirst: a port whose word says that it is free has no bit any more:
// were the bit cleared after, it could be that of whoever claims the port meanwhile.
// Somebody looks at both all the time while the port is freed.
func TestFreeClearsBitFirst(t *testing.T) {
	threads(t, 2)
	const port, id, rounds = 5000, 7, 1_000_000 / (1 + 9*raceFactor)
	x := NewExternal(external, nil)
	space, _ := portSpace(packet.ProtoUDP)
	var phase atomic.Uint32 // odd while the port is freed
	var done atomic.Bool
	var watching sync.WaitGroup
	var seen atomic.Uint32
	watching.Go(func() {
		for !done.Load() {
			began := phase.Load()
			free := x.ports[space][port].Load() == 0
			held := atomic.LoadUint64(&x.held[space*portWords+port/64])&(1<<(port%64)) != 0
			if began%2 == 0 || phase.Load() != began {
				continue
			}
			seen.Add(1)
			if free && held {
				t.Error("a port is free and has its bit")
				return
			}
		}
	})
	for n := 0; n < rounds || seen.Load() < 100_000 && n < 20*rounds; n++ { // however busy the machine is
		if !x.claim(space, port, id) {
			t.Fatal("the port is not to be had")
		}
		phase.Add(1)
		x.free(space, port, id)
		phase.Add(1)
	}
	done.Store(true)
	watching.Wait()
	if seen.Load() == 0 {
		t.Error("nobody looked")
	}
}
