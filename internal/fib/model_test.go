package fib

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model answers lookups the slow way: every rule, every route, one by one.
type model struct {
	interfaces []Interface
	routes     []Route
	rules      []Rule
	neighbours []Neighbour
}

func (m *model) matches(r Rule, dst, src uint32, in PortID) bool {
	ok := !r.Never
	if r.To.IsValid() {
		ok = ok && r.To.Contains(Addr(dst))
	}
	if r.From.IsValid() {
		ok = ok && r.From.Contains(Addr(src))
	}
	if r.Iif != "" {
		ok = ok && int(in) < len(m.interfaces) && m.interfaces[in].Name == r.Iif
	}
	return ok != r.Invert
}

// best returns the route of a table that wins for dst, or nil.
func (m *model) best(tables []uint32, dst uint32) *Route {
	var fit []Route
	for _, r := range m.routes {
		dead := r.Type == RouteUnicast
		for _, p := range r.Paths {
			dead = dead && p.Dead
		}
		if slices.Contains(tables, r.Table) && r.Prefix.Contains(Addr(dst)) && !dead {
			fit = append(fit, r)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	slices.SortStableFunc(fit, func(a, b Route) int {
		return cmp.Or(-cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), -cmp.Compare(a.Table, b.Table), cmp.Compare(a.Metric, b.Metric))
	})
	return &fit[0]
}

func (m *model) answer(r *Route, dst, hash uint32) Hop {
	if r.Type != RouteUnicast {
		hop := Hop{Port: NoPort}
		hop.Type = map[RouteType]HopType{RouteLocal: Local, RouteBroadcast: Broadcast, RouteUnreachable: Unreachable,
			RouteProhibit: Prohibit, RouteBlackhole: Blackhole, RouteKernel: Kernel}[r.Type]
		return hop
	}
	var ring []Path // a path as often as it weighs
	for _, p := range r.Paths {
		for range max(p.Weight, 1) {
			if !p.Dead {
				ring = append(ring, p)
			}
		}
	}
	p := ring[uint64(hash)*uint64(len(ring))>>32]
	port := slices.IndexFunc(m.interfaces, func(i Interface) bool { return i.Ifindex == p.Ifindex })
	if port < 0 {
		return Hop{Type: Kernel, Port: NoPort, Ifindex: p.Ifindex, Gateway: p.Gateway}
	}
	i := m.interfaces[port]
	hop := Hop{Type: Forward, Port: PortID(port), Up: i.Up, Ifindex: i.Ifindex, Gateway: p.Gateway, Source: i.MAC, MTU: i.MTU}
	if hop.Gateway == 0 {
		hop.Gateway = dst
	}
	if r.MTU != 0 && r.MTU < hop.MTU {
		hop.MTU = r.MTU
	}
	for _, n := range m.neighbours {
		if n.Port == hop.Port && n.Addr == hop.Gateway {
			hop.State, hop.MAC = n.State, n.MAC
		}
	}
	return hop
}

func (m *model) lookup(dst, src uint32, in PortID, hash uint32) Hop {
	rules := slices.Clone(m.rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	merged := slices.Equal(rules, DefaultRules())
	from := uint32(0) // priority to go on at
	for _, r := range rules {
		if r.Priority < from || !m.matches(r, dst, src, in) {
			continue
		}
		switch r.Action {
		case ActionUnreachable:
			return Hop{Type: Unreachable, Port: NoPort}
		case ActionProhibit:
			return Hop{Type: Prohibit, Port: NoPort}
		case ActionBlackhole:
			return Hop{Type: Blackhole, Port: NoPort}
		case ActionGoto:
			if slices.ContainsFunc(rules, func(x Rule) bool { return x.Priority == r.Target }) {
				from = r.Target
			}
		case ActionTable:
			tables := []uint32{r.Table}
			switch {
			case merged && r.Table == TableLocal:
				continue
			case merged && r.Table == TableMain: // one trie, one search (fib_lookup)
				tables = append(tables, TableLocal)
			}
			best := m.best(tables, dst)
			if best == nil || best.Type == RouteThrow {
				continue
			}
			if reject := best.Type == RouteUnreachable || best.Type == RouteProhibit || best.Type == RouteBlackhole; !reject && best.Prefix.Bits() < int(r.MinLength) {
				continue
			}
			return m.answer(best, dst, hash)
		}
	}
	return Hop{Type: NoRoute, Port: NoPort}
}

// Addresses are drawn from few values, so that prefixes nest and collide.
var (
	drawAddr   = rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 10, 128, 255}), 4, 4), func(b []byte) uint32 { return U32(netip.AddrFrom4([4]byte(b))) })
	drawPrefix = rapid.Custom(func(t *rapid.T) netip.Prefix {
		bits := rapid.SampledFrom([]int{0, 1, 7, 8, 9, 16, 23, 24, 31, 32}).Draw(t, "bits")
		return netip.PrefixFrom(Addr(drawAddr.Draw(t, "addr")), bits).Masked()
	})
	drawTable = rapid.SampledFrom([]uint32{TableLocal, TableMain, TableDefault, 100, 70000})
	drawMAC   = rapid.Map(rapid.Byte(), func(b byte) [6]byte { return [6]byte{2, 0, 0, 0, 0, b} })
)

// Hashes are drawn at and beside the borders between paths.
var drawHash = rapid.Custom(func(t *rapid.T) uint32 {
	total := rapid.Uint64Range(1, 20).Draw(t, "total")
	part := rapid.Uint64Range(0, total).Draw(t, "part")
	return uint32(part<<32/total) + rapid.SampledFrom([]uint32{0, 1, ^uint32(0), 0x12345678}).Draw(t, "beside")
})

var drawRoute = rapid.Custom(func(t *rapid.T) Route {
	r := Route{
		Table:  drawTable.Draw(t, "table"),
		Prefix: drawPrefix.Draw(t, "prefix"),
		Type:   rapid.SampledFrom([]RouteType{0, 0, 0, 0, RouteLocal, RouteBroadcast, RouteUnreachable, RouteProhibit, RouteBlackhole, RouteThrow, RouteKernel}).Draw(t, "type"),
		Metric: rapid.Uint32Range(0, 3).Draw(t, "metric"),
		MTU:    rapid.SampledFrom([]uint16{0, 1300, 9000}).Draw(t, "mtu"),
	}
	if r.Type == RouteUnicast {
		r.Paths = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Path {
			return Path{
				Ifindex: rapid.SampledFrom([]int32{lanIndex, wanIndex, otherIndex}).Draw(t, "ifindex"),
				Gateway: rapid.OneOf(rapid.Just(uint32(0)), drawAddr).Draw(t, "gateway"),
				Weight:  rapid.Uint16Range(0, 5).Draw(t, "weight"),
				Dead:    rapid.IntRange(0, 3).Draw(t, "dead") == 0,
			}
		}), 1, 4).Draw(t, "paths")
	}
	return r
})

var drawRule = rapid.Custom(func(t *rapid.T) Rule {
	r := Rule{
		Priority:  rapid.Uint32Range(0, 40).Draw(t, "priority"),
		Iif:       rapid.SampledFrom([]string{"", "", "lan", "wan", "eth9"}).Draw(t, "iif"),
		Never:     rapid.IntRange(0, 5).Draw(t, "never") == 0,
		Invert:    rapid.IntRange(0, 3).Draw(t, "invert") == 0,
		Action:    rapid.SampledFrom([]RuleAction{ActionTable, ActionTable, ActionTable, ActionGoto, ActionNop, ActionUnreachable, ActionProhibit, ActionBlackhole}).Draw(t, "action"),
		Table:     drawTable.Draw(t, "table"),
		MinLength: rapid.SampledFrom([]uint8{0, 0, 1, 9, 33}).Draw(t, "min-length"),
	}
	if rapid.Bool().Draw(t, "has-from") {
		r.From = drawPrefix.Draw(t, "from")
	}
	if rapid.Bool().Draw(t, "has-to") {
		r.To = drawPrefix.Draw(t, "to")
	}
	r.Target = r.Priority + rapid.Uint32Range(1, 10).Draw(t, "target")
	return r
})

var drawNeighbour = rapid.Custom(func(t *rapid.T) Neighbour {
	n := Neighbour{Port: PortID(rapid.IntRange(0, 1).Draw(t, "port")), Addr: drawAddr.Draw(t, "addr"),
		State: rapid.SampledFrom([]NeighState{Unresolved, Resolved, Failed}).Draw(t, "state")}
	if n.State == Resolved {
		n.MAC = drawMAC.Draw(t, "mac")
	}
	return n
})

func drawModel(t *rapid.T) (*model, *Builder) {
	m := &model{interfaces: interfaces(), routes: rapid.SliceOfN(drawRoute, 0, 30).Draw(t, "routes")}
	m.interfaces[1].Up = rapid.Bool().Draw(t, "up")
	m.neighbours = rapid.SliceOfNDistinct(drawNeighbour, 0, 20, func(n Neighbour) neighKey { return neighKey{n.Addr, n.Port} }).Draw(t, "neighbours")
	m.rules = DefaultRules()
	if rapid.Bool().Draw(t, "policy") {
		m.rules = append(rapid.SliceOfN(drawRule, 1, 8).Draw(t, "rules"), DefaultRules()...)
	}
	b := new(Builder)
	b.SetInterfaces(m.interfaces)
	b.SetRoutes(m.routes)
	b.SetRules(m.rules)
	b.SetNeighbours(m.neighbours)
	return m, b
}

func TestLookupEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, b := drawModel(t)
		s := b.Build()
		for range 20 {
			dst, src := drawAddr.Draw(t, "dst"), drawAddr.Draw(t, "src")
			in := rapid.SampledFrom([]PortID{lan, wan}).Draw(t, "in")
			hash := drawHash.Draw(t, "hash")
			id, got := s.Lookup(dst, src, in, hash)
			want := m.lookup(dst, src, in, hash)
			if got.Type != Forward && got.Type != Kernel {
				got.Ifindex, got.Port = 0, NoPort
			}
			if got != want {
				t.Fatalf("Lookup(%v, %v, %d, %#x)\n got %+v\nwant %+v", Addr(dst), Addr(src), in, hash, got, want)
			}
			if id != 0 && *s.Hop(id) != got {
				t.Fatalf("Hop(%d) = %+v, Lookup said %+v", id, *s.Hop(id), got)
			}
		}
	})
}

// For every destination, Steer says what the answers to all sources and
// interfaces together ask for. Sources are drawn; a drawn answer must be
// covered, and where no rule selects by source or interface, equal.
func TestSteerEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, b := drawModel(t)
		steer := b.Build().Steer()
		if len(steer) == 0 || steer[0].Prefix.Bits() != 0 {
			t.Fatalf("no entry for everything: %v", steer)
		}
		selective := slices.ContainsFunc(m.rules, func(r Rule) bool { return r.From.IsValid() || r.Iif != "" })
		for range 10 {
			dst := drawAddr.Draw(t, "dst")
			var longest SteerPrefix
			for _, p := range steer {
				if p.Prefix.Contains(Addr(dst)) {
					longest = p // sorted: a longer match follows a shorter one
				}
			}
			forward, kernel := false, false
			for range 5 {
				hop := m.lookup(dst, drawAddr.Draw(t, "src"), rapid.SampledFrom([]PortID{lan, wan}).Draw(t, "in"), rapid.Uint32().Draw(t, "hash"))
				forward = forward || hop.Type == Forward
				kernel = kernel || hop.Type == Kernel || hop.Type == Local || hop.Type == Broadcast
			}
			if forward && !longest.ToWorker {
				t.Fatalf("%v leaves by a listed interface and %v goes to the kernel", Addr(dst), longest.Prefix)
			}
			mixed := slices.ContainsFunc(m.routes, func(r Route) bool { return len(r.Paths) > 1 && r.Prefix.Contains(Addr(dst)) })
			if !selective && !mixed && longest.ToWorker != (forward || !kernel) {
				t.Fatalf("%v: %v goes to the worker: %v", Addr(dst), longest.Prefix, longest.ToWorker)
			}
		}
		for i := 1; i < len(steer); i++ {
			a, b := steer[i-1].Prefix, steer[i].Prefix
			if cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits())) >= 0 {
				t.Fatalf("%v before %v", a, b)
			}
		}
	})
}

// An id means the same neighbour as long as the generation is the same, whatever
// becomes of the neighbours, and every snapshot says what is known at its time.
func TestIDsKeepTheirMeaning(t *testing.T) {
	type meaning struct {
		port PortID
		addr uint32
		mtu  uint16
	}
	rapid.Check(t, func(t *rapid.T) {
		m, b := drawModel(t)
		generation := uint16(0)
		var meanings map[HopID]meaning
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"set", "set", "delete", "route", "nothing"}).Draw(t, "step") {
			case "set":
				n := drawNeighbour.Draw(t, "neighbour")
				m.neighbours = append(slices.DeleteFunc(m.neighbours, func(x Neighbour) bool { return x.Port == n.Port && x.Addr == n.Addr }), n)
				b.SetNeighbour(n)
			case "delete":
				if len(m.neighbours) > 0 {
					n := rapid.SampledFrom(m.neighbours).Draw(t, "gone")
					m.neighbours = slices.DeleteFunc(m.neighbours, func(x Neighbour) bool { return x == n })
					b.DeleteNeighbour(n.Port, n.Addr)
				}
			case "route":
				m.routes = append(slices.Clone(m.routes), drawRoute.Draw(t, "route"))
				b.SetRoutes(m.routes)
			}
			s := b.Build()
			if s.Generation() != generation {
				generation, meanings = s.Generation(), make(map[HopID]meaning)
			}
			for range 10 {
				dst := drawAddr.Draw(t, "dst")
				if len(m.neighbours) > 0 && rapid.Bool().Draw(t, "known") {
					dst = rapid.SampledFrom(m.neighbours).Draw(t, "to").Addr
				}
				id, hop := s.Lookup(dst, 0, lan, rapid.Uint32().Draw(t, "hash"))
				if id != 0 {
					meanings[id] = meaning{hop.Port, hop.Gateway, hop.MTU}
				}
			}
			for id, want := range meanings {
				h := s.Hop(id)
				if got := (meaning{h.Port, h.Gateway, h.MTU}); got != want {
					t.Fatalf("generation %d, id %d: was %+v, is %+v", generation, id, want, got)
				}
				state, mac := Unresolved, [6]byte{}
				for _, n := range m.neighbours {
					if n.Port == want.port && n.Addr == want.addr {
						state, mac = n.State, n.MAC
					}
				}
				if h.State != state || h.MAC != mac {
					t.Fatalf("id %d: %v %x, the neighbour is %v %x", id, h.State, h.MAC, state, mac)
				}
			}
		}
	})
}
