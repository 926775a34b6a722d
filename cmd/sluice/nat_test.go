package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

func (g *fake) WatchFlows(_ context.Context, filter control.Filter, begun func() error, yield func(*control.FlowEvent) error) error {
	if err := begun(); err != nil {
		return err
	}
	for i := range g.events {
		if e := &g.events[i]; e.Event == control.EventLost || filter.Match(&e.Flow) {
			if err := yield(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *fake) FlushFlows(ctx context.Context, filter control.Filter) (control.Flush, error) {
	n, err := g.CountFlows(ctx, filter)
	return control.Flush{Flushed: n.Count}, err
}

func (g *fake) Pools(_ context.Context, top int) (control.Pools, error) {
	p := g.pools
	p.Sources = p.Sources[:min(top, len(p.Sources))]
	return p, nil
}

func (g *fake) Mappings(_ context.Context, filter control.MappingFilter, yield func(control.Mapping) error) error {
	for _, m := range g.mappings {
		if filter.Match(&m) {
			if err := yield(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *fake) Who(e control.Endpoint) (control.Holders, error) {
	h := control.Holders{External: e.Address.String()}
	for _, m := range g.mappings {
		if m.External == e.Address && (e.Proto == "" || e.Proto == m.Protocol) {
			h.Holders = append(h.Holders, m)
		}
	}
	return h, nil
}

func natted() *fake {
	created := time.Date(2026, 11, 25, 5, 3, 0, 0, time.UTC)
	external := netip.MustParseAddr("192.0.2.1")
	flow := control.Flow{
		Protocol: "udp", State: "udp-replied", Kind: "masquerade", TimeoutSeconds: 300, Created: created,
		Original: control.Tuple{Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("1.1.1.1"), Sport: 4000, Dport: 53},
		Reply:    &control.Tuple{Src: netip.MustParseAddr("1.1.1.1"), Dst: external, Sport: 53, Dport: 4000},
	}
	return &fake{
		flows: []control.Flow{flow},
		events: []control.FlowEvent{
			{Event: control.EventNew, At: created, Flow: flow},
			{Event: control.EventUpdate, At: created.Add(100 * time.Millisecond), Flow: flow},
			{Event: control.EventLost, At: created, Lost: 12},
			{Event: control.EventDestroy, At: created.Add(90 * time.Second), Reason: "silence", Flow: flow},
		},
		pools: control.Pools{
			PortRange: "1024-65535", Inside: 1, Mappings: control.Usage{Used: 1, Capacity: 1000},
			Addresses: []control.ExternalAddress{{Address: external, Interface: "eth0", Shared: true, Capacity: 64512, InUse: control.PortsInUse{TCP: 6451, UDP: 1, ICMP: 2}, Resting: control.PortsInUse{TCP: 8}, Refused: 7}},
			Ports:     control.PortSearch{Kept: 5, Searched: 4, Retries: 3, Exhausted: 2},
			Failures:  []control.Drop{{Reason: "ports-exhausted", Packets: 2, Explanation: "no port is free"}, {Reason: "source-limit"}},
			Sources:   []control.Source{{Address: netip.MustParseAddr("10.0.0.5"), External: external, Ports: 9, Flows: 11}},
		},
		mappings: []control.Mapping{{
			Protocol: "udp", Inside: netip.MustParseAddrPort("10.0.0.5:4000"), External: netip.AddrPortFrom(external, 4000),
			Flows: 2, Created: created, LastFlow: created, AgeSeconds: 90,
		}, {
			Protocol: "tcp", Inside: netip.MustParseAddrPort("10.0.0.6:80"), External: netip.AddrPortFrom(external, 4001), Draining: true,
		}},
	}
}

func TestFlowsWatchAndFlush(t *testing.T) {
	socket := serve(t, natted())
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"flows", "watch"}, 0, "[2026-11-25 05:03:00.0]     [NEW] udp       300 udp-replied"},
		{[]string{"flows", "watch"}, 0, "[UPDATE] udp"},
		{[]string{"flows", "watch"}, 0, "[LOST] 12 events came faster than they were read"},
		{[]string{"flows", "watch"}, 0, "[DESTROY] udp       300 udp-replied      src=10.0.0.5"},
		{[]string{"flows", "watch"}, 0, "reason=silence age=1m30s"},
		{[]string{"flows", "watch", "-o", "json"}, 0, `{"event":"destroy","at":"2026-11-25T05:04:30Z","reason":"silence","lost":0,"protocol":"udp"`},
		{[]string{"flows", "flush", "--src", "10.0.0.5"}, 0, "1 flow ended"},
		{[]string{"flows", "flush", "--all"}, 0, "1 flow ended"},
		{[]string{"flows", "flush", "--all", "-o", "json"}, 0, `{"flushed":1}`},
		{[]string{"flows", "flush", "--dport", "54"}, 0, "0 flows ended"},
		{[]string{"flows", "flush"}, 2, "give one, or --all"},
		{[]string{"flows", "flush", "--all", "--dport", "53"}, 2, "one or the other"},
		{[]string{"flows", "watch", "--sport", "x"}, 2, "--sport: "},
	} {
		code, out, errOut := sluice(t, append(tc.args, "--socket", socket)...)
		if code != tc.code || !strings.Contains(out+errOut, tc.want) {
			t.Errorf("%v: exit %d\n%s%s\nwant %d, %s", tc.args, code, out, errOut, tc.code, tc.want)
		}
	}
}

func TestNATCommands(t *testing.T) {
	socket := serve(t, natted())
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"pools"}, 0, "192.0.2.1  eth0, shared with the host  6451  10.0 %    1  0.0 %     2        8        7       64512"},
		{[]string{"pools"}, 0, "5 kept, 4 searched, 3 retries, 2 times none was free"},
		{[]string{"pools"}, 0, "2  ports-exhausted  no port is free"},
		{[]string{"pools"}, 0, "9     11  10.0.0.5  192.0.2.1"},
		{[]string{"pools", "--top", "1001"}, 2, "--top: 1001 is not 0 to 1000"},
		{[]string{"list"}, 0, "udp   10.0.0.5:4000         <-> 192.0.2.1:4000        flows=2 age=1m30s\n"},
		{[]string{"list", "--proto", "tcp"}, 0, "flows=0 age=0s [DRAINING]"},
		{[]string{"list", "-o", "json", "--inside", "10.0.0.5"}, 0, `"inside":"10.0.0.5:4000","external":"192.0.2.1:4000","flows":2`},
		{[]string{"list", "--inside", "ten"}, 2, "--inside: "},
		{[]string{"who", "192.0.2.1:4000"}, 0, "since 2026-11-25 05:03:00"},
		{[]string{"who", "192.0.2.1:4000", "-o", "json"}, 0, `"inside":"10.0.0.5:4000"`},
		{[]string{"who", "192.0.2.1:4000", "--proto", "tcp"}, 1, "nobody holds 192.0.2.1:4000 now"},
		{[]string{"who", "192.0.2.1"}, 2, "not an IPv4 ADDRESS:PORT"},
		{[]string{"who"}, 2, "one argument"},
	} {
		code, out, errOut := sluice(t, append(append([]string{"nat"}, tc.args...), "--socket", socket)...)
		if code != tc.code || !strings.Contains(out+errOut, tc.want) {
			t.Errorf("%v: exit %d\n%s%s\nwant %d, %s", tc.args, code, out, errOut, tc.code, tc.want)
		}
	}
}
