package fib

import (
	"net/netip"
	"slices"
)

// The kernel's own routing tables (enum rt_class_t).
const (
	TableDefault uint32 = 253
	TableMain    uint32 = 254
	TableLocal   uint32 = 255
)

// RouteType is the type of a route, as `ip route` names it.
type RouteType uint8

const (
	RouteUnicast RouteType = iota
	RouteLocal
	RouteBroadcast
	RouteUnreachable
	RouteProhibit
	RouteBlackhole
	RouteThrow  // ends the search in this table; the next rule goes on
	RouteKernel // only the kernel can follow it: encapsulation, multicast, NAT, …
)

// Path is one next hop of a route.
type Path struct {
	Ifindex int32
	Gateway uint32 // 0: destinations are on the link, each its own neighbour
	Weight  uint16 // share of a multipath route; 0 counts as 1
	Dead    bool   // RTNH_F_DEAD: the kernel does not use it now
}

// Route is one route of one table. Of several to the same prefix the lowest
// metric wins, and among equal ones the first; one whose paths are all dead is
// as if it were not there.
type Route struct {
	Table  uint32
	Prefix netip.Prefix
	Type   RouteType
	Metric uint32
	MTU    uint16 // the route's own limit; 0 = the interface's
	Paths  []Path // none needed unless Type is RouteUnicast
}

func (r Route) equal(x Route) bool {
	return r.Table == x.Table && r.Prefix == x.Prefix && r.Type == x.Type &&
		r.Metric == x.Metric && r.MTU == x.MTU && slices.Equal(r.Paths, x.Paths)
}

func (r *Route) alive() bool {
	return r.Type != RouteUnicast || slices.ContainsFunc(r.Paths, func(p Path) bool { return !p.Dead })
}

// beats reports whether r wins over x, an earlier route to the same prefix. The
// tables differ only where local and main are one trie; local comes first then.
func (r *Route) beats(x *Route) bool {
	if r.Table != x.Table {
		return r.Table > x.Table
	}
	return r.Metric < x.Metric
}

// RuleAction says what a policy rule does.
type RuleAction uint8

const (
	ActionTable RuleAction = iota // look up Rule.Table
	ActionGoto                    // go on at the first rule of priority Rule.Target or later
	ActionNop
	ActionUnreachable
	ActionProhibit
	ActionBlackhole
)

// Rule is one policy rule. The zero value of every selector matches all.
type Rule struct {
	Priority uint32
	From, To netip.Prefix
	Iif      string // a listed interface; any other name matches no packet of ours
	Never    bool   // has a selector that no forwarded packet meets, such as oif or a mark
	Invert   bool   // `not`: matches what the selectors do not
	Action   RuleAction
	Table    uint32
	Target   uint32 // priority that ActionGoto goes on at; must be greater than Priority

	// MinLength passes over answers with a shorter prefix: `suppress_prefixlength`
	// plus one; 0 takes every answer.
	MinLength uint8
}

// DefaultRules returns the three rules that a network namespace is born with.
func DefaultRules() []Rule {
	return []Rule{
		{Priority: 0, Table: TableLocal},
		{Priority: 32766, Table: TableMain},
		{Priority: 32767, Table: TableDefault},
	}
}

// Neighbour is an entry of the kernel's ARP table.
type Neighbour struct {
	Port  PortID
	Addr  uint32
	State NeighState
	MAC   [6]byte // valid where State is Resolved
}

func (i Interface) equal(x Interface) bool {
	return i.Port == x.Port && i.Name == x.Name && i.Ifindex == x.Ifindex && i.MAC == x.MAC && i.MTU == x.MTU &&
		i.Up == x.Up && i.Virtual == x.Virtual && i.Primary == x.Primary && slices.Equal(i.Addresses, x.Addresses)
}

// Connected returns the routes that the kernel makes for the interfaces'
// addresses: local and broadcast in the local table, the network in main.
// Interfaces that are down have none.
func Connected(interfaces []Interface) []Route {
	var routes []Route
	for _, i := range interfaces {
		if !i.Up {
			continue
		}
		paths := []Path{{Ifindex: i.Ifindex}}
		for _, a := range i.Addresses {
			routes = append(routes, Route{Table: TableLocal, Prefix: netip.PrefixFrom(a.Addr(), 32), Type: RouteLocal, Paths: paths})
			if a.Bits() < 32 {
				routes = append(routes, Route{Table: TableMain, Prefix: a.Masked(), Paths: paths})
			}
			if a.Bits() < 31 {
				last := Addr(U32(a.Addr()) | ^mask(a.Bits()))
				routes = append(routes, Route{Table: TableLocal, Prefix: netip.PrefixFrom(last, 32), Type: RouteBroadcast, Paths: paths})
			}
		}
	}
	return routes
}
