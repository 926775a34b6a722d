package daemon

import (
	"time"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/config"
	"sluice/internal/fib"
)

// serviceConfigs is what the table of services is made of: one for each service and
// protocol. state says how each backend is.
func serviceConfigs(c *config.Config, state func(backendKey) dsr.State) (list []dsr.ServiceConfig) {
	for i := range c.Services {
		s := &c.Services[i]
		out := dsr.ServiceConfig{
			Name: s.Name, VIP: fib.U32(s.Address), Port: s.Port, Algorithm: algorithm(s.Algorithm),
			Affinity: conntrack.Tick(time.Duration(s.SessionAffinity) / (time.Second / conntrack.TicksPerSecond)),
			Reject:   s.NoBackend == "reject", Reset: s.DeadBackend == "reset", Line: s.Line,
		}
		for _, r := range s.SourceRanges {
			out.Sources = append(out.Sources, r.Prefix)
		}
		for _, b := range s.Backends {
			out.Backends = append(out.Backends, dsr.BackendConfig{
				Address: fib.U32(b.Address), Port: b.Port, Weight: b.Weight, Agent: b.Agent, State: state(keyOf(s, b)), Line: b.Line,
			})
		}
		for _, proto := range s.Protocols {
			out.Proto, out.Mode = protocolNumber(proto), dsr.SNAT
			if s.Mode == "dsr" || s.Mode == "hybrid" && proto == "tcp" {
				out.Mode = dsr.DSR
			}
			list = append(list, out)
		}
	}
	return list
}

func algorithm(a config.Algorithm) dsr.Algorithm {
	switch a {
	case "random":
		return dsr.Random
	case "round-robin":
		return dsr.RoundRobin
	}
	return dsr.Maglev
}

func dispatch(d config.Dispatch) dsr.Dispatch {
	switch d {
	case "ipip":
		return dsr.IPIP
	case "geneve":
		return dsr.Geneve
	}
	return dsr.Option
}

func order(o config.ByteOrder) dsr.Order {
	if o == "network" {
		return dsr.NetworkOrder
	}
	return dsr.CiliumOrder
}

// collectIds makes the ids of services and backends that nobody has any more free
// for others, where they have become many.
func (d *Daemon) collectIds() {
	b := d.balancer
	if !b.ids.Crowded(b.table) {
		return
	}
	services, backends := map[dsr.ServiceID]bool{}, map[dsr.BackendID]bool{}
	var cursor conntrack.Cursor
	d.plane.table.Each(&cursor, func(s conntrack.Snapshot) bool {
		if s.Kind.Balanced() {
			services[dsr.ServiceID(s.Service)], backends[dsr.BackendID(s.Backend)] = true, true
		}
		return true
	})
	for _, id := range b.ids.Collect(b.table, services, backends, b.sticky) {
		b.since[id] = d.countersOf(id)
		delete(b.silent, id)
	}
}
