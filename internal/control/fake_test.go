package control

import (
	"context"
	"fmt"
	"io"
)

func (g *scripted) Capture(ctx context.Context, q CaptureQuestion, begun func() error, out io.Writer) error {
	return g.capture(ctx, q, begun, out)
}

func (g *scripted) WatchFlows(ctx context.Context, filter Filter, begun func() error, yield func(*FlowEvent) error) error {
	if err := begun(); err != nil {
		return err
	}
	for i := range g.flows {
		e := FlowEvent{Event: EventNew, Flow: g.flow(i)}
		if filter.Match(&e.Flow) {
			if err := yield(&e); err != nil {
				return err
			}
		}
	}
	return yield(&FlowEvent{Event: EventLost, Lost: 7})
}

func (g *scripted) FlushFlows(ctx context.Context, filter Filter) (Flush, error) {
	n, err := g.CountFlows(ctx, filter)
	g.flushed.Add(int64(n.Count))
	return Flush{n.Count}, err
}

func (g *scripted) Pools(_ context.Context, top int) (Pools, error) {
	return Pools{PortRange: "1024-65535", Sources: make([]Source, top)}, g.broken
}

func (g *scripted) mapping(i int) Mapping {
	f := g.flow(i)
	return Mapping{Protocol: "tcp", Inside: addrPort(f.Original.Src, f.Original.Sport), External: addrPort(f.Reply.Dst, f.Reply.Dport), Flows: 1}
}

func (g *scripted) Mappings(_ context.Context, filter MappingFilter, yield func(Mapping) error) error {
	for i := range g.flows {
		if m := g.mapping(i); filter.Match(&m) {
			if err := yield(m); err != nil {
				return err
			}
		}
	}
	return g.broken
}

func (g *scripted) Who(e Endpoint) (h Holders, err error) {
	for i := range g.flows {
		if m := g.mapping(i); m.External == e.Address && (e.Proto == "" || e.Proto == m.Protocol) {
			h.Holders = append(h.Holders, m)
		}
	}
	return h, g.broken
}

func (g *scripted) Services() []Service { return g.services }

func (g *scripted) SetDraining(_ context.Context, service string, backend BackendAddress, drain bool) (BackendChange, error) {
	change := BackendChange{Draining: drain}
	for i := range g.services {
		s := &g.services[i]
		for j := range s.Backends {
			if b := &s.Backends[j]; (service == "" || s.Name == service) && backend.Is(b.Address) {
				change.Backends = append(change.Backends, ChangedBackend{Service: s.Name, Backend: b.Address, Changed: b.Drained != drain, State: "draining"})
			}
		}
	}
	if len(change.Backends) == 0 {
		return change, fmt.Errorf("no service has the backend %s", backend)
	}
	return change, nil
}
