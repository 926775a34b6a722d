package fib

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func ip(s string) uint32        { return U32(netip.MustParseAddr(s)) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	macLAN = [6]byte{2, 0, 0, 0, 0, 1}
	macWAN = [6]byte{2, 0, 0, 0, 0, 2}
	macA   = [6]byte{2, 0, 0, 0, 1, 1}
	macB   = [6]byte{2, 0, 0, 0, 1, 2}
)

const (
	lan PortID = 0
	wan PortID = 1

	lanIndex   = 10
	wanIndex   = 11
	otherIndex = 12 // an interface that is not listed
)

func interfaces() []Interface {
	return []Interface{
		{Name: "lan", Ifindex: lanIndex, MAC: macLAN, MTU: 1500, Up: true, Primary: ip("10.0.0.1"), Addresses: []netip.Prefix{pfx("10.0.0.1/24")}},
		{Name: "wan", Ifindex: wanIndex, MAC: macWAN, MTU: 1400, Up: true, Primary: ip("192.0.2.1"), Addresses: []netip.Prefix{pfx("192.0.2.1/24")}},
	}
}

func via(gateway string, ifindex int32) []Path {
	return []Path{{Ifindex: ifindex, Gateway: ip(gateway)}}
}

// gateway returns a builder with a connected lan and wan, a default route, and more.
func gateway(more ...Route) *Builder {
	b := new(Builder)
	b.SetInterfaces(interfaces())
	routes := Connected(interfaces())
	routes = append(routes,
		Route{Table: TableLocal, Prefix: pfx("127.0.0.0/8"), Type: RouteLocal},
		Route{Table: TableMain, Prefix: pfx("0.0.0.0/0"), Paths: via("192.0.2.254", wanIndex)})
	b.SetRoutes(append(routes, more...))
	return b
}

func TestLookup(t *testing.T) {
	main := func(p string, typ RouteType, metric uint32, paths ...Path) Route {
		return Route{Table: TableMain, Prefix: pfx(p), Type: typ, Metric: metric, Paths: paths}
	}
	b := gateway(
		main("203.0.113.0/24", RouteUnreachable, 0),
		main("203.0.114.0/24", RouteProhibit, 0),
		main("203.0.115.0/24", RouteBlackhole, 0),
		main("203.0.116.0/24", RouteThrow, 0),
		main("203.0.117.0/24", RouteKernel, 0, Path{Ifindex: wanIndex}),
		main("198.51.100.0/24", RouteUnicast, 0, Path{Ifindex: otherIndex}),
		main("198.18.0.0/15", RouteUnicast, 100, via("10.0.0.2", lanIndex)...),
		main("198.18.0.0/15", RouteUnicast, 50, via("10.0.0.3", lanIndex)...),
		main("198.18.0.0/15", RouteUnicast, 50, via("10.0.0.4", lanIndex)...),
		main("198.18.0.0/16", RouteUnicast, 10, Path{Ifindex: lanIndex, Gateway: ip("10.0.0.5"), Dead: true}),
		Route{Table: TableMain, Prefix: pfx("100.64.0.0/10"), MTU: 1280, Paths: via("192.0.2.254", wanIndex)},
		Route{Table: TableMain, Prefix: pfx("100.64.1.0/24"), MTU: 9000, Paths: via("192.0.2.254", wanIndex)},
	)
	b.SetNeighbours([]Neighbour{
		{Port: lan, Addr: ip("10.0.0.7"), State: Resolved, MAC: macA},
		{Port: wan, Addr: ip("192.0.2.254"), State: Resolved, MAC: macB},
		{Port: lan, Addr: ip("10.0.0.8"), State: Failed},
		{Port: wan, Addr: ip("10.0.0.9"), State: Resolved, MAC: macB}, // the other link's
	})
	s := b.Build()

	forward := func(port PortID, gw string, state NeighState, mac [6]byte, mtu uint16) Hop {
		iface := s.Interface(port)
		return Hop{Type: Forward, State: state, Port: port, Up: true, Ifindex: iface.Ifindex, Gateway: ip(gw), MAC: mac, Source: iface.MAC, MTU: mtu}
	}
	for _, tt := range []struct {
		name, dst string
		want      Hop
	}{
		{"default route", "1.1.1.1", forward(wan, "192.0.2.254", Resolved, macB, 1400)},
		{"on the link, known", "10.0.0.7", forward(lan, "10.0.0.7", Resolved, macA, 1500)},
		{"on the link, failed", "10.0.0.8", forward(lan, "10.0.0.8", Failed, [6]byte{}, 1500)},
		{"on the link, unknown", "10.0.0.9", forward(lan, "10.0.0.9", Unresolved, [6]byte{}, 1500)},
		{"lower metric, first of equals", "198.19.0.1", forward(lan, "10.0.0.3", Unresolved, [6]byte{}, 1500)},
		{"dead route falls back to the shorter prefix", "198.18.0.1", forward(lan, "10.0.0.3", Unresolved, [6]byte{}, 1500)},
		{"lower MTU of a route", "100.64.0.1", forward(wan, "192.0.2.254", Resolved, macB, 1280)},
		{"higher MTU of a route", "100.64.1.1", forward(wan, "192.0.2.254", Resolved, macB, 1400)},
		{"own address", "10.0.0.1", Hop{Type: Local, Port: lan, Ifindex: lanIndex}},
		{"loopback", "127.1.2.3", Hop{Type: Local, Port: NoPort}},
		{"directed broadcast", "10.0.0.255", Hop{Type: Broadcast, Port: lan, Ifindex: lanIndex}},
		{"unreachable", "203.0.113.1", Hop{Type: Unreachable, Port: NoPort}},
		{"prohibit", "203.0.114.1", Hop{Type: Prohibit, Port: NoPort}},
		{"blackhole", "203.0.115.1", Hop{Type: Blackhole, Port: NoPort}},
		{"throw leaves the table", "203.0.116.1", Hop{Type: NoRoute, Port: NoPort}},
		{"what only the kernel follows", "203.0.117.1", Hop{Type: Kernel, Port: wan, Ifindex: wanIndex}},
		{"interface not listed", "198.51.100.1", Hop{Type: Kernel, Port: NoPort, Ifindex: otherIndex}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, hop := s.Lookup(ip(tt.dst), ip("10.0.0.7"), lan, 0)
			if hop != tt.want {
				t.Fatalf("hop\n got %+v\nwant %+v", hop, tt.want)
			}
			if id != 0 && *s.Hop(id) != hop {
				t.Errorf("Hop(%d) = %+v, Lookup said %+v", id, *s.Hop(id), hop)
			}
			known := hop.Type == Forward && (hop.State != Unresolved || hop.Gateway != ip(tt.dst))
			if (id != 0) != known {
				t.Errorf("id %d for %+v", id, hop)
			}
		})
	}
}

func TestEmptyBuilder(t *testing.T) {
	s := new(Builder).Build()
	if _, hop := s.Lookup(ip("1.1.1.1"), 0, 0, 0); hop.Type != NoRoute || hop.Port != NoPort {
		t.Errorf("no routes: %+v", hop)
	}
	if s.Interface(0) != nil || s.Local(ip("10.0.0.1")) || s.Generation() == 0 {
		t.Error("an empty snapshot has interfaces, addresses or generation 0")
	}
	if !s.Broadcast(^uint32(0)) {
		t.Error("255.255.255.255 is no broadcast")
	}
}

func TestLocalAndBroadcast(t *testing.T) {
	s := gateway(Route{Table: TableLocal, Prefix: pfx("198.51.100.0/24"), Type: RouteLocal}).Build()
	for addr, want := range map[string][2]bool{
		"10.0.0.1": {true, false}, "192.0.2.1": {true, false}, "127.0.0.1": {true, false}, "127.255.0.1": {true, false},
		"198.51.100.77": {true, false}, "10.0.0.255": {false, true}, "192.0.2.255": {false, true},
		"255.255.255.255": {false, true}, "10.0.0.2": {false, false}, "0.0.0.0": {false, false}, "10.0.1.255": {false, false},
	} {
		if got := [2]bool{s.Local(ip(addr)), s.Broadcast(ip(addr))}; got != want {
			t.Errorf("%s: local, broadcast = %v, want %v", addr, got, want)
		}
	}
}

func TestRules(t *testing.T) {
	in := func(table uint32, gw string) Route {
		return Route{Table: table, Prefix: pfx("0.0.0.0/0"), Paths: via(gw, wanIndex)}
	}
	base := func(more ...Rule) []Rule { return append(DefaultRules(), more...) }
	dst, src := "1.1.1.1", "10.0.0.7"
	const std, alt = "192.0.2.254", "192.0.2.100"
	for _, tt := range []struct {
		name  string
		rules []Rule
		in    PortID
		want  string // gateway, or the word of a type
	}{
		{"default rules", nil, lan, std},
		{"from matches", base(Rule{Priority: 100, From: pfx("10.0.0.0/24"), Table: 100}), lan, alt},
		{"from does not", base(Rule{Priority: 100, From: pfx("10.0.1.0/24"), Table: 100}), lan, std},
		{"to matches", base(Rule{Priority: 100, To: pfx("1.0.0.0/8"), Table: 100}), lan, alt},
		{"to does not", base(Rule{Priority: 100, To: pfx("2.0.0.0/8"), Table: 100}), lan, std},
		{"iif matches", base(Rule{Priority: 100, Iif: "lan", Table: 100}), lan, alt},
		{"iif does not", base(Rule{Priority: 100, Iif: "lan", Table: 100}), wan, std},
		{"iif of an interface that is not listed", base(Rule{Priority: 100, Iif: "lo", Table: 100}), lan, std},
		{"not iif of an interface that is not listed", base(Rule{Priority: 100, Iif: "lo", Invert: true, Table: 100}), lan, alt},
		{"not from", base(Rule{Priority: 100, From: pfx("10.0.1.0/24"), Invert: true, Table: 100}), lan, alt},
		{"never", base(Rule{Priority: 100, Never: true, Table: 100}), lan, std},
		{"not never", base(Rule{Priority: 100, Never: true, Invert: true, Table: 100}), lan, alt},
		{"lower priority first", base(Rule{Priority: 101, Table: 100}, Rule{Priority: 100, Table: TableMain}), lan, std},
		{"empty table", base(Rule{Priority: 100, Table: 77}), lan, std},
		{"after main", base(Rule{Priority: 40000, Table: 100}), lan, std},
		{"unreachable", base(Rule{Priority: 100, Action: ActionUnreachable}), lan, "unreachable"},
		{"prohibit", base(Rule{Priority: 100, Action: ActionProhibit}), lan, "prohibit"},
		{"blackhole", base(Rule{Priority: 100, Action: ActionBlackhole}), lan, "blackhole"},
		{"nop", base(Rule{Priority: 100, Action: ActionNop}), lan, std},
		{"throw", base(Rule{Priority: 100, Table: 101}), lan, std},
		{"reject in a table", base(Rule{Priority: 100, Table: 102}), lan, "prohibit"},
		{"suppress_prefixlength 0", base(Rule{Priority: 100, Table: TableMain, MinLength: 1}, Rule{Priority: 200, Table: 100}), lan, alt},
		{"suppress_prefixlength never a rejection", base(Rule{Priority: 100, Table: 102, MinLength: 1}), lan, "prohibit"},
		{"goto", base(Rule{Priority: 100, Action: ActionGoto, Target: 300}, Rule{Priority: 200, Action: ActionProhibit}, Rule{Priority: 300, Table: 100}), lan, alt},
		{"goto a rule that is compiled away", base(Rule{Priority: 100, Action: ActionGoto, Target: 300}, Rule{Priority: 200, Action: ActionProhibit}, Rule{Priority: 300, Action: ActionNop}), lan, std},
		{"goto without a target", base(Rule{Priority: 100, Action: ActionGoto, Target: 300}, Rule{Priority: 200, Table: 100}), lan, alt},
		{"no rules at all", []Rule{}, lan, "no-route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := gateway(in(100, alt), Route{Table: 101, Prefix: pfx("0.0.0.0/0"), Type: RouteThrow}, Route{Table: 102, Prefix: pfx("0.0.0.0/0"), Type: RouteProhibit})
			b.SetRules(tt.rules)
			_, hop := b.Build().Lookup(ip(dst), ip(src), tt.in, 0)
			got := hop.Type.String()
			if hop.Type == Forward {
				got = Addr(hop.Gateway).String()
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// A namespace that never had a rule of its own keeps local and main in one trie.
func TestLocalAndMainMerged(t *testing.T) {
	routes := []Route{
		{Table: TableLocal, Prefix: pfx("100.0.0.0/8"), Type: RouteLocal},
		{Table: TableMain, Prefix: pfx("100.1.0.0/16"), Paths: via("10.0.0.2", lanIndex)},
		{Table: TableMain, Prefix: pfx("100.0.0.0/8"), Paths: via("10.0.0.2", lanIndex)},
	}
	b := gateway(routes...)
	look := func(dst string) HopType { _, hop := b.Build().Lookup(ip(dst), 0, lan, 0); return hop.Type }
	if look("100.1.0.1") != Forward || look("100.2.0.1") != Local {
		t.Errorf("merged: %v %v, want forward local", look("100.1.0.1"), look("100.2.0.1"))
	}
	b.SetRules(append(DefaultRules(), Rule{Priority: 5, Never: true, Table: 5}))
	if look("100.1.0.1") != Local || look("100.2.0.1") != Local {
		t.Errorf("apart: %v %v, want local local", look("100.1.0.1"), look("100.2.0.1"))
	}
}

func TestMultipath(t *testing.T) {
	paths := []Path{
		{Ifindex: wanIndex, Gateway: ip("192.0.2.10"), Weight: 1},
		{Ifindex: wanIndex, Gateway: ip("192.0.2.11"), Weight: 2},
		{Ifindex: wanIndex, Gateway: ip("192.0.2.12"), Weight: 4, Dead: true},
		{Ifindex: lanIndex, Gateway: ip("10.0.0.10"), Weight: 3},
	}
	s := gateway(Route{Table: TableMain, Prefix: pfx("100.64.0.0/10"), Paths: paths}).Build()
	count := make(map[uint32]int)
	const n = 60000
	for i := range uint32(n) {
		_, hop := s.Lookup(ip("100.64.0.1"), 0, lan, i*0x9e3779b9)
		_, again := s.Lookup(ip("100.64.9.9"), i, wan, i*0x9e3779b9)
		if hop != again {
			t.Fatalf("hash %#x: %v and %v", i*0x9e3779b9, hop, again)
		}
		count[hop.Gateway]++
	}
	for _, p := range paths {
		want := n * int(p.Weight) / 6
		if p.Dead {
			want = 0
		}
		if got := count[p.Gateway]; got < want-10 || got > want+10 {
			t.Errorf("%v: %d packets, want %d", Addr(p.Gateway), got, want)
		}
	}
	if _, hop := s.Lookup(ip("100.64.0.1"), 0, lan, ^uint32(0)); hop.Gateway != ip("10.0.0.10") {
		t.Errorf("the greatest hash takes %v", Addr(hop.Gateway))
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	b := gateway(Route{Table: 100, Prefix: pfx("1.0.0.0/8"), Paths: via("192.0.2.100", wanIndex)})
	b.SetRules(append(DefaultRules(), Rule{Priority: 100, From: pfx("10.0.0.0/24"), Table: 100}))
	b.SetNeighbour(Neighbour{Port: lan, Addr: ip("10.0.0.7"), State: Resolved, MAC: macA})
	s := b.Build()
	dsts := []uint32{ip("1.1.1.1"), ip("2.2.2.2"), ip("10.0.0.7"), ip("10.0.0.8"), ip("10.0.0.255"), ip("10.0.0.1")}
	if n := testing.AllocsPerRun(100, func() {
		for _, d := range dsts {
			id, _ := s.Lookup(d, ip("10.0.0.7"), lan, d)
			_ = s.Hop(id).Up
			_, _, _ = s.Local(d), s.Broadcast(d), s.Generation()
			_ = s.Interface(lan).MTU
		}
	}); n != 0 {
		t.Errorf("%v allocations per run, want 0", n)
	}
}

// The neighbours' states change under their ids; everything else is a new generation.
func TestGenerations(t *testing.T) {
	b := gateway()
	b.SetNeighbour(Neighbour{Port: lan, Addr: ip("10.0.0.7"), State: Resolved, MAC: macA})
	s := b.Build()
	id, _ := s.Lookup(ip("10.0.0.7"), 0, wan, 0)
	gw, _ := s.Lookup(ip("1.1.1.1"), 0, lan, 0)

	steps := []struct {
		name  string
		do    func()
		same  bool // the same generation
		again bool // the very same snapshot
	}{
		{"nothing", func() {}, true, true},
		{"the same again", func() { b.SetInterfaces(interfaces()); b.SetRoutes(slices.Clone(b.routes)); b.SetRules(nil) }, true, true},
		{"the same neighbours again", func() { b.SetNeighbours([]Neighbour{{Port: lan, Addr: ip("10.0.0.7"), State: Resolved, MAC: macA}}) }, true, true},
		{"no such neighbour", func() { b.DeleteNeighbour(lan, ip("10.0.0.99")) }, true, true},
		{"neighbour's MAC", func() { b.SetNeighbour(Neighbour{Port: lan, Addr: ip("10.0.0.7"), State: Resolved, MAC: macB}) }, true, false},
		{"another neighbour", func() { b.SetNeighbour(Neighbour{Port: lan, Addr: ip("10.0.0.6"), State: Resolved, MAC: macA}) }, true, false},
		{"neighbour gone", func() { b.DeleteNeighbour(lan, ip("10.0.0.7")) }, true, false},
		{"route", func() { b.SetRoutes(b.routes[:len(b.routes)-1]) }, false, false},
		{"rule", func() { b.SetRules([]Rule{{Table: TableMain}}) }, false, false},
		{"address", func() { i := interfaces(); i[0].Addresses = nil; b.SetInterfaces(i) }, false, false},
		{"link", func() { i := interfaces(); i[1].Up = false; b.SetInterfaces(i) }, false, false},
	}
	for _, st := range steps {
		last := b.Build()
		before := last.Generation()
		st.do()
		s := b.Build()
		if again := s == last; again != st.again {
			t.Errorf("%s: the same snapshot again: %v, want %v", st.name, again, st.again)
		}
		if same := s.Generation() == before; same != st.same {
			t.Errorf("%s: generation kept: %v, want %v", st.name, same, st.same)
		}
		if st.same {
			if h := s.Hop(id); h.Gateway != ip("10.0.0.7") || h.Port != lan {
				t.Errorf("%s: id %d is now %+v", st.name, id, *h)
			}
			if h := s.Hop(gw); h.Gateway != ip("192.0.2.254") {
				t.Errorf("%s: id %d is now %+v", st.name, gw, *h)
			}
		}
	}
	if h := s.Hop(id); h.State != Resolved || h.MAC != macA {
		t.Errorf("the first snapshot changed: %+v", *h)
	}
}

// More neighbours than ids: every one is found all the same, and ids that were
// spent on neighbours that are gone come back.
func TestMoreHopsThanIDs(t *testing.T) {
	b := gateway(Route{Table: TableMain, Prefix: pfx("100.64.0.0/10"), Paths: []Path{{Ifindex: lanIndex}}})
	neighbour := func(i uint32) Neighbour {
		return Neighbour{Port: lan, Addr: ip("100.64.0.0") + i, State: Resolved, MAC: [6]byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}}
	}
	const n = 70000
	var all []Neighbour
	for i := range uint32(n) {
		all = append(all, neighbour(i))
	}
	b.SetNeighbours(all)
	s := b.Build()
	generation := s.Generation()
	seen := make(map[HopID]bool)
	for _, want := range all {
		id, hop := s.Lookup(want.Addr, 0, wan, 0)
		if hop.MAC != want.MAC || hop.State != Resolved {
			t.Fatalf("%v: %+v", Addr(want.Addr), hop)
		}
		if id != 0 && seen[id] {
			t.Fatalf("%v: id %d twice", Addr(want.Addr), id)
		}
		seen[id] = true
	}
	if b.Build().Generation() != generation {
		t.Error("ids that cannot be won back are asked for again and again")
	}
	for round := range uint32(3) { // other neighbours, until all ids are spent
		for i := range all {
			all[i] = neighbour((round+1)*n + uint32(i))
		}
		b.SetNeighbours(all)
		s = b.Build()
	}
	if s.Generation() == generation {
		t.Error("ids of neighbours that are gone are never used again")
	}
	if s.Hops() > 3*n {
		t.Errorf("%d hops for %d neighbours", s.Hops(), n)
	}
}

func TestSteer(t *testing.T) {
	main := func(p string, typ RouteType, paths ...Path) Route {
		return Route{Table: TableMain, Prefix: pfx(p), Type: typ, Paths: paths}
	}
	other := Path{Ifindex: otherIndex}
	listed := via("192.0.2.254", wanIndex)[0]
	w := func(p string) SteerPrefix { return SteerPrefix{pfx(p), true} }
	k := func(p string) SteerPrefix { return SteerPrefix{pfx(p), false} }
	for _, tt := range []struct {
		name   string
		routes []Route
		rules  []Rule
		want   []SteerPrefix
	}{
		{"no route at all is answered", nil, nil, []SteerPrefix{w("0.0.0.0/0")}},
		{"default by a listed interface", []Route{main("0.0.0.0/0", RouteUnicast, listed), main("10.9.0.0/16", RouteUnicast, other), main("10.9.9.0/24", RouteUnicast, listed)}, nil,
			[]SteerPrefix{w("0.0.0.0/0"), k("10.9.0.0/16"), w("10.9.9.0/24")}},
		{"default by another interface", []Route{main("0.0.0.0/0", RouteUnicast, other), main("10.0.0.0/8", RouteBlackhole), main("10.1.0.0/16", RouteUnicast, listed)}, nil,
			[]SteerPrefix{k("0.0.0.0/0"), w("10.0.0.0/8")}},
		{"local and broadcast", []Route{{Table: TableLocal, Prefix: pfx("10.0.0.1/32"), Type: RouteLocal}, {Table: TableLocal, Prefix: pfx("10.0.0.255/32"), Type: RouteBroadcast}, main("10.0.0.0/24", RouteUnicast, listed)}, nil,
			[]SteerPrefix{w("0.0.0.0/0"), k("10.0.0.1/32"), k("10.0.0.255/32")}},
		{"some paths listed", []Route{main("0.0.0.0/0", RouteUnicast, other), main("10.0.0.0/8", RouteUnicast, listed, other)}, nil,
			[]SteerPrefix{k("0.0.0.0/0"), w("10.0.0.0/8")}},
		{"only the kernel can follow it", []Route{main("10.0.0.0/8", RouteKernel)}, nil, []SteerPrefix{w("0.0.0.0/0"), k("10.0.0.0/8")}},
		{"by source, one answer listed", []Route{main("0.0.0.0/0", RouteUnicast, other), {Table: 5, Prefix: pfx("10.0.0.0/8"), Paths: []Path{listed}}},
			[]Rule{{Priority: 1, From: pfx("10.0.0.0/24"), Table: 5}, {Priority: 2, Table: TableMain}}, []SteerPrefix{k("0.0.0.0/0"), w("10.0.0.0/8")}},
		{"by source, one answer refused", []Route{main("0.0.0.0/0", RouteUnicast, other)},
			[]Rule{{Priority: 1, From: pfx("10.0.0.0/24"), Action: ActionProhibit}, {Priority: 2, Table: TableMain}}, []SteerPrefix{k("0.0.0.0/0")}},
		{"by interface", []Route{main("0.0.0.0/0", RouteUnicast, other), {Table: 5, Prefix: pfx("0.0.0.0/0"), Paths: []Path{listed}}},
			[]Rule{{Priority: 1, Iif: "lan", Table: 5}, {Priority: 2, Table: TableMain}}, []SteerPrefix{w("0.0.0.0/0")}},
		{"by destination", []Route{main("0.0.0.0/0", RouteUnicast, other), {Table: 5, Prefix: pfx("0.0.0.0/0"), Paths: []Path{listed}}},
			[]Rule{{Priority: 1, To: pfx("10.0.0.0/8"), Table: 5}, {Priority: 2, Table: TableMain}}, []SteerPrefix{k("0.0.0.0/0"), w("10.0.0.0/8")}},
		{"goto passes over", []Route{main("0.0.0.0/0", RouteUnicast, other), {Table: 5, Prefix: pfx("0.0.0.0/0"), Paths: []Path{listed}}},
			[]Rule{{Priority: 1, Action: ActionGoto, Target: 3}, {Priority: 2, Table: 5}, {Priority: 3, Table: TableMain}}, []SteerPrefix{k("0.0.0.0/0")}},
		{"goto by source may pass over", []Route{main("0.0.0.0/0", RouteUnicast, other), {Table: 5, Prefix: pfx("0.0.0.0/0"), Paths: []Path{listed}}},
			[]Rule{{Priority: 1, From: pfx("10.0.0.0/8"), Action: ActionGoto, Target: 3}, {Priority: 2, Table: 5}, {Priority: 3, Table: TableMain}}, []SteerPrefix{w("0.0.0.0/0")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := new(Builder)
			b.SetInterfaces(interfaces())
			b.SetRoutes(tt.routes)
			b.SetRules(tt.rules)
			if diff := cmp.Diff(tt.want, b.Build().Steer(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
