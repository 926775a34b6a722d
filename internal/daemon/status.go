package daemon

import (
	"os"
	"slices"
	"sync"
	"time"

	"sluice/conntrack"
	"sluice/internal/bypass"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/verdict"
	"sluice/nat"
)

// view is what the control goroutine knows and status shows. It writes its own
// fields freely and hands a copy over with refresh; the copy alone is read by
// others.
type view struct {
	warnings   []string
	loaded     time.Time
	lastReload *control.LastReload

	mu   sync.Mutex
	copy viewCopy
}

type viewCopy struct {
	config     control.ConfigStatus
	masquerade control.Masquerade
	interfaces []fib.Interface
	roles      []config.Role
	drivers    []string
	externals  []externalCopy
	timeouts   config.Timeouts
	onFailure  config.Failure
	hostPeers  []control.HostPeer
	problems   []control.Degradation // of listed interfaces that are there and cannot be used
}

type externalCopy struct {
	*external
	address control.ExternalAddress
}

// refresh hands the control goroutine's state over to whoever asks for status.
func (d *Daemon) refresh() {
	c := viewCopy{
		config: control.ConfigStatus{
			Path: d.options.ConfigPath, Loaded: d.view.loaded, Warnings: d.view.warnings, LastReload: d.view.lastReload,
		},
		hostPeers: d.hostPeerStatus(), masquerade: masqueradeStatus(d.config, d.policy), timeouts: d.config.Conntrack.Timeouts, onFailure: d.config.OnFailure,
		problems: append(slices.Concat(d.linkProblems(), d.agentProblem(), d.serviceProblems(time.Now()), d.conflictProblems(time.Now())), d.shadows...),
	}
	for i := range d.config.Interfaces {
		if iface := d.routes.Interface(fib.PortID(i)); iface != nil {
			c.interfaces = append(c.interfaces, *iface)
			c.roles = append(c.roles, d.config.Interfaces[i].Role)
			c.drivers = append(c.drivers, d.plane.nics[i].Driver)
		}
	}
	c.problems = append(c.problems, networkOverlaps(c.interfaces, c.roles)...)
	capacity := int(d.config.Masquerade.PortRange.Last) - int(d.config.Masquerade.PortRange.First) + 1
	for addr, x := range d.externals {
		a := control.ExternalAddress{Address: fib.Addr(addr), Shared: d.routes.Local(addr), Use: x.use(), Capacity: capacity}
		if a.Use == control.ForForwards {
			a.Capacity = 0
		}
		if !x.pool {
			a.Interface = d.config.Interfaces[x.of].Name
		}
		c.externals = append(c.externals, externalCopy{x, a})
	}
	d.view.mu.Lock()
	defer d.view.mu.Unlock()
	d.view.copy = c
}

// use says what an external address is for.
func (x *external) use() control.AddressUse {
	switch {
	case len(x.ports) > 0:
		return control.ForMasquerading
	case x.snat:
		return control.ForServices
	}
	return control.ForForwards
}

func (v *view) get() viewCopy {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.copy
}

// masqueradeStatus words the policy as it is configured, and what the ip-masq-agent
// file adds to it.
func masqueradeStatus(c *config.Config, policy *nat.Policy) control.Masquerade {
	m := &c.Masquerade
	s := control.Masquerade{Enabled: m.Enabled, PortRange: m.PortRange.String()}
	for _, r := range m.Sources {
		s.Sources = append(s.Sources, r.Prefix)
	}
	exclude := func(rule string, list []config.Rule) {
		for _, r := range list {
			s.Exclusions = append(s.Exclusions, control.Exclusion{Rule: rule, Prefix: r.Prefix, Line: r.Line})
		}
	}
	exclude("no-nat-source", m.NoNATSources)
	exclude("native-routing", m.NativeRoutingCIDRs)
	for _, p := range policy.IPMasq() {
		exclude("ip-masq-agent", []config.Rule{{Prefix: p}})
	}
	for _, n := range m.Nodes {
		exclude("node", []config.Rule{{Prefix: hostPrefix(n.Address), Line: n.Line}})
	}
	if !m.LinkLocal && m.IPMasqAgentConfig == "" { // there the file's word counts
		exclude("link-local", []config.Rule{{Prefix: linkLocal}})
	}
	return s
}

// Status implements control.Gateway.
func (d *Daemon) Status() control.Status {
	s := d.Measure()
	v := d.view.get()
	s.Netfilter = d.bypassed(&v)
	return s
}

// Measure implements metrics.Source: all that is status but the host's rules,
// which take many system calls to list.
func (d *Daemon) Measure() (s control.Status) {
	v := d.view.get()
	s = control.Status{
		Version: d.options.Version, PID: os.Getpid(), Started: d.started, UptimeSeconds: time.Since(d.started).Seconds(),
		Config: v.config, Masquerade: v.masquerade, Services: d.serviceSummary(), Unsupported: d.mirror.Unsupported(), HostPeers: v.hostPeers, Timeouts: timeoutStatus(&v.timeouts),
	}
	d.look(func() {
		s.Masquerade.Addresses = externalStatus(&v)
		s.PortSearch, _ = d.portSearch()
		d.tableStatus(&s)
		s.StateFile = d.plane.state.status()
		s.Process = processStatus()
		d.workerStatus(&s)
		d.interfaceStatus(&s, v)
		d.steeringStatus(&s, v)
		d.puntStatus(&s)
		d.routerStatus(&s)
	})
	s.Looks = d.looks.list()
	s.Degraded = append(degraded(&s), v.problems...)
	d.dsrAgent.status(&s)
	return s
}

func timeoutStatus(configured *config.Timeouts) control.Timeouts {
	t := timeouts(configured)
	seconds := func(t conntrack.Tick) float64 { return float64(t) / conntrack.TicksPerSecond }
	ports := map[string]float64{}
	for key, span := range configured.UDPPorts.Map() {
		ports[key] = span.Seconds()
	}
	return control.Timeouts{
		UDPPorts:       ports,
		TCPEstablished: seconds(t.TCPEstablished), TCPTransitory: seconds(t.TCPTransitory), TCPClosing: seconds(t.TCPClosing), TCPSyn: seconds(t.TCPSyn),
		TCPClose: seconds(t.TCPClose), TCPTimeWait: seconds(t.TCPTimeWait),
		UDP: seconds(t.UDP), UDPUnreplied: seconds(t.UDPUnreplied), ICMP: seconds(t.ICMP), Other: seconds(t.Other),
	}
}

func (d *Daemon) workerStatus(s *control.Status) {
	now := d.plane.threads[0].clock.Now()
	for _, t := range d.plane.threads {
		c := t.worker.Counters()
		s.Workers = append(s.Workers, control.Worker{
			ID: t.id, CPU: t.cpu, Running: t.running(), HeartbeatAgeSeconds: float64(now-t.lastBeat()) / 1e9,
			Packets: c.Packets, Bursts: c.Bursts, Utilisation: t.utilisation(), BusySeconds: float64(t.busy.Load()) / 1e9,
			Frames: t.frameStatus(),
		})
	}
}

func (d *Daemon) interfaceStatus(s *control.Status, v viewCopy) {
	d.sockets.RLock()
	defer d.sockets.RUnlock()
	for i, iface := range v.interfaces {
		out := control.Interface{
			Name: iface.Name, Role: string(v.roles[i]), Up: iface.Up, Driver: v.drivers[i],
			MAC: macString(iface.MAC), MTU: int(iface.MTU), Addresses: iface.Addresses, Notes: driverNotes(d.plane.driver),
		}
		for _, t := range d.plane.threads {
			out.Queues = append(out.Queues, t.queueStatus(i)...)
		}
		s.Interfaces = append(s.Interfaces, out)
	}
}

func (d *Daemon) steeringStatus(s *control.Status, v viewCopy) {
	s.Steering.OnFailure = string(v.onFailure)
	s.Steering.Pinned, s.Steering.Path = d.plane.steering.Pinned()
	counters, err := d.plane.steering.Counters()
	if err != nil {
		d.log.Warn("the steering program's counters could not be read", "error", err)
	}
	for _, c := range counters {
		s.Steering.Counters = append(s.Steering.Counters, control.Counter{Name: c.Name, Packets: c.Packets})
	}
}

// Drops implements control.Gateway.
func (d *Daemon) Drops() control.Drops {
	var sum [verdict.Count]uint64
	d.look(func() {
		for _, t := range d.plane.threads {
			c := t.worker.Counters()
			for r, n := range c.Drops {
				sum[r] += n
			}
		}
		for r := range sum {
			sum[r] += d.plane.punts.failed[r].Load()
		}
	})
	out := control.Drops{At: time.Now()}
	for _, r := range verdict.All() {
		out.Reasons = append(out.Reasons, control.Drop{Reason: r.String(), Packets: sum[r], Explanation: r.Explain()})
	}
	out.Reasons = append(out.Reasons, d.dsrAgent.drops()...)
	return out
}

// bypassed lists the rules of the host that steered packets do not meet.
func (d *Daemon) bypassed(v *viewCopy) []string {
	var names []string
	for _, iface := range v.interfaces {
		names = append(names, iface.Name)
	}
	rules, err := bypass.Rules(names)
	if err != nil {
		d.log.Warn("the rules that steered packets bypass could not be read", "error", err)
	}
	return rules
}
