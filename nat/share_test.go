package nat

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestSearchSeesEveryPort: once, wherever it begins and in whatever steps.
func TestSearchSeesEveryPort(t *testing.T) {
	var a Allocator
	a.Seed([32]byte{1})
	for _, r := range []PortRange{{5000, 5000}, {5000, 5001}, {5000, 5002}, {0, 65535}, {1024, 65535}, {1, 30030}, {65535, 65535}, {60000, 60210}} {
		var s Search
		s.begin(&a, r)
		seen := make([]bool, 1<<16)
		for n := int(r.High) - int(r.Low) + 1; n > 0; n-- {
			s.begin(&a, r) // goes on
			port := s.next()
			if !r.contains(port) || seen[port] {
				t.Fatalf("%v: port %d, or again", r, port)
			}
			seen[port] = true
		}
		if s.left != 0 {
			t.Errorf("%v: %d ports are left", r, s.left)
		}
		other := PortRange{7000, 7009}
		if s.begin(&a, other); s.left != 10 || !other.contains(s.next()) {
			t.Errorf("%v: in another range the search does not begin anew: %+v", r, s)
		}
	}
}

// filled is a bench all of whose ports are taken by flows with peer, but for one
// port, which is taken by a flow with another.
func filled(t rapid.TB, how Behaviour, ports PortRange, free uint16, peer conntrack.Tuple) *bench {
	t.Helper()
	b := newBench(t, 1, 1<<13)
	a, w := b.allocs[0], b.workers[0]
	a.SetPorts(ports)
	a.SetBehaviour(how)
	for port := ports.Low; port <= ports.High; port++ {
		key := peer
		key.Src, key.SrcPort = addr("10.0.0.1"), port
		if port == free {
			key.Dst++
		}
		var s Search
		m, r := a.MapFlow(w, NewPool(b.external), nil, &key, &key, &s, now)
		if r != verdict.None {
			t.Fatal(r)
		}
		reply := key.Reverse()
		reply.Dst, reply.DstPort = m.External()
		if reply.DstPort != port {
			t.Fatalf("port %d became %d", port, reply.DstPort)
		}
		if _, _, _, r := w.Create(&conntrack.NewFlow{Original: key, Reply: reply, Kind: conntrack.Masquerade, Mapping: m}, now); r != verdict.None {
			t.Fatal(r)
		}
	}
	return b
}

// TestLastPortIsFound: in every mode in which ports are shared, the one port of a
// full range that a destination does not know is found, in steps of any size; and
// what is none is known after each port was looked at once.
func TestLastPortIsFound(t *testing.T) {
	peer := conntrack.Tuple{Dst: addr("198.51.100.1"), DstPort: 53, Proto: packet.ProtoUDP}
	ports := PortRange{20000, 20999}
	for name, how := range map[string]Behaviour{
		"overload":                   {Overload: true},
		"address-dependent":          {Mapping: MapAddress},
		"address-and-port-dependent": {Mapping: MapAddressAndPort},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				free := rapid.Uint16Range(ports.Low-1, ports.High).Draw(rt, "free")
				step := rapid.IntRange(1, 2000).Draw(rt, "step")
				b := filled(rt, how, ports, free, peer)
				a, w := b.allocs[0], b.workers[0]
				key := peer
				key.Src, key.SrcPort = addr("10.0.0.2"), 4000
				var s Search
				before := a.Counters().Probes
				for calls := 1; ; calls++ {
					probes := a.Counters().Probes
					a.Allow(step)
					m, r := a.MapFlow(w, NewPool(b.external), nil, &key, &key, &s, now)
					if n := int(a.Counters().Probes - probes); n > step {
						rt.Fatalf("%d ports were looked at, %d are allowed", n, step)
					}
					looked := int(a.Counters().Probes - before)
					switch {
					case r == verdict.PortSearchWaiting && looked < 1000:
						continue
					case r == verdict.PortsExhausted && free < ports.Low && looked == 1000:
						return
					case r != verdict.None:
						rt.Fatalf("call %d, after %d ports: %v, and port %d is free", calls, looked, r, free)
					}
					if _, port := m.External(); port != free {
						rt.Fatalf("port %d, want %d", port, free)
					}
					return
				}
			})
		})
	}
}

// BenchmarkShare finds a port where one of 4000 can be shared.
func BenchmarkShare(b *testing.B) {
	peer := conntrack.Tuple{Dst: addr("198.51.100.1"), DstPort: 53, Proto: packet.ProtoUDP}
	ports := PortRange{20000, 23999}
	bench := filled(b, Behaviour{Overload: true}, ports, 20123, peer)
	a, w, pool := bench.allocs[0], bench.workers[0], NewPool(bench.external)
	key := peer
	key.Src, key.SrcPort = addr("10.0.0.2"), 4000
	probes := a.Counters().Probes
	for b.Loop() {
		var s Search
		a.Allow(1 << 16)
		m, r := a.MapFlow(w, pool, nil, &key, &key, &s, now)
		if r != verdict.None {
			b.Fatal(r)
		}
		w.Release(m)
		w.Quiesce()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(a.Counters().Probes-probes), "ns/port")
}
