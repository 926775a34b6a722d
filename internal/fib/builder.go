package fib

import (
	"cmp"
	"maps"
	"slices"
)

// Builder collects interfaces, routes, rules and neighbours, and builds
// snapshots of them. Its zero value has no interface, no route and the default
// rules. It keeps the assignment of hop ids from one build to the next, so that
// an id means the same hop as long as the generation is the same.
type Builder struct {
	interfaces []Interface
	routes     []Route
	rules      []Rule
	neighbours map[neighKey]Neighbour

	generation uint16
	last       *Snapshot // nil: something changed since it was built
	routing    *routing  // nil: something of it changed since it was compiled
	hops       []Hop
	ids        map[hopKey]uint32
	index      hopIndex
	indexed    int // hops that index knows
	first      int // hops that the generation began with; 0 = not built yet
}

type neighKey struct {
	addr uint32
	port PortID
}

// SetInterfaces replaces the listed interfaces; an interface's place in the list
// is its PortID. The list is copied, the address lists in it are kept.
func (b *Builder) SetInterfaces(interfaces []Interface) {
	interfaces = slices.Clone(interfaces)
	for i := range interfaces {
		interfaces[i].Port = PortID(i)
	}
	if !slices.EqualFunc(b.interfaces, interfaces, Interface.equal) {
		b.interfaces, b.routing, b.last = interfaces, nil, nil
	}
}

// SetRoutes replaces the routes of all tables. The Builder keeps the slice.
func (b *Builder) SetRoutes(routes []Route) {
	if !slices.EqualFunc(b.routes, routes, Route.equal) {
		b.routes, b.routing, b.last = routes, nil, nil
	}
}

// SetRules replaces the policy rules, in any order of priority. The Builder
// keeps the slice; nil stands for the default rules.
func (b *Builder) SetRules(rules []Rule) {
	if !slices.Equal(b.rules, rules) || (b.rules == nil) != (rules == nil) {
		b.rules, b.routing, b.last = rules, nil, nil
	}
}

// SetNeighbours replaces all neighbours.
func (b *Builder) SetNeighbours(all []Neighbour) {
	neighbours := make(map[neighKey]Neighbour, len(all))
	for _, n := range all {
		neighbours[neighKey{n.Addr, n.Port}] = n
	}
	if !maps.Equal(b.neighbours, neighbours) {
		b.neighbours, b.last = neighbours, nil
	}
}

// SetNeighbour adds or replaces one neighbour.
func (b *Builder) SetNeighbour(n Neighbour) {
	k := neighKey{n.Addr, n.Port}
	if old, ok := b.neighbours[k]; ok && old == n {
		return
	}
	if b.neighbours == nil {
		b.neighbours = make(map[neighKey]Neighbour)
	}
	b.neighbours[k], b.last = n, nil
}

// DeleteNeighbour forgets one neighbour; its hop is unresolved again.
func (b *Builder) DeleteNeighbour(port PortID, addr uint32) {
	k := neighKey{addr, port}
	if _, ok := b.neighbours[k]; ok {
		delete(b.neighbours, k)
		b.last = nil
	}
}

// Build returns a snapshot of what the Builder holds: the last one again where
// nothing changed. It costs a pass over the neighbours, and where something else
// changed, a compilation of all routes.
func (b *Builder) Build() *Snapshot {
	if b.last != nil {
		return b.last
	}
	if b.routing == nil {
		b.compile()
	}
	b.enterNeighbours()
	if b.first != 0 && len(b.hops) > maxHopID+1 && len(b.hops) > 2*b.first {
		// Ids ran out, many of them on neighbours that are gone. Start over.
		b.compile()
		b.enterNeighbours()
	}
	if b.first == 0 {
		b.first = len(b.hops)
	}
	if b.indexed != len(b.hops) {
		b.index, b.indexed = newHopIndex(b.hops), len(b.hops)
	}
	hops := slices.Clone(b.hops)
	for i := 1; i < len(hops); i++ {
		h := &hops[i]
		if n, ok := b.neighbours[neighKey{h.Gateway, h.Port}]; ok {
			h.State, h.MAC = n.State, n.MAC
		}
	}
	b.last = &Snapshot{routing: b.routing, hops: hops, index: b.index}
	return b.last
}

// compile begins a new generation.
func (b *Builder) compile() {
	if b.generation++; b.generation == 0 {
		b.generation = 1
	}
	b.hops, b.ids, b.indexed, b.first = make([]Hop, 1), make(map[hopKey]uint32), 0, 0
	b.routing = &routing{generation: b.generation, interfaces: b.interfaces}
	rules := b.rules
	if rules == nil {
		rules = DefaultRules()
	}
	c := compiler{routing: b.routing, assign: b.assign}
	c.compile(b.routes, rules)
}

// assign returns the index of a hop, the next one for a hop that has none.
func (b *Builder) assign(h Hop) uint32 {
	key := hopKey{h.Gateway, h.Port, h.MTU}
	i, ok := b.ids[key]
	if !ok {
		i = uint32(len(b.hops))
		b.ids[key] = i
		b.hops = append(b.hops, h)
	}
	return i
}

// enterNeighbours gives every neighbour that a route without a gateway can reach
// a hop, in the order of their addresses.
func (b *Builder) enterNeighbours() {
	var fresh []Hop
	for k := range b.neighbours {
		if int(k.port) >= len(b.interfaces) {
			continue
		}
		iface := &b.interfaces[k.port]
		for _, mtu := range b.routing.onLink[k.port] {
			if _, ok := b.ids[hopKey{k.addr, k.port, mtu}]; !ok {
				fresh = append(fresh, Hop{Type: Forward, Port: k.port, Up: iface.Up, Ifindex: iface.Ifindex,
					Gateway: k.addr, Source: iface.MAC, MTU: mtu})
			}
		}
	}
	slices.SortFunc(fresh, func(a, b Hop) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.MTU, b.MTU))
	})
	for _, h := range fresh {
		b.assign(h)
	}
}
