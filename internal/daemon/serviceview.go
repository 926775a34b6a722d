package daemon

import (
	"net/netip"
	"slices"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/health"
)

// backendCounters is what was counted for a backend since it has its id.
func (d *Daemon) backendCounters(id dsr.BackendID) gateway.BackendCounters {
	c := d.countersOf(id)
	if now := d.inForce.Load(); now != nil {
		c = c.Since(now.since[id])
	}
	return c
}

// countersOf sums what the workers counted for an id, whoever had it.
func (d *Daemon) countersOf(id dsr.BackendID) (sum gateway.BackendCounters) {
	for _, t := range d.plane.threads {
		c := t.worker.Backend(id)
		for dir := range c.Packets {
			sum.Packets[dir] += c.Packets[dir]
			sum.Bytes[dir] += c.Bytes[dir]
		}
		sum.Flows += c.Flows
		sum.Connections += c.Connections
		sum.Unanswered += c.Unanswered
	}
	return sum
}

// Services implements control.Gateway.
func (d *Daemon) Services() []control.Service { return d.describeServices(d.liveFlows) }

// MeasureServices implements metrics.Source: all that Services says but the live
// flows, for which the whole table has to be read.
func (d *Daemon) MeasureServices() []control.Service {
	return d.describeServices(func(*dsr.Table) map[dsr.BackendID]int { return nil })
}

func (d *Daemon) describeServices(count func(*dsr.Table) map[dsr.BackendID]int) (list []control.Service) {
	d.look(func() {
		now := d.inForce.Load()
		table := now.snapshot.Balance.Table
		live := count(table)
		at := map[string]*config.Service{}
		for i := range now.config.Services {
			at[now.config.Services[i].Name] = &now.config.Services[i]
		}
		for _, s := range table.All() {
			list = append(list, d.serviceOf(s, at[s.Name], now, live))
		}
	})
	return list
}

// liveFlows counts the flows of each backend.
func (d *Daemon) liveFlows(table *dsr.Table) map[dsr.BackendID]int {
	live := map[dsr.BackendID]int{}
	if len(table.All()) == 0 {
		return live
	}
	var cursor conntrack.Cursor
	d.plane.table.Each(&cursor, func(s conntrack.Snapshot) bool {
		if s.Kind.Balanced() {
			live[dsr.BackendID(s.Backend)]++
		}
		return true
	})
	return live
}

// serviceSummary sums the services up. A backend of a service with two protocols
// counts once, and gets new flows where it does for one of them.
func (d *Daemon) serviceSummary() (u control.ServiceUsage) {
	now := d.inForce.Load()
	if now == nil {
		return u
	}
	for i := range now.config.Services {
		s := &now.config.Services[i]
		u.Count++
		u.Modes, u.Algorithms = append(u.Modes, string(s.Mode)), append(u.Algorithms, string(s.Algorithm))
		if s.Mode != "snat" {
			u.Dispatch = string(now.config.DSR.Dispatch)
		}
	}
	gets := map[backendKey]bool{}
	for _, s := range now.snapshot.Balance.Table.All() {
		for _, b := range s.Backends {
			k := backendKey{s.Name, b.Endpoint()}
			gets[k] = gets[k] || b.State == dsr.Active && b.Weight > 0
		}
	}
	u.Backends = len(gets)
	for _, selectable := range gets {
		if selectable {
			u.Selectable++
		}
	}
	u.Modes, u.Algorithms = slices.Compact(slices.Sorted(slices.Values(u.Modes))), slices.Compact(slices.Sorted(slices.Values(u.Algorithms)))
	return u
}

// serviceOf words a service, whose configuration is c.
func (d *Daemon) serviceOf(s *dsr.Service, c *config.Service, now *inForce, live map[dsr.BackendID]int) control.Service {
	out := control.Service{
		Name: s.Name, Protocol: control.Protocol(s.Proto), Address: netip.AddrPortFrom(fib.Addr(s.VIP), s.Port),
		Mode: s.Mode.String(), Algorithm: s.Algorithm.String(), Announce: string(c.Announce),
		SessionAffinitySeconds: c.SessionAffinity.Std().Seconds(), SourceRanges: []string{},
		NoBackend: string(c.NoBackend), DeadBackend: string(c.DeadBackend), HealthCheck: string(c.HealthCheck.Type),
		Line: s.Line, Selectable: s.Selectable(), Backends: []control.Backend{},
	}
	if s.Mode == dsr.DSR {
		out.Dispatch = now.snapshot.Balance.Dispatch.String()
	}
	for _, r := range c.SourceRanges {
		out.SourceRanges = append(out.SourceRanges, r.Prefix.String())
	}
	for _, b := range s.Backends {
		x := d.backendOf(s, b, now, live)
		out.Traffic.Live += x.Traffic.Live
		out.Traffic.Flows += x.Traffic.Flows
		out.Traffic.Connections += x.Traffic.Connections
		out.Traffic.Unanswered += x.Traffic.Unanswered
		out.Traffic.Packets.Original += x.Traffic.Packets.Original
		out.Traffic.Packets.Reply += x.Traffic.Packets.Reply
		out.Traffic.Bytes.Original += x.Traffic.Bytes.Original
		out.Traffic.Bytes.Reply += x.Traffic.Bytes.Reply
		out.Backends = append(out.Backends, x)
	}
	return out
}

func (d *Daemon) backendOf(s *dsr.Service, b *dsr.Backend, now *inForce, live map[dsr.BackendID]int) control.Backend {
	c := d.backendCounters(b.ID)
	k := backendKey{s.Name, b.Endpoint()}
	state := now.states[k]
	out := control.Backend{
		Address: k.at, Weight: b.Weight, State: state.of(b), Drained: state.drained, ReturnPath: "gateway", Line: b.Line,
		Traffic: control.Traffic{
			Live: live[b.ID], Flows: c.Flows, Connections: c.Connections, Unanswered: c.Unanswered,
			Packets: control.Directed{Original: c.Packets[0], Reply: c.Packets[1]}, Bytes: control.Directed{Original: c.Bytes[0], Reply: c.Bytes[1]},
		},
	}
	if s.Mode == dsr.DSR && b.Agent {
		out.ReturnPath = "dsr"
	}
	if r, ok := d.health.Report(health.Target{Service: s.Name, Address: k.at}); ok {
		out.Health = &control.Health{Healthy: r.Healthy, Reason: r.Reason, Probes: r.Probes, Failed: r.Failed, Last: r.Last}
	}
	return out
}

// balanced fills in what a flow of a service has beyond others. A service that is
// configured no more has no name.
func (d *Daemon) balanced(f *control.Flow, s *conntrack.Snapshot) {
	if !s.Kind.Balanced() {
		return
	}
	f.Backend = netip.AddrPortFrom(fib.Addr(s.Reply.Src), s.Reply.SrcPort).String()
	if now := d.inForce.Load(); now != nil {
		if service := now.snapshot.Balance.Service(dsr.ServiceID(s.Service)); service != nil {
			f.Service = service.Name
		}
	}
}
