package gateway

import (
	"bytes"
	"net/netip"
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// punted is a packet that the kernel got.
type punted struct {
	in     fib.PortID
	frame  []byte
	reason verdict.Reason
}

// puntMemory is the way to the kernel, in memory.
type puntMemory struct {
	room int
	got  []punted
}

func (m *puntMemory) Punt(in fib.PortID, frame []byte, r verdict.Reason) bool {
	if m.room == 0 {
		return false
	}
	m.room--
	m.got = append(m.got, punted{in, bytes.Clone(frame), r})
	return true
}

// withPunts gives the rig a way to the kernel.
func withPunts(r *rig) *puntMemory {
	m := &puntMemory{room: 1 << 20}
	r.worker.punter = m
	return m
}

// expectPunt sends a frame and expects the kernel to get it as it was.
func (r *rig) expectPunt(m *puntMemory, what string, on fib.PortID, frame []byte, reason verdict.Reason) {
	r.t.Helper()
	m.got = nil
	before := r.worker.counters
	r.send(on, frame)
	if len(m.got) != 1 {
		r.t.Errorf("%s: not punted; drops %v", what, r.allDrops())
		return
	}
	if g := m.got[0]; g.in != on || g.reason != reason || !bytes.Equal(g.frame, frame) {
		r.t.Errorf("%s: punted on port %d as %v: %x, want %x", what, g.in, g.reason, g.frame, frame)
	}
	if c := &r.worker.counters; c.Drops != before.Drops || c.Punts[reason] != before.Punts[reason]+1 {
		r.t.Errorf("%s: punts %d, want one more than %d; drops %v", what, c.Punts[reason], before.Punts[reason], r.allDrops())
	}
}

// expectDrop sends a frame and expects it to be dropped, not punted.
func (r *rig) expectDrop(m *puntMemory, what string, on fib.PortID, frame []byte, reason verdict.Reason) {
	r.t.Helper()
	m.got = nil
	before := r.drops(reason)
	r.send(on, frame)
	if len(m.got) != 0 || r.drops(reason) != before+1 {
		r.t.Errorf("%s: punted %v, drops %v; want dropped as %v", what, m.got, r.allDrops(), reason)
	}
}

// mapped makes a mapping for the client at the external port 4000, towards the
// server, for UDP, and an echo identifier 77.
func (r *rig) mapped() {
	r.t.Helper()
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(r.t))
	r.send(insidePort, from{src: client, dst: server}.echo(r.t, packet.ICMPEchoRequest, 77))
	if r.ports[outsidePort].sent(); r.table.Count().Mappings != 2 {
		r.t.Fatalf("%d mappings; drops %v", r.table.Count().Mappings, r.allDrops())
	}
}

// TestPuntsWhatTheHostOwns: packets that the steering program could not know to
// be the host's.
func TestPuntsWhatTheHostOwns(t *testing.T) {
	r := newRig(t)
	m := withPunts(r)
	r.mapped()
	to := from{src: server, dst: external, sport: 53, dport: 9999, payload: "for the host"}
	r.expectPunt(m, "a port that nothing is mapped to", outsidePort, to.udp(t), verdict.HostOwned)
	r.expectPunt(m, "the same from inside", insidePort, from{src: client2, dst: external, sport: 53, dport: 9999}.udp(t), verdict.HostOwned)
	r.expectPunt(m, "a segment of a connection", outsidePort, to.tcp(t, packet.TCPAck), verdict.HostOwned)
	r.expectPunt(m, "an address that only the host has", insidePort, from{src: client, dst: gatewayInside, sport: 1, dport: 22}.tcp(t, packet.TCPSyn), verdict.HostOwned)
	last := to
	last.ttl = 1
	r.expectPunt(m, "the last hop is the host", outsidePort, last.udp(t), verdict.HostOwned)
	r.expectPunt(m, "a ping", outsidePort, to.echo(t, packet.ICMPEchoRequest, 5), verdict.HostOwned)
	r.expectPunt(m, "an answer to the host's ping by an identifier that NAT uses elsewhere", outsidePort,
		from{src: router, dst: external}.echo(t, packet.ICMPEchoReply, 77), verdict.Filtered)
	r.expectPunt(m, "the same from an inside host", insidePort,
		from{src: client2, dst: external}.echo(t, packet.ICMPEchoReply, 77), verdict.ReplyWithoutFlow)
	mine := from{src: external, dst: server, sport: 40000, dport: 443}.udp(t)
	r.expectPunt(m, "an error about the host's own packet", outsidePort,
		from{src: router, dst: external}.quote(t, packet.ICMPUnreachable, 1, mine, 28), verdict.ICMPErrorWithoutFlow)
}

// TestPuntsNothingOfNAT: what answers a mapping is NAT's, and the host would
// reset it; an address of NAT's alone is nothing to the host.
func TestPuntsNothingOfNAT(t *testing.T) {
	x := conntrack.NewExternal(pooled, nil)
	r := newRig(t)
	if err := r.table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	m := withPunts(r)
	r.mapped()
	stranger := from{src: router, dst: external, sport: 53, dport: 4000}
	r.expectDrop(m, "a stranger to a mapping", outsidePort, stranger.udp(t), verdict.Filtered)
	stranger.ttl = 1
	r.expectDrop(m, "the same at its last hop", outsidePort, stranger.udp(t), verdict.Filtered)
	r.expectDrop(m, "an answer at its last hop", outsidePort, from{src: server, dst: external, sport: 53, dport: 4000, ttl: 1}.udp(t), verdict.TTLExpired)
	r.expectDrop(m, "a pool address", outsidePort, from{src: server, dst: pooled, sport: 53, dport: 9999}.udp(t), verdict.NoMapping)
	r.expectDrop(m, "an error to a pool address", outsidePort,
		from{src: router, dst: pooled}.quote(t, packet.ICMPUnreachable, 1, from{src: pooled, dst: server, sport: 4, dport: 5}.udp(t), 28), verdict.ICMPErrorWithoutFlow)
	r.expectDrop(m, "outside to inside", outsidePort, from{src: server, dst: client, sport: 1, dport: 2}.udp(t), verdict.OutsideToInside)
}

// TestPuntsRacingPacket: the answer that comes when the mapping has just ended.
func TestPuntsRacingPacket(t *testing.T) {
	r := newRig(t)
	m := withPunts(r)
	r.mapped()
	answer := from{src: server, dst: external, sport: 53, dport: 4000}.udp(t)
	r.send(outsidePort, answer)
	r.one(insidePort)
	r.now += conntrack.Tick(10 * 60 * conntrack.TicksPerSecond)
	r.worker.Idle(r.now, r.maxFlows)
	r.expectDrop(m, "an answer after the mapping's end, while the port rests", outsidePort, answer, verdict.NoMapping)
	r.now += conntrack.DefaultTimeouts().PortRest + conntrack.TicksPerSecond
	r.worker.Idle(r.now, 1<<16)
	r.expectPunt(m, "and after its rest", outsidePort, answer, verdict.HostOwned)
}

// TestPuntsKernelRoutes: what leaves by an interface that is not listed is the
// kernel's, unless NAT would have to translate it first.
func TestPuntsKernelRoutes(t *testing.T) {
	r := newRig(t)
	m := withPunts(r)
	r.mapped()
	away := func(prefix string) {
		routes := fib.Connected([]fib.Interface{
			{Ifindex: 1, Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}},
			{Ifindex: 2, Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
		})
		r.builder.SetRoutes(append(routes, fib.Route{
			Table: fib.TableMain, Prefix: netip.MustParsePrefix(prefix), Paths: []fib.Path{{Ifindex: 77}},
		}))
		r.reroute()
	}
	away("0.0.0.0/0")
	r.expectPunt(m, "a new flow", insidePort, from{src: client, dst: ip("198.51.100.77"), sport: 1, dport: 2}.udp(t), verdict.KernelRoute)
	r.expectPunt(m, "a flow that has been masqueraded", insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t), verdict.KernelRoute)
	away("10.0.0.5/32")
	r.expectDrop(m, "an answer whose inside host is elsewhere now", outsidePort, from{src: server, dst: external, sport: 53, dport: 4000}.udp(t), verdict.KernelRoute)
}

// TestPuntRefused: without room, or without a way to the kernel, a packet is a
// drop under its own reason.
func TestPuntRefused(t *testing.T) {
	r := newRig(t)
	frame := from{src: server, dst: external, sport: 53, dport: 9999}.udp(t)
	r.send(outsidePort, frame)
	r.none(verdict.HostOwned)
	m := withPunts(r)
	m.room = 1
	r.send(outsidePort, frame, frame, frame)
	c := &r.worker.counters
	if len(m.got) != 1 || c.Punts[verdict.HostOwned] != 1 || c.PuntsRefused[verdict.HostOwned] != 2 || c.Drops[verdict.HostOwned] != 3 {
		t.Errorf("%d punted, counted %d, refused %d, dropped %d", len(m.got), c.Punts[verdict.HostOwned], c.PuntsRefused[verdict.HostOwned], c.Drops[verdict.HostOwned])
	}
	r.worker.Idle(r.now, 1)
	if got := r.worker.Counters(); got != *c {
		t.Errorf("published %+v, counted %+v", got, *c)
	}
}

// always is a way to the kernel that takes everything.
type always struct{}

func (always) Punt(fib.PortID, []byte, verdict.Reason) bool { return true }

func TestPuntingDoesNotAllocate(t *testing.T) {
	r := newRig(t)
	r.worker.punter, r.worker.memory = always{}, forgetful{r.memory}
	train := from{src: server, dst: external, sport: 53, dport: 9999, payload: big(56)}.udpPieces(t, 1, 32)
	p := &loop{memory: r.memory, frames: [][]byte{
		from{src: server, dst: external, sport: 53, dport: 9999}.udp(t),
		train[1], train[0], // the later one waits
	}}
	r.worker.ports[outsidePort] = p
	if n := testing.AllocsPerRun(60, func() { r.worker.Step(r.now) }); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if c := &r.worker.counters; c.Punts[verdict.HostOwned] == 0 || c.FragmentsHeld == 0 {
		t.Errorf("nothing punted; drops %v", r.allDrops())
	}
}
