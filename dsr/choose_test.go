package dsr

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
)

const vip = 172<<24 | 18<<16 | 2 // 172.18.0.2

func address(s string) uint32 {
	a := netip.MustParseAddr(s).As4()
	return binary.BigEndian.Uint32(a[:])
}

func backends(weights ...int) (list []BackendConfig) {
	for i, w := range weights {
		list = append(list, BackendConfig{Address: address("10.0.2.1") + uint32(i), Port: 80, Weight: w, Agent: true})
	}
	return list
}

func table(t testing.TB, ids *Ids, previous *Table, c ...ServiceConfig) *Table {
	t.Helper()
	table, err := New(c, ids, previous, NewAffinity(1<<10, 7))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func web(a Algorithm, list []BackendConfig) ServiceConfig {
	return ServiceConfig{Name: "web", VIP: vip, Port: 80, Proto: packet.ProtoTCP, Algorithm: a, Backends: list}
}

// client is the tuple of the n-th of many clients' connections.
func client(n int) conntrack.Tuple {
	return conntrack.Tuple{Src: 0xc6336400 + uint32(n>>12), Dst: vip, SrcPort: uint16(n&0xfff + 1024), DstPort: 80, Proto: packet.ProtoTCP}
}

// TestSeeds: the seeds are those of Cilium's default.
func TestSeeds(t *testing.T) {
	b, err := base64.StdEncoding.DecodeString("JLfvgnHc2kaSUFaI")
	if err != nil || binary.BigEndian.Uint32(b) != murmurSeed || binary.BigEndian.Uint32(b[4:]) != jhashSeed {
		t.Errorf("%x, %v", b, err)
	}
}

// TestCiliumVectors: slots that Cilium's own tests expect, with their seed 0xcafe
// and a table of 20.
func TestCiliumVectors(t *testing.T) {
	for src, slot := range map[string]uint32{"110.0.11.1": 12, "130.0.13.3": 13} {
		if got := tupleHash(address(src), 0, 80, packet.ProtoTCP, 0xcafe) % 20; got != slot {
			t.Errorf("%s: slot %d, want %d", src, got, slot)
		}
	}
	for port, want := range map[uint16]uint16{22331: 56602, 33441: 24364} {
		to := conntrack.Tuple{Src: address("110.0.11.1"), SrcPort: 22330, DstPort: port, Proto: packet.ProtoTCP}
		if got := geneveSourcePort(&to, 0xcafe); got != want {
			t.Errorf("towards %d: source port %d, want %d", port, got, want)
		}
	}
}

// TestMurmur: published vectors of MurmurHash3_x64_128.
func TestMurmur(t *testing.T) {
	for text, want := range map[string][2]uint64{
		"":      {0, 0},
		"hello": {0xcbd8a7b341bd9b02, 0x5b1e906a48ae1d19},
		"The quick brown fox jumps over the lazy dog": {0xe34bbc7bbc071b6c, 0x7a433ca9c49a9347},
	} {
		if h1, h2 := murmur([]byte(text), 0); h1 != want[0] || h2 != want[1] {
			t.Errorf("%q: %#x, %#x", text, h1, h2)
		}
	}
}

// TestMaglevShares: every slot is somebody's, and the shares are those of the
// weights.
func TestMaglevShares(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1, 1}, {1, 2, 3, 4}, {100, 1, 50}, {7, 7, 7, 7, 7, 7}} {
		s := table(t, NewIds(), nil, web(Maglev, backends(weights...))).Services[0]
		count := make([]int, len(weights))
		for _, b := range s.maglev {
			count[s.active[b].Address-address("10.0.2.1")]++
		}
		sum := 0
		for _, w := range weights {
			sum += w
		}
		for i, w := range weights {
			if ideal := maglevSize * w / sum; count[i] < ideal*95/100-2 || count[i] > ideal*105/100+2 {
				t.Errorf("weights %v: backend %d has %d slots, ideal is %d", weights, i, count[i], ideal)
			}
		}
	}
}

// TestGatewaysAgree: the order in which backends are listed, and the numbers that
// they have, decide nothing.
func TestGatewaysAgree(t *testing.T) {
	list := backends(1, 3, 1, 2, 1)
	a := table(t, NewIds(), nil, web(Maglev, list)).Services[0]
	list = slices.Clone(list)
	slices.Reverse(list)
	ids := NewIds()
	table(t, ids, nil, web(Maglev, backends(1, 1)))
	b := table(t, ids, nil, web(Maglev, list)).Services[0]
	for n := range 10000 {
		if x, y := a.Select(client(n), 0), b.Select(client(n), 0); x.Endpoint() != y.Endpoint() {
			t.Fatalf("client %d: %s and %s", n, x.Endpoint(), y.Endpoint())
		}
	}
}

// TestDisruption: when one of N backends goes, hardly more flows move than those
// that it had, 1/N of all. With -v it prints how many.
func TestDisruption(t *testing.T) {
	const flows = 20000
	for _, n := range []int{2, 3, 5, 10, 50, 100} {
		list := backends(slices.Repeat([]int{1}, n)...)
		before := table(t, NewIds(), nil, web(Maglev, list)).Services[0]
		after := table(t, NewIds(), nil, web(Maglev, list[1:])).Services[0]
		moved, gone := 0, 0
		for i := range flows {
			x, y := before.Select(client(i), 0), after.Select(client(i), 0)
			switch {
			case x.Address == list[0].Address:
				gone++
			case x.Endpoint() != y.Endpoint():
				moved++
			}
		}
		t.Logf("1 of %3d backends removed: %5.2f %% of the flows were its own (ideal %5.2f %%), %5.2f %% of the others moved",
			n, 100*float64(gone)/flows, 100/float64(n), 100*float64(moved)/float64(flows-gone))
		if moved > flows*6/100 {
			t.Errorf("%d backends: %d of %d flows of others moved", n, moved, flows)
		}
	}
}

// TestShares: random and round-robin give what the weights say; round-robin in
// turn.
func TestShares(t *testing.T) {
	const draws = 12000
	for _, a := range []Algorithm{Random, RoundRobin} {
		s := table(t, NewIds(), nil, web(a, backends(1, 2, 3))).Services[0]
		random := uint64(1)
		count := map[uint32]int{}
		for n := range draws {
			random = random*6364136223846793005 + 1442695040888963407
			count[s.Select(client(n), random^random>>29).Address-address("10.0.2.1")]++
		}
		for i, w := range []int{1, 2, 3} {
			if ideal := draws * w / 6; count[uint32(i)] < ideal*9/10 || count[uint32(i)] > ideal*11/10 {
				t.Errorf("%s: backend %d was chosen %d times, ideal is %d", a, i, count[uint32(i)], ideal)
			}
		}
	}
	s := table(t, NewIds(), nil, web(RoundRobin, backends(1, 1, 2))).Services[0]
	var got []uint32
	for n := range 8 {
		got = append(got, s.Select(client(n), 0).Address-address("10.0.2.1"))
	}
	if want := []uint32{2, 0, 1, 2, 2, 0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("turns %v, want %v", got, want)
	}
	if n := len(turns([]*Backend{{Weight: 65535}, {Weight: 65534}, {Weight: 1}})); n > maxTurns+3 {
		t.Errorf("an order of %d turns", n)
	}
}

// TestOnlyActive: a backend that drains, is dead or has no weight gets no new flow.
func TestOnlyActive(t *testing.T) {
	for _, a := range []Algorithm{Maglev, Random, RoundRobin} {
		list := backends(1, 1, 1, 0)
		list[0].State, list[1].State = Draining, Dead
		s := table(t, NewIds(), nil, web(a, list)).Services[0]
		for n := range 1000 {
			if b := s.Select(client(n), uint64(n)<<54); b == nil || b.Address != list[2].Address {
				t.Fatalf("%s: %v", a, b)
			}
		}
		list[2].State = Dead
		s = table(t, NewIds(), nil, web(a, list)).Services[0]
		if b := s.Select(client(0), 0); b != nil || s.Selectable() != 0 {
			t.Errorf("%s: none is left, and it chooses %v", a, b)
		}
	}
}

// TestTable: what is looked up is what was put in; numbers stay the same from one
// table to the next.
func TestTable(t *testing.T) {
	ids := NewIds()
	dns := ServiceConfig{Name: "dns", VIP: vip, Port: 53, Proto: packet.ProtoUDP, Backends: backends(1)}
	first := table(t, ids, nil, web(Maglev, backends(1, 1)), dns)
	second := table(t, ids, first, dns, web(Maglev, backends(1, 1)))
	for _, x := range []*Table{first, second} {
		s := x.Find(vip, 80, packet.ProtoTCP)
		if s == nil || s.Name != "web" || x.Service(s.ID) != s {
			t.Fatalf("web: %+v", s)
		}
		for _, b := range s.Backends {
			if x.Backend(b.ID) != b {
				t.Errorf("backend %d is not found", b.ID)
			}
		}
		if x.Find(vip, 80, packet.ProtoUDP) != nil || x.Find(vip, 81, packet.ProtoTCP) != nil || x.Find(vip+1, 80, packet.ProtoTCP) != nil {
			t.Error("found what is not there")
		}
		if !x.IsVIP(vip) || x.IsVIP(vip+1) {
			t.Error("IsVIP")
		}
	}
	a, b := first.Find(vip, 80, packet.ProtoTCP), second.Find(vip, 80, packet.ProtoTCP)
	if a.ID != b.ID || a.Backends[1].ID != b.Backends[1].ID {
		t.Error("numbers changed")
	}
	if &a.maglev[0] != &b.maglev[0] {
		t.Error("a table that is still right was made again")
	}
	var none *Table
	if none.Find(vip, 80, packet.ProtoTCP) != nil || none.IsVIP(vip) || none.Service(1) != nil || none.Backend(1) != nil {
		t.Error("no table has something")
	}
	if _, err := New([]ServiceConfig{dns, dns}, ids, nil, nil); err == nil {
		t.Error("two services at one place")
	}
}

func TestAllowedSource(t *testing.T) {
	c := web(Maglev, backends(1))
	c.Sources = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.7/32")}
	s := table(t, NewIds(), nil, c).Services[0]
	for a, want := range map[string]bool{"198.51.100.9": true, "203.0.113.7": true, "203.0.113.8": false, "10.0.0.1": false} {
		if s.AllowedSource(address(a)) != want {
			t.Errorf("%s: %v", a, !want)
		}
	}
}

// TestAffinity: a client keeps its backend for as long as it is served often
// enough and the backend gets flows.
func TestAffinity(t *testing.T) {
	c := web(RoundRobin, backends(1, 1, 1))
	c.Affinity = 100
	ids, memory := NewIds(), NewAffinity(1<<10, 7)
	make := func(list []BackendConfig, before *Table) (*Table, *Service) {
		c.Backends = list
		x, err := New([]ServiceConfig{c}, ids, before, memory)
		if err != nil {
			t.Fatal(err)
		}
		return x, x.Services[0]
	}
	x, s := make(backends(1, 1, 1), nil)
	now := conntrack.Tick(1000)
	first := s.Pick(client(0), now, 0)
	for n := range 5 {
		now += 99
		if b := s.Pick(client(n), now, 0); b != first { // other ports, the same client
			t.Fatalf("after %d ticks: %s, was %s", now-1000, b.Endpoint(), first.Endpoint())
		}
	}
	now += 100
	if b := s.Pick(client(0), now, 0); b == first {
		t.Error("kept for longer than the time-out")
	}
	kept := s.Pick(client(0), now, 0)
	list := backends(1, 1, 1)
	list[kept.Address-address("10.0.2.1")].State = Draining
	_, s = make(list, x)
	if b := s.Pick(client(0), now, 0); b.ID == kept.ID {
		t.Error("a draining backend gets a new flow")
	}
}

// TestSelectAllocates nothing, on the way of every new flow.
func TestSelectAllocates(t *testing.T) {
	for _, a := range []Algorithm{Maglev, Random, RoundRobin} {
		c := web(a, backends(1, 2, 3))
		c.Affinity = 100
		c.Sources = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		x := table(t, NewIds(), nil, c)
		n := 0
		if allocs := testing.AllocsPerRun(1000, func() {
			n++
			s := x.Find(vip, 80, packet.ProtoTCP)
			if !x.IsVIP(vip) || !s.AllowedSource(1) || s.Pick(client(n), conntrack.Tick(n), uint64(n)) == nil {
				t.Error("nothing found")
			}
		}); allocs != 0 {
			t.Errorf("%s: %v allocations", a, allocs)
		}
	}
}

// TestFindAgainstMap: the table is a map.
func TestFindAgainstMap(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		model := map[[3]uint32]string{}
		var list []ServiceConfig
		for i := range rapid.IntRange(0, 40).Draw(r, "services") {
			k := [3]uint32{rapid.Uint32Range(1, 8).Draw(r, "vip"), rapid.Uint32Range(1, 8).Draw(r, "port"), rapid.SampledFrom([]uint32{6, 17}).Draw(r, "proto")}
			if _, taken := model[k]; taken {
				continue
			}
			model[k] = fmt.Sprint("s", i)
			list = append(list, ServiceConfig{Name: model[k], VIP: k[0], Port: uint16(k[1]), Proto: uint8(k[2]), Algorithm: Random})
		}
		x, err := New(list, NewIds(), nil, nil)
		if err != nil {
			r.Fatal(err)
		}
		for v := range uint32(10) {
			for p := range uint32(10) {
				for _, proto := range []uint32{6, 17} {
					got := ""
					if s := x.Find(v, uint16(p), uint8(proto)); s != nil {
						got = s.Name
					}
					if want := model[[3]uint32{v, p, proto}]; got != want {
						r.Fatalf("%d:%d/%d is %q, want %q", v, p, proto, got, want)
					}
				}
			}
		}
	})
}

func BenchmarkSelect(b *testing.B) {
	for _, a := range []Algorithm{Maglev, Random, RoundRobin} {
		b.Run(a.String(), func(b *testing.B) {
			s := table(b, NewIds(), nil, web(a, backends(1, 2, 3, 4))).Services[0]
			for n := range b.N {
				s.Select(client(n), uint64(n)<<40)
			}
		})
	}
}

func BenchmarkTable(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		b.Run(fmt.Sprint(n, " backends"), func(b *testing.B) {
			list := backends(slices.Repeat([]int{1}, n)...)
			for b.Loop() {
				table(b, NewIds(), nil, web(Maglev, list))
			}
		})
	}
}
