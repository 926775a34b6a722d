package nat

import (
	"math/rand/v2"
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestForecast: for any endpoint, at any fill of any pool, the mapping that is
// then made is the one that was foretold.
func TestForecast(t *testing.T) {
	met := map[string]int{}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		cfg := conntrack.Config{MaxFlows: 256, Workers: 1, Timeouts: conntrack.DefaultTimeouts()}
		table, err := conntrack.New(make([]byte, conntrack.Size(cfg)), cfg)
		if err != nil {
			t.Fatal(err)
		}
		var all []*conntrack.External
		for i := range 1 + rng.IntN(3) {
			x := conntrack.NewExternal(0xcb007100+uint32(i), nil)
			if err := table.AddExternal(x); err != nil {
				t.Fatal(err)
			}
			all = append(all, x)
		}
		w, a := table.Worker(0), Allocator{}
		a.Seed([32]byte{byte(seed)})
		ports := []PortRange{{1024, 65535}, {1020, 1026}, {2000, 2003}}[rng.IntN(3)]
		a.SetPorts(ports)
		pool := NewPool(all...)
		for range 60 {
			if rng.IntN(20) == 0 {
				pool = NewPool(all[:1+rng.IntN(len(all))]...) // sources keep the address that they have, while it is there
			}
			proto := []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP}[rng.IntN(3)]
			inside, port := 0x0a000001+uint32(rng.IntN(4)), uint16(1018+rng.IntN(10))
			var ext *conntrack.External
			if rng.IntN(4) == 0 {
				ext = all[rng.IntN(len(all))]
			}
			before := table.Count()
			key := conntrack.Tuple{Src: inside, SrcPort: port, Dst: 1, DstPort: 2, Proto: proto}
			f := ports.Forecast(w, Behaviour{}, pool, ext, &key, &key, 0, 1)
			if table.Count() != before {
				t.Fatalf("seed %d: the forecast left something behind", seed)
			}
			var m *conntrack.Mapping
			var r verdict.Reason
			if ext != nil {
				m, r = a.Map(w, ext, proto, inside, port, 1)
			} else {
				m, r = a.MapFrom(w, pool, proto, inside, port, 1)
			}
			if r != f.Reason {
				t.Fatalf("seed %d: %v, foretold %v", seed, r, f.Reason)
			}
			if r != verdict.None {
				met[r.String()]++
				continue
			}
			made := table.Count().Mappings > before.Mappings
			addr, got := m.External()
			if addr != f.External.Address() || f.Origin != PortSearched && got != f.Port || f.Origin == PortKept && got != port || made != (f.Origin != PortMapped) {
				t.Fatalf("seed %d: %#x:%d, made %v; foretold %+v", seed, addr, got, made, f)
			}
			met[[]string{"mapped", "kept", "searched"}[f.Origin]]++
		}
	}
	for _, what := range []string{"mapped", "kept", "searched", "ports-exhausted"} {
		if met[what] < 20 {
			t.Errorf("%s: only %d times", what, met[what])
		}
	}
	if f := DefaultPorts.Forecast(nil, Behaviour{}, nil, nil, &conntrack.Tuple{}, nil, 0, 1); f.Reason != verdict.NoExternalAddress {
		t.Errorf("no pool: %+v", f)
	}
}
