package explain

import (
	"fmt"
	"slices"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/nat"
)

// assumedAddress stands for the address of an interface, which the file does not
// say. No packet that is not dropped as a martian has it.
const assumedAddress uint32 = 0

// Assume makes the gateway that a configuration alone describes: masquerade's
// sources are behind the first inside interface, everything else is behind the
// first outside one, every link is up, no flow is there.
func Assume(c *config.Config, policy *nat.Policy, roles [gateway.MaxPorts]gateway.Role) (*Gateway, error) {
	s := &gateway.Snapshot{
		Policy: policy, Roles: roles, Routes: assumedRoutes(c), Generation: 1, Hairpin: c.Masquerade.Hairpin,
		Behaviour: nat.ConfiguredBehaviour(string(c.Masquerade.Mapping), string(c.Masquerade.Filtering), c.Masquerade.Overload),
		Ports:     nat.PortRange{Low: c.Masquerade.PortRange.First, High: c.Masquerade.PortRange.Last},
	}
	s.DropForeign = c.Masquerade.ForeignSources == config.ForeignDrop && !everySource(c)
	s.Behaviour.Random = c.Masquerade.PortAssignment == config.PortRandom
	cfg := conntrack.Config{MaxFlows: 1024, Workers: 1, Timeouts: conntrack.DefaultTimeouts()}
	table, err := conntrack.New(make([]byte, conntrack.Size(cfg)), cfg)
	if err != nil {
		return nil, fmt.Errorf("a flow table to explain by: %w", err)
	}
	// Worker puts it online, and it will never pass a burst boundary.
	table.Worker(0).Offline()
	if c.Masquerade.Enabled {
		pool, err := assumedPool(c, table)
		if err != nil {
			return nil, err
		}
		for i := range c.Interfaces {
			if roles[i] != gateway.RoleInside {
				s.Pools[i] = pool
			}
		}
	}
	return &Gateway{Config: c, Snapshot: s, Table: table, Now: 1, Assumed: true}, nil
}

// assumedPool has the addresses that the file names.
func assumedPool(c *config.Config, table *conntrack.Table) (*nat.Pool, error) {
	var list []*conntrack.External
	for _, e := range c.Masquerade.Addresses {
		first, n := assumedAddress, uint32(1)
		if !e.Auto {
			first, n = fib.U32(e.Prefix.Addr()), 1<<(32-e.Prefix.Bits())
		}
		for i := range n {
			x := conntrack.NewExternal(first+i, nil)
			if err := table.AddExternal(x); err != nil {
				return nil, err
			}
			list = append(list, x)
		}
	}
	return nat.NewPool(list...), nil
}

// assumedRoutes puts the sources behind the first inside interface and the rest
// behind the first outside one; an interface that is both is either.
func assumedRoutes(c *config.Config) *fib.Snapshot {
	const mtu = 1500
	var interfaces []fib.Interface
	for i, f := range c.Interfaces {
		interfaces = append(interfaces, fib.Interface{Name: f.Name, Ifindex: int32(i + 1), MTU: mtu, Up: true})
	}
	inside, outside := sides(c)
	via := func(port fib.PortID) []fib.Path { return []fib.Path{{Ifindex: int32(port) + 1}} }
	var routes []fib.Route
	add := func(r config.Rule, port fib.PortID) {
		routes = append(routes, fib.Route{Table: fib.TableMain, Prefix: r.Prefix, Paths: via(port)})
	}
	everything := config.Rule{Prefix: linkLocal}
	everything.Prefix, _ = everything.Prefix.Addr().Prefix(0)
	add(everything, outside)
	for _, r := range c.Masquerade.Sources {
		if r.Prefix.Bits() > 0 { // where everything is a source, the file says nothing about where it is
			add(r, inside)
		}
	}
	var b fib.Builder
	b.SetInterfaces(interfaces)
	b.SetRoutes(routes)
	return b.Build()
}

// sides are the first interface of each side; where a side has none, the other's.
func sides(c *config.Config) (inside, outside fib.PortID) {
	inside, outside = fib.NoPort, fib.NoPort
	for _, want := range []config.Role{config.RoleInside, config.RoleOutside, config.RoleBoth} {
		for i, f := range c.Interfaces {
			if f.Role != want {
				continue
			}
			if inside == fib.NoPort && want != config.RoleOutside {
				inside = fib.PortID(i)
			}
			if outside == fib.NoPort && want != config.RoleInside {
				outside = fib.PortID(i)
			}
		}
	}
	if inside == fib.NoPort {
		inside = outside
	}
	if outside == fib.NoPort {
		outside = inside
	}
	return inside, outside
}

// everySource reports whether every address is a source: the file says nothing then
// about who is inside.
func everySource(c *config.Config) bool {
	return slices.ContainsFunc(c.Masquerade.Sources, func(r config.Rule) bool { return r.Prefix.Bits() == 0 })
}
