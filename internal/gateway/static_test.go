package gateway

import (
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// someForwards are: 192.0.2.1 port 80 to client's 8080, ports 1000-1003 to
// client2's 2000-2003, both TCP and UDP, and 203.0.113.7 as a whole to client2.
func someForwards() *nat.Static {
	var list []nat.PortForward
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		list = append(list,
			nat.PortForward{External: external, Proto: proto, First: 80, Last: 80, Inside: client, To: 8080, Out: nat.AnyOut},
			nat.PortForward{External: external, Proto: proto, First: 1000, Last: 1003, Inside: client2, To: 2000, Out: nat.AnyOut})
	}
	return nat.NewStatic(append(list, nat.PortForward{External: pooled, Last: 65535, Inside: client2, Out: nat.AnyOut}))
}

// withForwards is the rig with someForwards, and the addresses they need.
func withForwards(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, func(_ *rig, s *Snapshot) { s.Static = someForwards() })
	if err := r.table.AddExternal(conntrack.NewExternal(pooled, nil)); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestForwardFromOutside: any caller gets through to the inside endpoint, and the
// answers leave with the external one.
func TestForwardFromOutside(t *testing.T) {
	for _, c := range []struct{ external, inside uint16 }{{80, 8080}} {
		r := withForwards(t)
		f := from{src: server, dst: external, sport: 5000, dport: c.external}
		r.send(outsidePort, f.tcp(t, packet.TCPSyn))
		v := r.one(insidePort)
		if v.packet.Src != server || v.packet.Dst != client || v.packet.DstPort != c.inside {
			t.Fatalf("arrived inside as %+v", v.packet)
		}
		r.send(insidePort, from{src: client, dst: server, sport: c.inside, dport: 5000}.tcp(t, packet.TCPSyn|packet.TCPAck))
		v = r.one(outsidePort)
		if v.packet.Src != external || v.packet.SrcPort != c.external || v.packet.Dst != server {
			t.Fatalf("the answer left as %+v", v.packet)
		}
		flow, dir := r.worker.flows.Find(key(&packet.Packet{Src: server, Dst: external, SrcPort: 5000, DstPort: c.external, Proto: packet.ProtoTCP}), r.now)
		if flow == nil || dir != conntrack.Original || flow.Kind() != conntrack.PortForward {
			t.Errorf("the flow is %+v", flow)
		}
		// Nothing begins in the middle of a connection.
		r.send(outsidePort, from{src: server, dst: external, sport: 5001, dport: c.external}.tcp(t, packet.TCPAck))
		r.none(verdict.TCPWithoutFlow)
		// The port beside is not forwarded.
		r.send(outsidePort, from{src: server, dst: external, sport: 5001, dport: c.external + 1}.tcp(t, packet.TCPSyn))
		r.none(verdict.HostOwned)
		r.send(outsidePort, from{src: client2, dst: external, sport: 5001, dport: c.external}.tcp(t, packet.TCPSyn))
		r.none(verdict.SpoofedSource)
	}
}

// TestForwardOfRange: ports map one by one.
func TestForwardOfRange(t *testing.T) {
	r := withForwards(t)
	for i := range uint16(4) {
		r.send(outsidePort, from{src: server, dst: external, sport: 5000, dport: 1000 + i}.udp(t))
		if v := r.one(insidePort); v.packet.Dst != client2 || v.packet.DstPort != 2000+i {
			t.Errorf("port %d arrived at %+v", 1000+i, v.packet)
		}
	}
	for _, port := range []uint16{999, 1004} {
		r.send(outsidePort, from{src: server, dst: external, sport: 5000, dport: port}.udp(t))
		r.none(verdict.HostOwned)
	}
}

// TestForwardedHostCallsOut: the inside endpoint's own flows have its external
// endpoint, towards every destination; its other ports are masqueraded.
func TestForwardedHostCallsOut(t *testing.T) {
	r := withForwards(t)
	for _, c := range []struct {
		src         uint32
		sport       uint16
		wantSrc     uint32
		wantSrcPort uint16
	}{
		{client, 8080, external, 80},
		{client, 8081, external, 8081},
		{client2, 2003, external, 1003},
		{client2, 2004, pooled, 2004}, // one-to-one
	} {
		r.send(insidePort, from{src: c.src, dst: server, sport: c.sport, dport: 53}.udp(t))
		if v := r.one(outsidePort); v.packet.Src != c.wantSrc || v.packet.SrcPort != c.wantSrcPort {
			t.Errorf("%08x:%d left as %08x:%d", c.src, c.sport, v.packet.Src, v.packet.SrcPort)
		}
	}
	r.send(insidePort, from{src: client, dst: excluded, sport: 8080, dport: 53}.udp(t))
	if v := r.one(outsidePort); v.packet.Src != client {
		t.Errorf("towards an excluded network as %08x", v.packet.Src)
	}
}

// TestForwardHairpin: RFC 4787 REQ-9: from inside, with an external source, whose
// answers find back.
func TestForwardHairpin(t *testing.T) {
	r := withForwards(t)
	r.send(insidePort, from{src: client2, dst: external, sport: 7000, dport: 80}.tcp(t, packet.TCPSyn))
	v := r.one(insidePort)
	if v.packet.Src != pooled || v.packet.SrcPort != 7000 || v.packet.Dst != client || v.packet.DstPort != 8080 {
		t.Fatalf("from a one-to-one host: %+v", v.packet)
	}
	r.send(insidePort, from{src: client, dst: pooled, sport: 8080, dport: 7000}.tcp(t, packet.TCPSyn|packet.TCPAck))
	if v = r.one(insidePort); v.packet.Src != external || v.packet.SrcPort != 80 || v.packet.Dst != client2 || v.packet.DstPort != 7000 {
		t.Fatalf("the answer: %+v", v.packet)
	}
	// To itself, by its own forward.
	r.send(insidePort, from{src: client, dst: external, sport: 7001, dport: 80}.tcp(t, packet.TCPSyn))
	if v = r.one(insidePort); v.packet.Src != external || v.packet.Dst != client || v.packet.DstPort != 8080 {
		t.Errorf("to itself: %+v", v.packet)
	}
	// To a one-to-one address: its ports are its host's, so the caller's are at the
	// pool's.
	r.send(insidePort, from{src: client, dst: pooled, sport: 7002, dport: 22}.tcp(t, packet.TCPSyn))
	if v = r.one(insidePort); v.packet.Src != external || v.packet.SrcPort != 7002 || v.packet.Dst != client2 || v.packet.DstPort != 22 {
		t.Errorf("to a one-to-one address: %+v", v.packet)
	}
	r.publish(func(s *Snapshot) { s.Hairpin = false })
	r.send(insidePort, from{src: client, dst: external, sport: 7003, dport: 80}.tcp(t, packet.TCPSyn))
	r.none(verdict.HairpinDisabled)
}

// TestOneToOne: every protocol and port, ping among them, both ways, and from
// inside (RFC 5508 REQ-7, hairpinned queries).
func TestOneToOne(t *testing.T) {
	r := withForwards(t)
	r.send(outsidePort, from{src: server, dst: pooled}.echo(t, packet.ICMPEchoRequest, 77))
	if v := r.one(insidePort); v.packet.Dst != client2 || v.icmp.Id != 77 {
		t.Fatalf("a ping from outside: %+v", v.packet)
	}
	r.send(insidePort, from{src: client2, dst: server}.echo(t, packet.ICMPEchoReply, 77))
	if v := r.one(outsidePort); v.packet.Src != pooled || v.icmp.Id != 77 {
		t.Errorf("its answer: %+v", v.packet)
	}
	r.send(insidePort, from{src: client2, dst: server}.echo(t, packet.ICMPEchoRequest, 78))
	if v := r.one(outsidePort); v.packet.Src != pooled || v.icmp.Id != 78 {
		t.Errorf("a ping from inside: %+v", v.packet)
	}
	r.send(insidePort, from{src: client, dst: pooled}.echo(t, packet.ICMPEchoRequest, 79))
	if v := r.one(insidePort); v.packet.Src != external || v.packet.Dst != client2 {
		t.Errorf("a ping between inside hosts: %+v", v.packet)
	}
	r.send(outsidePort, from{src: server, dst: pooled}.raw(t, packet.ProtoGRE, "gre"))
	if v := r.one(insidePort); v.packet.Dst != client2 {
		t.Errorf("GRE from outside: %+v", v.packet)
	}
	r.send(insidePort, from{src: client2, dst: server}.raw(t, packet.ProtoGRE, "gre"))
	if v := r.one(outsidePort); v.packet.Src != pooled {
		t.Errorf("GRE from inside: %+v", v.packet)
	}
	sent := from{src: server, dst: pooled, sport: 9, dport: 9}.udp(t)
	r.send(outsidePort, sent)
	arrived := r.one(insidePort)
	r.send(insidePort, from{src: client2, dst: server}.quote(t, 3, 3, arrived.raw, 28))
	v := r.one(outsidePort)
	var quoted packet.Packet
	packet.ParseQuoted(v.raw[v.packet.L4+packet.ICMPLength:], &quoted)
	if v.packet.Src != pooled || quoted.Dst != pooled || quoted.DstPort != 9 {
		t.Errorf("an error about it: %+v quoting %+v", v.packet, quoted)
	}
}

// TestForwardGone: what began under a forward that is gone does not begin again,
// and its flows are known by their tuples.
func TestForwardGone(t *testing.T) {
	r := withForwards(t)
	static := r.pointer.Load().Static
	r.send(outsidePort, from{src: server, dst: external, sport: 5000, dport: 80}.tcp(t, packet.TCPSyn))
	r.send(insidePort, from{src: client2, dst: external, sport: 7000, dport: 80}.tcp(t, packet.TCPSyn))
	r.send(insidePort, from{src: client, dst: server, sport: 8080, dport: 53}.udp(t))
	r.send(insidePort, from{src: client, dst: server, sport: 8081, dport: 53}.udp(t))
	ends := func(s *nat.Static) int {
		return r.table.EndWhere(func(f *conntrack.Snapshot) bool {
			return f.Kind == conntrack.PortForward && !s.Translates(f.Original, f.Reply)
		}, verdict.ForwardRemoved, r.now)
	}
	if n := ends(static); n != 0 {
		t.Fatalf("%d flows are taken for those of another forward", n)
	}
	if n := ends(nil); n != 3 {
		t.Errorf("%d flows end with the forwards, want 3", n)
	}
	if got := r.table.Count().Flows; got != 1 {
		t.Errorf("%d flows are left", got)
	}
	for i := range r.ports {
		r.ports[fib.PortID(i)].sent()
	}
}

// TestForwardAndOtherProtocolsAllocateNothing: not on the miss path either.
func TestForwardAndOtherProtocolsAllocateNothing(t *testing.T) {
	r := withForwards(t)
	frames := [][]byte{
		from{src: server, dst: external, sport: 5000, dport: 80}.udp(t), from{src: server, dst: pooled}.echo(t, packet.ICMPEchoRequest, 1),
	}
	inner := from{src: client, dst: server}.raw(t, packet.ProtoGRE, "gre")
	var p packet.Packet
	packet.Parse(inner, &p)
	var q [2]packet.Packet
	for i := range frames {
		packet.Parse(frames[i], &q[i])
	}
	if n := testing.AllocsPerRun(20, func() {
		r.worker.in = insidePort
		f, _, _ := r.worker.miss(&p, key(&p), nil)
		r.worker.flows.Retire(f, verdict.None)
		r.worker.in = outsidePort
		for i := range q {
			f, _, _ = r.worker.miss(&q[i], key(&q[i]), nil)
			r.worker.flows.Retire(f, verdict.None)
		}
		r.worker.flows.Quiesce()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
