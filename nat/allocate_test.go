package nat

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// bench is a flow table with workers and their allocators, and one external
// address.
type bench struct {
	table    *conntrack.Table
	external *conntrack.External
	workers  []*conntrack.Worker
	allocs   []*Allocator
}

const now conntrack.Tick = 1000

func newBench(t rapid.TB, workers, maxFlows int) *bench {
	t.Helper()
	timeouts := conntrack.DefaultTimeouts()
	c := conntrack.Config{MaxFlows: maxFlows, Workers: workers, Timeouts: timeouts, Seed: [2]uint64{1, 2}}
	table, err := conntrack.New(make([]byte, conntrack.Size(c)), c)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{table: table, external: conntrack.NewExternal(addr("192.0.2.1"), nil)}
	table.AddExternal(b.external)
	for i := range workers {
		a := &Allocator{}
		a.Seed([32]byte{byte(i + 1)})
		a.Allow(1 << 30)
		w := table.Worker(i)
		w.Online()
		b.workers, b.allocs = append(b.workers, w), append(b.allocs, a)
	}
	return b
}

// mapping makes the first worker map an inside endpoint.
func (b *bench) mapping(proto uint8, inside uint32, port uint16) (m *conntrack.Mapping, external uint16, r verdict.Reason) {
	m, r = b.allocs[0].Map(b.workers[0], b.external, proto, inside, port, now)
	if r == verdict.None {
		_, external = m.External()
	}
	return m, external, r
}

// port is mapping for cases that must succeed.
func (b *bench) port(t testing.TB, proto uint8, inside uint32, port uint16) uint16 {
	t.Helper()
	m, external, r := b.mapping(proto, inside, port)
	if r != verdict.None {
		t.Fatalf("%s:%d: %v", address(inside), port, r)
	}
	if addr, p := m.Inside(); addr != inside || p != port {
		t.Fatalf("the mapping of %s:%d says it is that of %s:%d", address(inside), port, address(addr), p)
	}
	if addr, _ := m.External(); addr != b.external.Address() {
		t.Fatalf("mapped to %s", address(addr))
	}
	if !b.external.Holds(proto, external) {
		t.Fatalf("port %d is given out and not held", external)
	}
	return external
}

var protocols = map[string]uint8{"TCP": packet.ProtoTCP, "UDP": packet.ProtoUDP, "ICMP": packet.ProtoICMP}

func TestMapping(t *testing.T) {
	alice, bob := addr("10.0.0.1"), addr("10.0.0.2")
	for name, proto := range protocols {
		t.Run("RFC 4787 REQ-1, RFC 5508 REQ-1a: endpoint-independent, "+name, func(t *testing.T) {
			b := newBench(t, 1, 1024)
			first := b.port(t, proto, alice, 5000)
			if second := b.port(t, proto, alice, 5000); second != first {
				t.Errorf("mapped to %d, then to %d", first, second)
			}
		})
		t.Run("the port is kept where it is free, "+name, func(t *testing.T) {
			b := newBench(t, 1, 1024)
			if port := b.port(t, proto, alice, 5000); port != 5000 {
				t.Errorf("mapped to %d", port)
			}
		})
		t.Run("RFC 4787 REQ-3, RFC 5382 REQ-7: no overloading, "+name, func(t *testing.T) {
			b := newBench(t, 1, 1024)
			if a, c := b.port(t, proto, alice, 5000), b.port(t, proto, bob, 5000); a == c {
				t.Errorf("both are mapped to %d", a)
			}
		})
	}
	t.Run("each protocol has ports of its own", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		for name, proto := range protocols {
			if port := b.port(t, proto, alice, 5000); port != 5000 {
				t.Errorf("%s is mapped to %d", name, port)
			}
		}
	})
	t.Run("each external address has ports of its own", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		b.port(t, packet.ProtoUDP, alice, 5000)
		b.external = conntrack.NewExternal(addr("192.0.2.2"), nil)
		b.table.AddExternal(b.external)
		if port := b.port(t, packet.ProtoUDP, bob, 5000); port != 5000 {
			t.Errorf("mapped to %d", port)
		}
	})
	t.Run("RFC 6056: what the host listens on is not given out", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		var listening [1024]uint64
		listening[5000/64] |= 1 << (5000 % 64)
		b.external.Reserve(conntrack.ByHost, packet.ProtoTCP, &listening)
		if port := b.port(t, packet.ProtoTCP, alice, 5000); port == 5000 {
			t.Error("mapped to the host's port")
		}
		if port := b.port(t, packet.ProtoUDP, alice, 5000); port != 5000 {
			t.Errorf("the same port of another protocol is mapped to %d", port)
		}
	})
	t.Run("UDP from port 0 gets a port", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		if port := b.port(t, packet.ProtoUDP, alice, 0); port < 1024 {
			t.Errorf("mapped to %d", port)
		}
	})
	t.Run("an identifier may be 0", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		if id := b.port(t, packet.ProtoICMP, alice, 0); id != 0 {
			t.Errorf("mapped to %d", id)
		}
	})
	t.Run("a port comes back when its mapping ends", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		b.allocs[0].SetPorts(PortRange{5000, 5000})
		m, _, r := b.mapping(packet.ProtoICMP, alice, 5000)
		if r != verdict.None {
			t.Fatal(r)
		}
		b.workers[0].Release(m)
		b.workers[0].Quiesce()
		if port := b.port(t, packet.ProtoICMP, bob, 5000); port != 5000 {
			t.Errorf("mapped to %d", port)
		}
	})
}

// TestPortRange: which ports an inside port may be mapped to.
func TestPortRange(t *testing.T) {
	for _, tc := range []struct {
		name      string
		ports     PortRange
		inside    uint16
		taken     bool // the inside port is another host's already
		low, high uint16
	}{
		{"REQ-3a: well-known stays well-known", PortRange{1, 65535}, 500, true, 1, 1023},
		{"REQ-3a: the others stay there", PortRange{1, 65535}, 5000, true, 1024, 65535},
		{"REQ-3a: 1023 is well-known", PortRange{1, 65535}, 1023, true, 1, 1022},
		{"REQ-3a: 1024 is not", PortRange{1, 65535}, 1024, true, 1025, 65535},
		{"a well-known port is kept where the range has it", PortRange{1, 65535}, 500, false, 500, 500},
		{"a well-known port where the range has none", DefaultPorts, 500, false, 1024, 65535},
		{"a port under the range", PortRange{30000, 30009}, 5000, false, 30000, 30009},
		{"a port over the range", PortRange{30000, 30009}, 50000, false, 30000, 30009},
		{"the first of the range is kept", PortRange{30000, 30009}, 30000, false, 30000, 30000},
		{"the last of the range is kept", PortRange{30000, 30009}, 30009, false, 30009, 30009},
		{"a range of one port", PortRange{30000, 30000}, 5000, false, 30000, 30000},
		{"0 is never given out", PortRange{0, 1}, 5, false, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, 1, 1024)
			b.allocs[0].SetPorts(tc.ports)
			if tc.taken {
				b.port(t, packet.ProtoUDP, addr("10.0.0.1"), tc.inside)
			}
			if port := b.port(t, packet.ProtoUDP, addr("10.0.0.2"), tc.inside); port < tc.low || port > tc.high {
				t.Errorf("mapped to %d, want %d to %d", port, tc.low, tc.high)
			}
		})
	}
	t.Run("port-range is not for identifiers", func(t *testing.T) {
		b := newBench(t, 1, 1024)
		b.allocs[0].SetPorts(PortRange{30000, 30009})
		if id := b.port(t, packet.ProtoICMP, addr("10.0.0.1"), 77); id != 77 {
			t.Errorf("mapped to %d", id)
		}
	})
}

// TestExhaustion: the last free port is found, whatever class it is of; then new
// endpoints are refused, and those that have a mapping keep it (RFC 6888
// REQ-11).
func TestExhaustion(t *testing.T) {
	b := newBench(t, 1, 4096)
	ports := PortRange{1000, 1099} // 24 well-known, 76 others
	b.allocs[0].SetPorts(ports)
	seen := map[uint16]uint32{}
	for i := range uint32(100) {
		_, port, r := b.mapping(packet.ProtoTCP, addr("10.0.0.0")+i, 1050)
		if r != verdict.None {
			t.Fatalf("endpoint %d: %v with %d ports free", i, r, 100-i)
		}
		if _, double := seen[port]; double || !ports.contains(port) {
			t.Fatalf("endpoint %d: mapped to %d", i, port)
		}
		if well := port < 1024; well != (i >= 76) {
			t.Fatalf("endpoint %d: mapped to %d while its class had ports free: %v", i, port, well)
		}
		seen[port] = i
	}
	before := b.table.Count()
	if _, _, r := b.mapping(packet.ProtoTCP, addr("10.0.1.0"), 1050); r != verdict.PortsExhausted {
		t.Fatalf("with no port free: %v", r)
	}
	if after := b.table.Count(); after != before {
		t.Errorf("the refusal left something behind: %+v, was %+v", after, before)
	}
	if port := b.port(t, packet.ProtoTCP, addr("10.0.0.0"), 1050); seen[port] != 0 {
		t.Errorf("the first endpoint's mapping became %d", port)
	}
	if port := b.port(t, packet.ProtoUDP, addr("10.0.1.0"), 1050); port != 1050 {
		t.Errorf("another protocol is mapped to %d", port)
	}
	if c := b.allocs[0].Counters(); c != (AllocatorCounters{Kept: 2, Searched: 99, Exhausted: 1}) {
		t.Errorf("counters %+v", c)
	}
}

// TestPortsAreHardToGuess: RFC 6056. Ports that are not kept are spread over the
// whole range, and another seed spreads them otherwise.
func TestPortsAreHardToGuess(t *testing.T) {
	const n, buckets = 1600, 16
	sequence := func(seed byte) (ports []uint16) {
		b := newBench(t, 1, 2*n)
		b.allocs[0].Seed([32]byte{seed})
		for i := range uint32(n) {
			ports = append(ports, b.port(t, packet.ProtoUDP, addr("10.0.0.0")+i/8, uint16(500+i%8))) // under the range
		}
		return ports
	}
	one, two := sequence(1), sequence(2)
	var count [buckets]int
	same, follows := 0, 0
	for i, port := range one {
		count[int(port-1024)*buckets/(65536-1024)]++
		if port == two[i] {
			same++
		}
		if i > 0 && port == one[i-1]+1 {
			follows++
		}
	}
	// Each bucket expects 100 with a deviation of 10; five of them happen once
	// in 10^5 runs, and the seed is fixed.
	for i, c := range count {
		if c < 50 || c > 150 {
			t.Errorf("%d of %d ports are in part %d of %d", c, n, i+1, buckets)
		}
	}
	if same > 5 || follows > 5 {
		t.Errorf("%d of %d ports are the same with another seed, %d follow the one before", same, n, follows)
	}
}

// TestFullTables: what the flow table refuses is refused with its reason, and
// leaves nothing behind.
func TestFullTables(t *testing.T) {
	b := newBench(t, 1, 64)
	var last verdict.Reason
	mapped := 0
	for i := range uint32(10000) {
		before := b.table.Count()
		if _, _, last = b.mapping(packet.ProtoUDP, addr("10.0.0.1"), uint16(5000+i)); last != verdict.None {
			if after := b.table.Count(); after != before {
				t.Errorf("the refusal left something behind: %+v, was %+v", after, before)
			}
			break
		}
		mapped++
	}
	if last != verdict.MappingTableFull || mapped < 64 {
		t.Errorf("after %d mappings: %v", mapped, last)
	}
}

// TestRemovedExternal: nothing new is mapped to an address that is gone.
func TestRemovedExternal(t *testing.T) {
	b := newBench(t, 1, 1024)
	b.table.RemoveExternal(b.external)
	if _, _, r := b.mapping(packet.ProtoUDP, addr("10.0.0.1"), 5000); r != verdict.NoExternalAddress {
		t.Error(r)
	}
	if c := b.table.Count(); c.Sources != 0 || c.Mappings != 0 {
		t.Errorf("the refusal left something behind: %+v", c)
	}
}

// TestRacingWorkers: workers that see the first packets of the same endpoints at
// once end with one mapping for each, and no port is given out twice.
func TestRacingWorkers(t *testing.T) {
	const workers, endpoints = 4, 2000
	// A worker that loses the race for an endpoint has claimed a port in vain
	// until it notices: with one to spare for each nobody may be refused.
	ports := PortRange{2000, 2000 + endpoints + workers - 1}
	b := newBench(t, workers, 4*endpoints)
	var got [workers][endpoints]uint16
	var wait sync.WaitGroup
	start := make(chan struct{})
	for i := range workers {
		b.allocs[i].SetPorts(ports)
		wait.Go(func() {
			<-start
			for e := range endpoints {
				m, r := b.allocs[i].Map(b.workers[i], b.external, packet.ProtoUDP, addr("10.0.0.0")+uint32(e/8), uint16(2000+e%8), now)
				if r != verdict.None {
					t.Errorf("worker %d, endpoint %d: %v", i, e, r)
					return
				}
				_, got[i][e] = m.External()
				b.workers[i].Quiesce()
			}
		})
	}
	close(start)
	wait.Wait()
	seen := map[uint16]int{}
	for e, port := range got[0] {
		if other, double := seen[port]; double {
			t.Errorf("endpoints %d and %d are both mapped to %d", other, e, port)
		}
		seen[port] = e
		for i := range workers {
			if got[i][e] != port {
				t.Errorf("endpoint %d is mapped to %d and to %d", e, port, got[i][e])
			}
		}
	}
}

// TestAllocatorAgainstModel: random endpoints come and go in a small range; a
// map knows who has which port.
func TestAllocatorAgainstModel(t *testing.T) {
	type endpoint struct {
		proto  uint8
		inside uint32
		port   uint16
	}
	type held struct {
		mapping  *conntrack.Mapping
		external uint16
	}
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, 1, 1024)
		low := rapid.Uint16Range(1015, 1030).Draw(rt, "low")
		ports := PortRange{low, low + rapid.Uint16Range(0, 12).Draw(rt, "size")}
		b.allocs[0].SetPorts(ports)
		model := map[endpoint]held{}
		owner := map[[2]uint16]endpoint{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			e := endpoint{
				rapid.SampledFrom([]uint8{packet.ProtoTCP, packet.ProtoUDP}).Draw(rt, "proto"),
				addr("10.0.0.0") + rapid.Uint32Range(0, 3).Draw(rt, "host"),
				rapid.Uint16Range(1010, 1045).Draw(rt, "port"),
			}
			key := func(port uint16) [2]uint16 { return [2]uint16{uint16(e.proto), port} }
			if had, ok := model[e]; ok && rapid.Bool().Draw(rt, "release") {
				b.workers[0].Release(had.mapping)
				b.workers[0].Quiesce()
				delete(model, e)
				delete(owner, key(had.external))
				continue
			}
			free, classFree := 0, false
			for p := ports.Low; p <= ports.High; p++ {
				if _, taken := owner[key(p)]; !taken {
					free++
					classFree = classFree || (p < 1024) == (e.port < 1024)
				}
			}
			m, external, r := b.mapping(e.proto, e.inside, e.port)
			had, exists := model[e]
			_, own := owner[key(e.port)]
			switch {
			case exists && (r != verdict.None || external != had.external):
				rt.Fatalf("%v: %v, %d; it was mapped to %d", e, r, external, had.external)
			case exists:
				b.workers[0].Release(m) // the second reference
				continue
			case free == 0 && r != verdict.PortsExhausted:
				rt.Fatalf("%v: %v with no port free", e, r)
			case free == 0:
				continue
			case r != verdict.None:
				rt.Fatalf("%v: %v with %d ports free", e, r, free)
			case !own && ports.contains(e.port) && external != e.port:
				rt.Fatalf("%v: mapped to %d and its port was free", e, external)
			case !ports.contains(external):
				rt.Fatalf("%v: mapped to %d, out of %v", e, external, ports)
			case classFree && (external < 1024) != (e.port < 1024):
				rt.Fatalf("%v: mapped to %d, of the other class", e, external)
			}
			if other, taken := owner[key(external)]; taken {
				rt.Fatalf("%v: mapped to %d, which is %v's", e, external, other)
			}
			model[e], owner[key(external)] = held{m, external}, e
		}
	})
}

func TestAllocatorAllocs(t *testing.T) {
	b := newBench(t, 1, 1024)
	b.port(t, packet.ProtoUDP, addr("10.0.0.9"), 5000)
	if n := testing.AllocsPerRun(100, func() {
		for inside := range uint32(2) { // one keeps its port, one has to search
			m, _, r := b.mapping(packet.ProtoUDP, addr("10.0.0.1")+inside, 6000)
			again, _, _ := b.mapping(packet.ProtoUDP, addr("10.0.0.1")+inside, 6000)
			if r != verdict.None || m != again {
				t.Fatal(r)
			}
			b.workers[0].Release(again)
			b.workers[0].Release(m)
		}
		b.workers[0].Quiesce()
	}); n != 0 {
		t.Errorf("Map allocates %v times", n)
	}
}

// BenchmarkMap makes and ends a mapping while a share of the ports is taken.
func BenchmarkMap(b *testing.B) {
	for _, percent := range []int{0, 50, 99} {
		b.Run(fmt.Sprintf("%d%%", percent), func(b *testing.B) {
			x := newBench(b, 1, 1<<17)
			for i := range 64512 * percent / 100 {
				x.port(b, packet.ProtoUDP, addr("10.1.0.0")+uint32(i/512), uint16(i%512))
			}
			b.ResetTimer()
			for b.Loop() {
				m, _, r := x.mapping(packet.ProtoUDP, addr("10.0.0.1"), 500)
				if r != verdict.None {
					b.Fatal(r)
				}
				x.workers[0].Release(m)
				x.workers[0].Quiesce()
			}
		})
	}
}
