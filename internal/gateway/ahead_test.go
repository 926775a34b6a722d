package gateway

import (
	"bytes"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/nat"
)

// TestBurstsAreAsPacketsOneByOne: what is decided and sent for ahead, for a burst,
// changes nothing. The same packets, all at once and one at a time, leave the same
// frames, drops and flows, also where one of them begins what the next belongs to
// or hits.
func TestBurstsAreAsPacketsOneByOne(t *testing.T) {
	// Each inside host has ports of its own, and the same towards everybody, so
	// that all are kept: a search would begin at random.
	sources := []struct {
		on   fib.PortID
		addr uint32
		port uint16
	}{{insidePort, client, 2000}, {insidePort, client2, 3000}, {outsidePort, server, 53}, {outsidePort, excluded, 4000}}
	targets := []uint32{server, excluded, external, pooled, client, silent, ip("127.0.0.1")}
	rapid.Check(t, func(rt *rapid.T) {
		filtering := rapid.IntRange(0, 2).Draw(rt, "filtering")
		static := rapid.Bool().Draw(rt, "forwards")
		option := func(_ *rig, s *Snapshot) {
			s.Behaviour.Filtering = nat.FilteringBehaviour(filtering)
			if static {
				s.Static = someForwards()
			}
		}
		together, apart := newRig(t, withPool, option), newRig(t, withPool, option)
		for range rapid.IntRange(1, 4).Draw(rt, "bursts") {
			on := fib.PortID(rapid.IntRange(0, 1).Draw(rt, "port"))
			var frames [][]byte
			for range rapid.IntRange(1, Burst).Draw(rt, "packets") {
				sender := rapid.SampledFrom(sources).Draw(rt, "source")
				if sender.on != on {
					continue
				}
				f := from{
					src: sender.addr, sport: sender.port + uint16(rapid.IntRange(0, 2).Draw(rt, "sport")), ttl: uint8(rapid.IntRange(1, 3).Draw(rt, "ttl")),
					dst: rapid.SampledFrom(targets).Draw(rt, "dst"), dport: rapid.SampledFrom([]uint16{53, 80, 2000, 2001, 3000}).Draw(rt, "dport"),
				}
				switch rapid.IntRange(0, 4).Draw(rt, "kind") {
				case 0:
					frames = append(frames, f.tcp(t, rapid.SampledFrom([]uint8{packet.TCPSyn, packet.TCPAck, packet.TCPRst}).Draw(rt, "flags")))
				case 1:
					frames = append(frames, f.echo(t, packet.ICMPEchoRequest, f.sport))
				default:
					frames = append(frames, f.udp(t))
				}
			}
			together.send(on, frames...)
			for _, f := range frames {
				apart.send(on, f)
			}
			for i := range together.ports {
				a, b := together.ports[i].sent(), apart.ports[i].sent()
				for k := range max(len(a), len(b)) {
					if k >= len(a) || k >= len(b) || !bytes.Equal(a[k], b[k]) {
						rt.Fatalf("port %d, frame %d of %d and %d differs:\n%x\n%x", i, k, len(a), len(b), a[min(k, len(a)-1)], b[min(k, len(b)-1)])
					}
				}
			}
			if a, b := together.allDrops(), apart.allDrops(); !maps.Equal(a, b) {
				rt.Fatalf("drops %v in a burst, %v one by one", a, b)
			}
			if a, b := together.table.Count(), apart.table.Count(); a != b {
				rt.Fatalf("%+v in a burst, %+v one by one", a, b)
			}
		}
	})
}

// TestNewFlowHasItsHop: a flow from inside begins with the next hop that it was
// decided by, so that no route is looked up twice; one that came to an external
// address is asked about on its way.
func TestNewFlowHasItsHop(t *testing.T) {
	r := newRig(t)
	d := Decision{now: r.now}
	var p packet.Packet
	packet.Parse(from{src: client, dst: server, sport: 2000, dport: 53}.udp(t), &p)
	r.worker.in = insidePort
	flow, dir, reason := r.worker.miss(&p, key(&p), nil)
	if flow == nil || dir != conntrack.Original {
		t.Fatalf("no flow: %v", reason)
	}
	s := r.worker.snapshot
	want, _ := s.Routes.Lookup(server, client, insidePort, pathHash(client))
	if got := flow.NextHop(conntrack.Original); got != s.hopKey(want) || want == 0 || flow.NextHop(conntrack.Reply) != 0 {
		t.Errorf("next hops %#x and %#x, want %#x and none", got, flow.NextHop(conntrack.Reply), s.hopKey(want))
	}
	packet.Parse(from{src: client2, dst: external, sport: 3000, dport: 2000}.udp(t), &p)
	s.decide(&d, r.worker.flows, insidePort, &p, key(&p))
	if d.Reason != 0 || !d.Maps || s.decidedHop(&d) != 0 {
		t.Errorf("a hairpinned flow begins with hop %#x (%v)", s.decidedHop(&d), d.Reason)
	}
}
