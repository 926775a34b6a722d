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
		a.InUse = control.PortsInUse{TCP: x.inUse(0), UDP: x.inUse(1), ICMP: x.inUse(2)}
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
		for r, n := range c.Drops {
			drops[r] += n
		}
	}
	for _, r := range poolFailures {
		failures = append(failures, control.Drop{Reason: r.String(), Packets: drops[r], Explanation: r.Explain()})
	}
	return s, failures
}

// fewest is a heap of sources whose first has the fewest mappings.
type fewest []conntrack.SourceSnapshot

func busier(a, b *conntrack.SourceSnapshot) int {
	return cmp.Or(cmp.Compare(b.Mappings, a.Mappings), cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.Address, b.Address))
}

func (h fewest) Len() int           { return len(h) }
func (h fewest) Less(i, j int) bool { return busier(&h[i], &h[j]) > 0 }
func (h fewest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *fewest) Push(x any)        { *h = append(*h, x.(conntrack.SourceSnapshot)) }
func (h *fewest) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// topSources lists the n inside addresses with most mappings, in memory for n.
func (d *Daemon) topSources(ctx context.Context, n int) (list []control.Source, all int, err error) {
	var top fewest
	var from conntrack.Cursor
	d.look(func() {
		d.plane.table.EachSource(&from, func(s conntrack.SourceSnapshot) bool {
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
	slices.SortFunc(top, func(a, b conntrack.SourceSnapshot) int { return busier(&a, &b) })
	for _, s := range top {
		list = append(list, control.Source{
			Address: fib.Addr(s.Address), External: fib.Addr(s.External), Mappings: int(s.Mappings), Flows: int(s.Flows),
		})
	}
	return list, all, ctx.Err()
}

// Mappings implements control.Gateway.
func (d *Daemon) Mappings(ctx context.Context, filter control.MappingFilter, yield func(control.Mapping) error) error {
	var cursor conntrack.MappingCursor
	list := make([]conntrack.MappingSnapshot, 0, walkChunk)
	for {
		list = list[:0]
		var now conntrack.Tick
		var boot time.Time
		d.look(func() {
			now, boot = d.times()
			d.plane.table.EachMapping(&cursor, func(m conntrack.MappingSnapshot) bool {
				list = append(list, m)
				return len(list) < walkChunk
			})
		})
		for i := range list {
			m := mappingOf(&list[i], now, boot)
			if err := ctx.Err(); err != nil {
				return err
			}
			if !filter.Match(&m) {
				continue
			}
			if err := yield(m); err != nil {
				return err
			}
		}
		if len(list) < walkChunk {
			return nil
		}
	}
}

// mappingOf words a mapping for the control socket.
func mappingOf(m *conntrack.MappingSnapshot, now conntrack.Tick, boot time.Time) control.Mapping {
	return control.Mapping{
		Protocol: control.Protocol(m.Proto),
		Inside:   netip.AddrPortFrom(fib.Addr(m.Inside), m.InsidePort), External: netip.AddrPortFrom(fib.Addr(m.External), m.ExternalPort),
		Flows: int(m.Users), Created: wallTime(m.Created, boot), LastFlow: wallTime(m.LastOut, boot),
		AgeSeconds: int64(max(int32(now-m.Created), 0)) / conntrack.TicksPerSecond, Draining: m.Gone,
	}
}

// Who implements control.Gateway.
func (d *Daemon) Who(e control.Endpoint) (h control.Holders, err error) {
	h = control.Holders{At: time.Now(), External: e.Address.String()}
	known := false
	d.look(func() {
		now, boot := d.times()
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP} {
			if e.Proto != "" && e.Proto != control.Protocol(proto) {
				continue
			}
			m, is, held := d.plane.table.Holder(proto, fib.U32(e.Address.Addr()), e.Address.Port())
			known = known || is
			if held {
				h.Holders = append(h.Holders, mappingOf(&m, now, boot))
			}
		}
	})
	if !known {
		return h, fmt.Errorf("%s is no external address of this gateway; `sluice nat pools` lists those that are", e.Address.Addr())
	}
	return h, nil
}
