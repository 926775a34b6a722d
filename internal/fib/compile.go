package fib

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// routing is everything of a snapshot but the neighbours.
type routing struct {
	generation uint16
	interfaces []Interface // indexed by PortID
	steps      []step      // the rules, in order
	paths      []path      // of all routes; an entry names a run of them
	local      addrSet
	broadcast  addrSet

	// onLink has, for every port, the packet sizes of its routes without a
	// gateway: every neighbour of the port is a hop of each. Mostly one.
	onLink [][]uint16
}

// table is one routing table: the winning route of every prefix.
type table = bart.Table[entry]

// entry is the route that won its prefix.
type entry struct {
	first, count uint32 // its paths
	length       uint8  // of its prefix
	throw        bool
	reject       bool // unreachable, prohibit, blackhole: no rule suppresses it
}

// path is one next hop, ready to be returned.
type path struct {
	answer Hop
	limit  uint32 // the greatest hash that takes this path; paths are in order
	hop    uint32 // of the gateway; 0 = none
	onLink bool
}

var noRoute = path{answer: Hop{Type: NoRoute, Port: NoPort}}

// step is a rule, ready to be matched.
type step struct {
	to, toMask     uint32
	from, fromMask uint32
	in             PortID
	anyIn          bool
	never, invert  bool
	minLength      uint8

	// What it does: look up table; or go on at jump, which is never 0 since a
	// rule only goes to later ones; or answer verdict.
	table   *table
	jump    int
	verdict path
}

// matches reports whether the rule selects a packet (fib_rule_match).
func (st *step) matches(dst, src uint32, in PortID) bool {
	all := dst&st.toMask == st.to && src&st.fromMask == st.from && (st.anyIn || st.in == in) && !st.never
	return all != st.invert
}

// accepts reports whether the rule takes e for its answer (fib4_rule_suppress,
// and -EAGAIN for throw).
func (st *step) accepts(e entry) bool {
	return !e.throw && (e.reject || e.length >= st.minLength)
}

// compiler turns a Builder's input into a routing.
type compiler struct {
	*routing
	ports  map[int32]PortID // by ifindex
	names  map[string]PortID
	tables map[uint32]*table
	assign func(Hop) uint32 // the hop of a gateway
}

func (c *compiler) compile(routes []Route, rules []Rule) {
	c.ports, c.names = make(map[int32]PortID), make(map[string]PortID)
	for i, iface := range c.interfaces {
		if iface.Ifindex != 0 {
			c.ports[iface.Ifindex] = PortID(i)
		}
		c.names[iface.Name] = PortID(i)
	}
	c.onLink = make([][]uint16, len(c.interfaces))
	c.tables = make(map[uint32]*table)
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	// Until the first rule of its own, a namespace keeps local and main in one
	// trie: the longest prefix of both wins (fib_trie_unmerge).
	merged := slices.Equal(rules, DefaultRules())
	c.compileRoutes(routes, merged)
	c.compileRules(rules)
	c.compileAddresses(routes)
}

// compileRoutes enters the winning route of every prefix of every table.
func (c *compiler) compileRoutes(routes []Route, merged bool) {
	type place struct {
		table  uint32
		prefix netip.Prefix
	}
	placeOf := func(r *Route) place {
		if merged && r.Table == TableLocal {
			return place{TableMain, r.Prefix.Masked()}
		}
		return place{r.Table, r.Prefix.Masked()}
	}
	won := make(map[place]int, len(routes)) // index in routes
	for i := range routes {
		r := &routes[i]
		if !r.alive() {
			continue
		}
		at := placeOf(r)
		if rival, ok := won[at]; !ok || r.beats(&routes[rival]) {
			won[at] = i
		}
	}
	// In the order of the routes, so that paths and hops come out the same for
	// the same input.
	for i := range routes {
		at := placeOf(&routes[i])
		if w, ok := won[at]; !ok || w != i {
			continue
		}
		if c.tables[at.table] == nil {
			c.tables[at.table] = new(table)
		}
		c.tables[at.table].Insert(at.prefix, c.enter(&routes[i]))
	}
}

// enter appends the paths of a route.
func (c *compiler) enter(r *Route) entry {
	e := entry{first: uint32(len(c.paths)), length: uint8(r.Prefix.Bits())}
	switch r.Type {
	case RouteThrow:
		e.throw = true
		return e
	case RouteUnicast:
		c.enterPaths(r)
	default:
		e.reject = r.Type == RouteUnreachable || r.Type == RouteProhibit || r.Type == RouteBlackhole
		hop := Hop{Type: routeHops[r.Type], Port: NoPort}
		if len(r.Paths) > 0 {
			hop.Ifindex = r.Paths[0].Ifindex
			hop.Port = c.port(hop.Ifindex)
		}
		c.paths = append(c.paths, path{answer: hop, limit: ^uint32(0)})
	}
	e.count = uint32(len(c.paths)) - e.first
	return e
}

var routeHops = [...]HopType{
	RouteUnicast: Forward, RouteLocal: Local, RouteBroadcast: Broadcast, RouteUnreachable: Unreachable,
	RouteProhibit: Prohibit, RouteBlackhole: Blackhole, RouteThrow: NoRoute, RouteKernel: Kernel,
}

func (c *compiler) port(ifindex int32) PortID {
	if p, ok := c.ports[ifindex]; ok {
		return p
	}
	return NoPort
}

// enterPaths appends the living paths of a unicast route, each with its share of
// the hash space: the hash-threshold algorithm of RFC 2992, as in the kernel.
func (c *compiler) enterPaths(r *Route) {
	total := uint64(0)
	for _, p := range r.Paths {
		if !p.Dead {
			total += uint64(max(p.Weight, 1))
		}
	}
	sum := uint64(0)
	for _, p := range r.Paths {
		if p.Dead {
			continue
		}
		sum += uint64(max(p.Weight, 1))
		// The last hash below sum/total of 2^32, rounded so that hash*total>>32
		// is the position among the weights.
		limit := uint32((sum<<32+total-1)/total - 1)
		port := c.port(p.Ifindex)
		if port == NoPort {
			c.paths = append(c.paths, path{answer: Hop{Type: Kernel, Port: NoPort, Ifindex: p.Ifindex, Gateway: p.Gateway}, limit: limit})
			continue
		}
		c.paths = append(c.paths, c.forward(port, p.Gateway, r.MTU, limit))
	}
}

// forward makes the path out of a listed interface.
func (c *compiler) forward(port PortID, gateway uint32, mtu uint16, limit uint32) path {
	iface := &c.interfaces[port]
	p := path{limit: limit, onLink: gateway == 0, answer: Hop{
		Type: Forward, Port: port, Up: iface.Up, Ifindex: iface.Ifindex,
		Gateway: gateway, Source: iface.MAC, MTU: iface.MTU,
	}}
	if mtu != 0 {
		p.answer.MTU = min(mtu, iface.MTU)
	}
	if !p.onLink {
		p.hop = c.assign(p.answer)
	} else if !slices.Contains(c.onLink[port], p.answer.MTU) {
		c.onLink[port] = append(c.onLink[port], p.answer.MTU)
	}
	return p
}

// compileRules makes a step of every rule that can do something.
func (c *compiler) compileRules(rules []Rule) {
	var priorities []uint32 // of the steps
	var jumps []int         // steps whose jump is still a priority
	for i := range rules {
		r := &rules[i]
		st, ok := c.step(r)
		if !ok {
			continue
		}
		if r.Action == ActionGoto {
			// The kernel's goto waits for a rule of exactly that priority, and
			// is passed over until there is one (FIB_RULE_UNRESOLVED).
			if r.Target <= r.Priority || !slices.ContainsFunc(rules, func(x Rule) bool { return x.Priority == r.Target }) {
				continue
			}
			st.jump = int(r.Target)
			jumps = append(jumps, len(c.steps))
		}
		c.steps, priorities = append(c.steps, st), append(priorities, r.Priority)
	}
	for _, i := range jumps {
		c.steps[i].jump, _ = slices.BinarySearch(priorities, uint32(c.steps[i].jump))
	}
}

// step prepares a rule, but for where it jumps to. ok is false where the rule
// is as if it were not there.
func (c *compiler) step(r *Rule) (st step, ok bool) {
	st = step{anyIn: r.Iif == "", never: r.Never, invert: r.Invert, minLength: r.MinLength}
	st.to, st.toMask = selector(r.To)
	st.from, st.fromMask = selector(r.From)
	if r.Iif != "" {
		port, listed := c.names[r.Iif]
		st.in, st.never = port, st.never || !listed
	}
	switch r.Action {
	case ActionTable:
		st.table = c.tables[r.Table]
		return st, st.table != nil
	case ActionUnreachable:
		st.verdict.answer = Hop{Type: Unreachable, Port: NoPort}
	case ActionProhibit:
		st.verdict.answer = Hop{Type: Prohibit, Port: NoPort}
	case ActionBlackhole:
		st.verdict.answer = Hop{Type: Blackhole, Port: NoPort}
	case ActionNop:
		return st, false
	}
	return st, true
}

// selector returns what an address under the mask must be; all zero matches all.
func selector(p netip.Prefix) (addr, m uint32) {
	if !p.IsValid() {
		return 0, 0
	}
	m = mask(p.Bits())
	return U32(p.Addr()) & m, m
}

// compileAddresses collects the host's own addresses and the broadcast ones.
func (c *compiler) compileAddresses(routes []Route) {
	var local, broadcast []netip.Prefix
	for i := range c.interfaces {
		for _, a := range c.interfaces[i].Addresses {
			local = append(local, netip.PrefixFrom(a.Addr(), 32))
		}
	}
	broadcast = append(broadcast, netip.PrefixFrom(Addr(^uint32(0)), 32))
	for i := range routes {
		switch routes[i].Type {
		case RouteLocal:
			local = append(local, routes[i].Prefix)
		case RouteBroadcast:
			broadcast = append(broadcast, routes[i].Prefix)
		}
	}
	c.local, c.broadcast = newAddrSet(local), newAddrSet(broadcast)
}
