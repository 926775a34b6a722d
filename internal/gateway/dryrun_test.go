package gateway

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// TestDryRunForetells holds DryRun against the pipeline: for any configuration,
// any history and any packet, the packet then does what was foretold, and the
// foretelling itself left no trace. The seeds are fixed, so that what must be met
// on the way is met every time.
func TestDryRunForetells(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(500) {
		x := &foreteller{T: t, Rand: rand.New(rand.NewPCG(seed, 1)), seed: seed, seen: seen}
		x.rig = x.anyRig()
		for range 60 {
			switch x.IntN(40) {
			case 0:
				x.rig.now += conntrack.Tick(x.IntN(4000))
			case 1:
				x.rig.publish(func(s *Snapshot) { s.Policy = x.anyPolicy() })
			case 2:
				x.rig.interfaces(x.IntN(4) > 0)
				x.anyRoutes()
				x.rig.reroute()
			case 3:
				x.rig.publish(func(s *Snapshot) { s.Pools[outsidePort] = pick(x, nat.NewPool(x.rig.ext), nil) })
			default:
				x.packet()
			}
		}
	}
	for _, what := range []string{"sent", "waits", "hit", "answer", "mapped", "kept", "searched", "shared", "inbound", "hairpin", "echo", "forward"} {
		if seen[what] < 10 {
			t.Errorf("%s: only %d times", what, seen[what])
		}
	}
	for _, r := range []verdict.Reason{
		verdict.OutsideToInside, verdict.SpoofedSource, verdict.OwnSource, verdict.PortsExhausted, verdict.SourceLimit, verdict.Filtered, verdict.NoMapping,
		verdict.HairpinDisabled, verdict.NoExternalAddress, verdict.NoRoute, verdict.RouteUnreachable, verdict.InterfaceDown,
		verdict.TCPWithoutFlow, verdict.ProtocolUnsupported, verdict.ICMPUnsupported, verdict.ReplyWithoutFlow, verdict.NeighbourUnresolved,
		verdict.WouldLeakSource, verdict.ExternalAddressMoved, verdict.MartianSource, verdict.LandAttack, verdict.TTLExpired,
		verdict.DirectedBroadcast, verdict.HostOwned, verdict.KernelRoute, verdict.PeerTaken, verdict.ProtocolPassed, verdict.HostPeer, verdict.ForeignSource,
	} {
		if seen[r.String()] == 0 {
			t.Errorf("never met: %s", r)
		}
	}
}

// foreteller is one random history of a random gateway.
type foreteller struct {
	*testing.T
	*rand.Rand
	seed uint64
	rig  *rig
	seen map[string]int
}

func (x *foreteller) fail(format string, args ...any) {
	x.Helper()
	x.Fatalf("seed %d: "+format, append([]any{x.seed}, args...)...)
}

func pick[T any](x *foreteller, from ...T) T { return from[x.IntN(len(from))] }

// packet sends one packet and compares what it did with what was said of it.
func (x *foreteller) packet() { x.try(x.anyPacket()) }

func (x *foreteller) try(in fib.PortID, frame []byte) {
	r := x.rig
	var p packet.Packet
	if reason := packet.Parse(frame, &p); reason != verdict.None {
		x.fail("the test built a packet that is %v", reason)
	}
	// Adopt the snapshot, and deal with the frames that waited for it.
	r.step()
	r.ports[0].sent()
	r.ports[1].sent()
	before, count, waiting := r.worker.counters, r.table.Count(), r.worker.Waiting()
	o := r.pointer.Load().DryRun(r.worker.flows, in, &p, r.now)
	// (That an expired flow was found and ended is no trace: nothing sees it.)
	if after := r.table.Count(); after.Flows > count.Flows || after.Mappings > count.Mappings || after.Sources > count.Sources || r.worker.counters != before {
		x.fail("the dry run left something behind: %+v, was %+v", after, count)
	}
	r.send(in, frame)
	dropped := verdict.None
	for reason, n := range r.worker.counters.Drops {
		if n != before.Drops[reason] {
			dropped = verdict.Reason(reason)
		}
	}
	// (An error about a dropped packet may wait, too.)
	waits := dropped == verdict.None && r.worker.Waiting() > waiting
	if dropped != o.Reason || waits != o.Waits {
		x.fail("dropped as %v, waits: %v; foretold %+v", dropped, waits, o)
	}
	x.left(&o)
	x.note(&o)
}

// left compares the frame that left, if one should have.
func (x *foreteller) left(o *Outcome) {
	for port := range x.rig.ports {
		sent := x.rig.forwarded(fib.PortID(port))
		if o.Reason != verdict.None || o.Waits || fib.PortID(port) != o.Hop.Port {
			if len(sent) != 0 {
				x.fail("%d frames left by port %d; foretold %+v", len(sent), port, o)
			}
			continue
		}
		if len(sent) != 1 {
			x.fail("%d frames left by port %d; foretold one: %+v", len(sent), port, o)
		}
		v := decode(x.T, sent[0])
		got, want := key(&v.packet), o.To
		if o.Flow == nil && (o.Mapping.Origin == nat.PortSearched || o.Mapping.Origin == nat.PortShared) {
			want.SrcPort = got.SrcPort
		}
		if got != want || [6]byte(sent[0][:6]) != o.Hop.MAC {
			x.fail("left as %+v; foretold %+v", got, o)
		}
	}
}

// note counts what was met.
func (x *foreteller) note(o *Outcome) {
	switch {
	case o.Reason != verdict.None:
		x.seen[o.Reason.String()]++
		return
	case o.Waits:
		x.seen["waits"]++
	default:
		x.seen["sent"]++
	}
	if o.Echo {
		x.seen["echo"]++
	}
	if o.Flow == nil && o.Decision.Kind == conntrack.PortForward {
		x.seen["forward"]++
	}
	switch {
	case o.Flow != nil && o.Flow.Direction == conntrack.Reply:
		x.seen["answer"]++
	case o.Flow != nil:
		x.seen["hit"]++
	case o.Decision.Mapped != nil:
		x.seen["inbound"]++
	case o.Mapping.External != nil:
		x.seen[[]string{"mapped", "kept", "searched", "shared"}[o.Mapping.Origin]]++
		if o.Decision.External != nil {
			x.seen["hairpin"]++
		}
	}
}

// anyRig is a gateway of any roles and policy, with one or two pool addresses,
// and often so few ports that they run out.
func (x *foreteller) anyRig() *rig {
	r := newRig(x.T, func(_ *rig, s *Snapshot) {
		s.Hairpin, s.DropForeign = x.IntN(4) > 0, x.IntN(8) == 0
		s.Policy = x.anyPolicy()
		s.Ports = pick(x, nat.DefaultPorts, nat.PortRange{Low: 1, High: 65535}, nat.PortRange{Low: 1, High: 3}, nat.PortRange{Low: 2, High: 2})
		s.Behaviour = pick(x, nat.Behaviour{}, nat.Behaviour{
			Mapping: pick(x, nat.MapEndpoint, nat.MapAddress, nat.MapAddressAndPort), Overload: x.IntN(2) == 0,
			Filtering: pick(x, nat.FilterAddressAndPort, nat.FilterAddress, nat.FilterEndpoint), Random: x.IntN(4) == 0,
		})
		s.Other = pick(x, OtherAddressOnly, OtherAddressOnly, OtherDrop, OtherPass)
		s.Static = pick(x, nil, nil, someForwards())
		s.Host = pick(x, nil, nil, nat.NewHostPeers([]nat.HostPeer{{Proto: 47, Peer: server}, {Proto: 47, Local: pooled}}))
		s.Roles[outsidePort] = pick(x, RoleOutside, RoleOutside, RoleOutside, RoleBoth, RoleInside)
		s.Roles[insidePort] = pick(x, RoleInside, RoleInside, RoleInside, RoleBoth)
	})
	r.table.SetSourceLimit(pick(x, 0, 0, 0, 6))
	second := conntrack.NewExternal(pooled, nil)
	if err := r.table.AddExternal(second); err != nil {
		x.Fatal(err)
	}
	r.publish(func(s *Snapshot) {
		pool := pick(x, nat.NewPool(r.ext), nat.NewPool(r.ext), nat.NewPool(r.ext, second), nat.NewPool(second), nil)
		s.Pools[outsidePort] = pool
		if s.Roles[insidePort] == RoleBoth {
			s.Pools[insidePort] = pool
		}
	})
	return r
}

func (x *foreteller) anyPolicy() *nat.Policy {
	some := func() (rules []nat.Rule) {
		for i := range x.IntN(2) {
			prefix := pick(x, "10.0.0.5/32", "10.9.0.0/16", "198.51.100.0/24", "192.0.2.0/24")
			rules = append(rules, nat.Rule{Prefix: netip.MustParsePrefix(prefix), Line: i + 1})
		}
		return rules
	}
	return nat.NewPolicy(nat.PolicyConfig{
		Enabled: x.IntN(10) > 0, Sources: append(some(), anyPolicyLines...), NoNATSources: some(), NativeRouting: some(),
	})
}

// anyRoutes replaces the rig's default route by routes of all types.
func (x *foreteller) anyRoutes() {
	now := x.rig.pointer.Load().Routes
	routes := fib.Connected([]fib.Interface{*now.Interface(insidePort), *now.Interface(outsidePort)})
	for _, p := range []string{"0.0.0.0/0", "198.51.100.0/24", "10.9.0.0/16", "203.0.113.0/24"} {
		route := fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix(p), Paths: []fib.Path{{Ifindex: 2, Gateway: router}}}
		switch x.IntN(7) {
		case 0:
			continue
		case 1:
			route.Type, route.Paths = fib.RouteUnreachable, nil
		case 2:
			route.Paths[0].Ifindex = 77 // not a listed interface
		case 3:
			route.Paths[0] = fib.Path{Ifindex: 1, Gateway: client2}
		}
		routes = append(routes, route)
	}
	x.rig.builder.SetRoutes(routes)
	x.rig.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: silent, State: pick(x, fib.Unresolved, fib.Failed)})
}

// anyPacket is a packet that is neither damaged nor a fragment nor an error, and
// the port that it arrives on: mostly one that an inside host would send, or one
// that would come back to it.
func (x *foreteller) anyPacket() (fib.PortID, []byte) {
	everything := []uint32{client, client2, server, excluded, external, pooled, router, silent, gatewayInside, ip("10.0.0.255"), ip("127.0.0.1")}
	in, sources, destinations := fib.PortID(x.IntN(2)), everything, everything
	switch x.IntN(5) {
	case 0, 1:
		in, sources, destinations = insidePort, []uint32{client, client2}, []uint32{server, server, external, pooled, excluded, silent, router}
	case 2, 3:
		in, sources, destinations = outsidePort, []uint32{server, server, excluded, router}, []uint32{external, pooled, client}
	}
	f := from{
		src: pick(x, sources...), dst: pick(x, destinations...), sport: uint16(1 + x.IntN(3)), dport: uint16(1 + x.IntN(3)),
		ttl: 64, payload: "payload",
	}
	if x.IntN(30) == 0 {
		f.ttl = 1
	}
	switch x.IntN(8) {
	case 0:
		return in, f.tcp(x.T, pick(x, uint8(packet.TCPSyn), packet.TCPSyn|packet.TCPAck, packet.TCPAck, packet.TCPRst))
	case 1:
		return in, f.echo(x.T, pick[uint8](x, 8, 0, 13), f.sport)
	case 2:
		return in, f.frame(x.T, f.ipv4(47), payload("other protocol"))
	}
	return in, f.udp(x.T)
}
