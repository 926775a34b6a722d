package daemon

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// poolFailures are the reasons for which a new flow gets no mapping.
var poolFailures = []verdict.Reason{
	verdict.PortsExhausted, verdict.NoExternalAddress, verdict.MappingTableFull, verdict.SourceTableFull, verdict.SourceLimit,
	verdict.PortSearchLimit,
}

// Pools implements control.Gateway.
func (d *Daemon) Pools(ctx context.Context, top int) (p control.Pools, err error) {
	v := d.view.get()
	p = control.Pools{At: time.Now(), PortRange: v.masquerade.PortRange}
	d.look(func() {
		p.Addresses = externalStatus(&v)
		c := d.plane.table.Count()
		p.Mappings = control.Usage{Used: c.Mappings, Capacity: c.MappingCapacity}
		p.Ports, p.Failures = d.portSearch()
	})
	p.Sources, p.Inside, err = d.topSources(ctx, top)
	return p, err
}

// externalStatus is how much of each external address is in use.
func externalStatus(v *viewCopy) (list []control.ExternalAddress) {
	for _, x := range v.externals {
		a := x.address
		tcp, udp, icmp := x.Use(packet.ProtoTCP), x.Use(packet.ProtoUDP), x.Use(packet.ProtoICMP)
		a.InUse = control.PortsInUse{TCP: tcp.Mapped, UDP: udp.Mapped, ICMP: icmp.Mapped}
		a.Resting = control.PortsInUse{TCP: tcp.Resting, UDP: udp.Resting, ICMP: icmp.Resting}
		a.Refused = tcp.Refused + udp.Refused + icmp.Refused
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b control.ExternalAddress) int { return a.Address.Compare(b.Address) })
	return list
}

// portSearch adds up how the workers' searches went.
func (d *Daemon) portSearch() (s control.PortSearch, failures []control.Drop) {
	var drops [verdict.Count]uint64
	for _, t := range d.plane.threads {
		c := t.worker.Counters()
		s.Kept += c.PortSearch.Kept
		s.Searched += c.PortSearch.Searched
		s.Retries += c.PortSearch.Races
		s.Exhausted += c.PortSearch.Exhausted
		s.Shared += c.PortSearch.Shared
		s.Waited += c.SearchesHeld
		for r, n := range c.Drops {
			drops[r] += n
		}
	}
	for _, r := range poolFailures {
		failures = append(failures, control.Drop{Reason: r.String(), Packets: drops[r], Explanation: r.Explain()})
	}
	return s, failures
}

// fewest is a heap of sources whose first has the fewest ports.
type fewest []conntrack.SourceUse

func busier(a, b *conntrack.SourceUse) int {
	return cmp.Or(cmp.Compare(b.Ports, a.Ports), cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.Addr, b.Addr))
}

func (h fewest) Len() int           { return len(h) }
func (h fewest) Less(i, j int) bool { return busier(&h[i], &h[j]) > 0 }
func (h fewest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *fewest) Push(x any)        { *h = append(*h, x.(conntrack.SourceUse)) }
func (h *fewest) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// topSources lists the n inside addresses with most ports, in memory for n.
func (d *Daemon) topSources(ctx context.Context, n int) (list []control.Source, all int, err error) {
	var top fewest
	d.look(func() {
		d.plane.table.Sources(func(s conntrack.SourceUse) bool {
			all++
			switch {
			case len(top) < n:
				heap.Push(&top, s)
			case n > 0 && busier(&s, &top[0]) < 0:
				top[0] = s
				heap.Fix(&top, 0)
			}
			return ctx.Err() == nil
		})
	})
	slices.SortFunc(top, func(a, b conntrack.SourceUse) int { return busier(&a, &b) })
	for _, s := range top {
		list = append(list, control.Source{Address: fib.Addr(s.Addr), External: fib.Addr(s.External), Ports: s.Ports, Flows: s.Flows})
	}
	return list, all, ctx.Err()
}

// Mappings implements control.Gateway.
func (d *Daemon) Mappings(ctx context.Context, filter control.MappingFilter, yield func(control.Mapping) error) (err error) {
	known := d.externalAddresses()
	d.look(func() {
		d.plane.table.Mappings(func(u conntrack.MappingUse) bool {
			if err = ctx.Err(); err != nil {
				return false
			}
			if u.Scope == conntrack.ScopePeer {
				return true // no mapping of its own
			}
			m := d.mappingOf(&u, known)
			if filter.Match(&m) {
				err = yield(m)
			}
			return err == nil
		})
	})
	return err
}

// externalAddresses are those that new flows can get.
func (d *Daemon) externalAddresses() map[netip.Addr]bool {
	known := map[netip.Addr]bool{}
	for _, x := range d.view.get().externals {
		known[x.address.Address] = true
	}
	return known
}

// scopeWords are those of masquerade.mapping.
var scopeWords = map[conntrack.Scope]string{
	conntrack.ScopeEndpoint: "endpoint-independent", conntrack.ScopeAddress: "address-dependent", conntrack.ScopeFlow: "address-and-port-dependent",
}

// mappingOf words a mapping for the control socket.
func (d *Daemon) mappingOf(u *conntrack.MappingUse, known map[netip.Addr]bool) control.Mapping {
	now, boot := d.times()
	m := control.Mapping{
		Protocol: control.Protocol(u.Proto), Scope: scopeWords[u.Scope], Shared: u.Shared,
		Inside: netip.AddrPortFrom(fib.Addr(u.Inside), u.InsidePort), External: netip.AddrPortFrom(fib.Addr(u.External), u.ExternalPort),
		Flows: u.References, Created: wallTime(u.Created, boot), LastFlow: wallTime(u.LastOut, boot),
		AgeSeconds: int64(max(int32(now-u.Created), 0)) / conntrack.TicksPerSecond,
	}
	if u.Scope == conntrack.ScopeAddress {
		m.Peer = fib.Addr(u.Peer).String()
	}
	m.Draining = !known[m.External.Addr()]
	return m
}

// Who implements control.Gateway. Ports can be shared: all mappings are looked
// at.
func (d *Daemon) Who(e control.Endpoint) (h control.Holders, err error) {
	h = control.Holders{At: time.Now(), External: e.Address.String()}
	known := d.externalAddresses()
	addr, port := fib.U32(e.Address.Addr()), e.Address.Port()
	d.look(func() {
		d.plane.table.Mappings(func(u conntrack.MappingUse) bool {
			if u.External == addr && u.ExternalPort == port && u.Scope != conntrack.ScopePeer && (e.Proto == "" || e.Proto == control.Protocol(u.Proto)) {
				h.Holders = append(h.Holders, d.mappingOf(&u, known))
			}
			return true
		})
	})
	if len(h.Holders) == 0 && !known[e.Address.Addr()] {
		return h, fmt.Errorf("%s is no external address of this gateway; `sluice nat pools` lists those that are", e.Address.Addr())
	}
	return h, nil
}
