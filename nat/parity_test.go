package nat

import (
	"math/rand/v2"
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestParity: RFC 4787 REQ-4. An inside port that is not kept gets one that is as
// even or odd as it is, while there is one in its class; and no port stays unused for
// it, though all inside ports be even. Other protocols and random assignment, which is
// to be hard to guess, know no parity (RFC 7857 8).
func TestParity(t *testing.T) {
	for name, tt := range map[string]struct {
		proto  uint8
		how    Behaviour
		inside func(rng *rand.Rand) uint16
		least  float64 // of the mappings, those that keep the parity
		most   float64
	}{
		"UDP from any port":            {packet.ProtoUDP, Behaviour{}, func(rng *rand.Rand) uint16 { return uint16(1024 + rng.IntN(64512)) }, 0.99, 1},
		"UDP from even ports":          {packet.ProtoUDP, Behaviour{}, func(rng *rand.Rand) uint16 { return uint16(1024 + 2*rng.IntN(32256)) }, 0.5, 0.5},
		"UDP from any port, at random": {packet.ProtoUDP, Behaviour{Random: true}, func(rng *rand.Rand) uint16 { return uint16(1024 + rng.IntN(64512)) }, 0.48, 0.52},
		"TCP from any port":            {packet.ProtoTCP, Behaviour{}, func(rng *rand.Rand) uint16 { return uint16(1024 + rng.IntN(64512)) }, 0.5, 0.85},
	} {
		t.Run(name, func(t *testing.T) {
			const ports = 1<<16 - 1024
			b := newBench(t, 1, 4*ports+4) // sources are a quarter of it
			b.allocs[0].SetBehaviour(tt.how)
			rng := rand.New(rand.NewPCG(1, 2))
			kept := 0
			free := [2]int{ports / 2, ports / 2}
			for i := range uint32(ports) {
				inside := tt.inside(rng)
				_, port, r := b.mapping(tt.proto, addr("10.0.0.0")+i, inside)
				if r != verdict.None {
					t.Fatalf("with %v ports free: %v", free, r)
				}
				if port%2 == inside%2 {
					kept++
				} else if tt.proto == packet.ProtoUDP && !tt.how.Random && free[inside%2] > 0 {
					t.Fatalf("%d became %d, and %v ports are free", inside, port, free)
				}
				free[port%2]--
			}
			if share := float64(kept) / ports; share < tt.least || share > tt.most {
				t.Errorf("%.3f of the mappings keep the parity, want %.2f to %.2f", share, tt.least, tt.most)
			} else {
				t.Logf("%.3f of the mappings keep the parity, and all ports are used", share)
			}
			if _, _, r := b.mapping(tt.proto, addr("10.2.0.0"), 5000); r != verdict.PortsExhausted {
				t.Errorf("with no port free: %v", r)
			}
		})
	}
}

// TestRandomAssignment: RFC 6056, RFC 7857 9. Free inside ports are not kept, by
// masqueraded endpoints and by a service's clients; an endpoint that has a mapping keeps
// that, and what is foretold holds.
func TestRandomAssignment(t *testing.T) {
	b := newBench(t, 1, 4096)
	a, w, pool := b.allocs[0], b.workers[0], NewPool(b.external)
	a.SetBehaviour(Behaviour{Random: true})
	kept := 0
	for i := range uint16(500) {
		port := 2000 + i
		key := conntrack.Tuple{Src: addr("10.0.0.1"), SrcPort: port, Dst: 1, DstPort: 2, Proto: packet.ProtoUDP}
		if f := DefaultPorts.Forecast(w, Behaviour{Random: true}, pool, nil, &key, &key, 0, now); f.Origin != PortSearched || f.Port != 0 {
			t.Fatalf("foretold %+v", f)
		}
		got := b.port(t, packet.ProtoUDP, addr("10.0.0.1"), port)
		if got == port {
			kept++
		}
		if again := b.port(t, packet.ProtoUDP, addr("10.0.0.1"), port); again != got {
			t.Errorf("the mapping became %d, was %d", again, got)
		}
		if f := DefaultPorts.ForecastService(w, Behaviour{Random: true}, b.external, 1, packet.ProtoTCP, addr("10.0.0.1"), port); f.Origin != PortSearched {
			t.Fatalf("of a service's client: foretold %+v", f)
		}
		m, r := a.MapService(w, b.external, 1, packet.ProtoTCP, addr("10.0.0.1"), port, now)
		if r != verdict.None {
			t.Fatal(r)
		}
		if _, got := m.External(); got == port {
			kept++
		}
	}
	if kept > 3 { // of a thousand by chance one in 64
		t.Errorf("%d of 1000 inside ports were kept", kept)
	}
}
