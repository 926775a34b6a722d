package gateway

import (
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// The tests of this file hold the worker to requirements of docs/rfc.md that
// span several packages.

// sweep lets every flow that has been silent for too long end.
func (r *rig) sweep() {
	for range 4 {
		r.worker.Idle(r.now, 4096)
	}
}

// TestSimultaneousOpen: RFC 5382 REQ-2a. Both ends send a SYN before they see
// the other's; all four segments pass, and the connection lives on as an
// established one.
func TestSimultaneousOpen(t *testing.T) {
	r := newRig(t)
	c := from{src: client, dst: server, sport: 40000, dport: 443}
	s := from{src: server, dst: external, sport: 443, dport: 40000}
	for _, step := range []struct {
		on    fib.PortID
		frame []byte
	}{
		{insidePort, c.tcp(t, packet.TCPSyn)},
		{outsidePort, s.tcp(t, packet.TCPSyn)},
		{insidePort, c.tcp(t, packet.TCPSyn|packet.TCPAck)},
		{outsidePort, s.tcp(t, packet.TCPSyn|packet.TCPAck)},
	} {
		r.send(step.on, step.frame)
		r.one(insidePort + outsidePort - step.on)
	}
	r.now += conntrack.DefaultTimeouts().TCPEstablished
	r.send(outsidePort, s.tcp(t, packet.TCPAck))
	r.one(insidePort)
}

// TestResetKeepsTheFlow: RFC 7857 2.2. A RST is translated, but does not end the
// flow: for four minutes what is still on the way passes, and a connection whose
// alleged resetter goes on is an established one again.
func TestResetKeepsTheFlow(t *testing.T) {
	c := from{src: client, dst: server, sport: 40000, dport: 443}
	s := from{src: server, dst: external, sport: 443, dport: 40000}
	open := func() *rig {
		r := newRig(t)
		r.send(insidePort, c.tcp(t, packet.TCPSyn))
		r.one(outsidePort)
		r.send(outsidePort, s.tcp(t, packet.TCPSyn|packet.TCPAck))
		r.one(insidePort)
		r.send(insidePort, c.tcp(t, packet.TCPAck))
		r.one(outsidePort)
		r.send(outsidePort, s.tcp(t, packet.TCPRst))
		if v := r.one(insidePort); !v.tcp.RST || dst(v) != "10.0.0.5" || v.tcp.DstPort != 40000 {
			t.Fatalf("the reset arrived at %v:%v", dst(v), v.tcp.DstPort)
		}
		return r
	}
	const rest = 4 * 60 * conntrack.TicksPerSecond

	r := open()
	r.now += rest
	r.sweep()
	r.send(insidePort, c.tcp(t, packet.TCPFin|packet.TCPAck))
	r.one(outsidePort)

	r = open()
	r.now += rest + 1
	r.sweep()
	if n := r.table.Count(); n.Flows != 0 || n.Mappings != 0 {
		t.Errorf("after four minutes of silence: %+v", n)
	}

	r = open()
	r.send(outsidePort, s.tcp(t, packet.TCPAck))
	r.one(insidePort)
	r.now += conntrack.DefaultTimeouts().TCPEstablished
	r.sweep()
	r.send(insidePort, c.tcp(t, packet.TCPAck))
	r.one(outsidePort)
}

// TestRefresh: RFC 4787 REQ-6: outbound packets keep a mapping, and here inbound
// ones do as well. REQ-12 and RFC 5508 REQ-6: ICMP errors neither keep nor
// end one.
func TestRefresh(t *testing.T) {
	timeout := conntrack.DefaultTimeouts().UDP
	out := from{src: client, dst: server, sport: 4000, dport: 53}
	back := from{src: server, dst: external, sport: 53, dport: 4000}
	for _, tt := range []struct {
		name  string
		on    fib.PortID
		frame func(left, delivered view) []byte
		keeps bool
	}{
		{"an outbound packet", insidePort, func(view, view) []byte { return out.udp(t) }, true},
		{"an inbound packet", outsidePort, func(view, view) []byte { return back.udp(t) }, true},
		{"an error from outside", outsidePort, func(left, _ view) []byte {
			return from{src: router, dst: external}.quote(t, packet.ICMPUnreachable, 1, left.raw, 28)
		}, false},
		{"an error from inside", insidePort, func(_, delivered view) []byte {
			return from{src: client, dst: server}.quote(t, packet.ICMPUnreachable, 3, delivered.raw, 28)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.send(insidePort, out.udp(t))
			left := r.one(outsidePort)
			r.send(outsidePort, back.udp(t))
			delivered := r.one(insidePort)

			r.now += timeout
			r.send(tt.on, tt.frame(left, delivered))
			r.one(insidePort + outsidePort - tt.on) // it passes, so the flow was alive
			if n := r.table.Count(); n.Flows != 1 || n.Mappings != 1 {
				t.Fatalf("it ended the flow: %+v", n)
			}
			r.now += timeout
			r.sweep()
			if n := r.table.Count(); (n.Mappings == 1) != tt.keeps {
				t.Errorf("%d mappings a time-out later, kept: want %v", n.Mappings, tt.keeps)
			}
		})
	}
}

// TestOutboundRefresh: RFC 4787 REQ-6, RFC 7857 7. Where inbound packets do not
// refresh, they pass and are counted, and what the inside host sends alone puts off the
// end of its UDP flow; TCP and the flows of other kinds do not change.
func TestOutboundRefresh(t *testing.T) {
	timeout := conntrack.DefaultTimeouts().UDP
	out := from{src: client, dst: server, sport: 4000, dport: 53}
	back := from{src: server, dst: external, sport: 53, dport: 4000}
	for _, inbound := range []bool{true, false} {
		r := newRig(t, func(_ *rig, s *Snapshot) { s.OutboundUDP = !inbound })
		r.send(insidePort, out.udp(t))
		r.one(outsidePort)
		r.send(outsidePort, back.udp(t))
		r.one(insidePort)
		for range 3 {
			r.now += timeout / 2
			r.send(outsidePort, back.udp(t))
			if n := len(r.ports[insidePort].sent()); n != 1 && inbound {
				t.Fatalf("an answer did not pass; drops %v", r.allDrops())
			}
		}
		r.sweep()
		if n := r.table.Count().Flows; (n == 1) != inbound {
			t.Errorf("inbound packets refresh: %v, and %d flows are left", inbound, n)
		}
	}
	r := newRig(t, func(_ *rig, s *Snapshot) { s.OutboundUDP = true })
	r.send(insidePort, out.udp(t))
	r.send(outsidePort, back.udp(t))
	for range 3 {
		r.now += timeout
		r.send(insidePort, out.udp(t))
	}
	flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: client, Dst: server, SrcPort: 4000, DstPort: 53, Proto: packet.ProtoUDP}, r.now)
	if flow == nil || flow.State() != conntrack.UDPReplied || flow.Packets(conntrack.Reply) != 1 || flow.Packets(conntrack.Original) != 4 {
		t.Errorf("the flow is %+v", flow)
	}
}

// TestHairpinnedError: RFC 5508 REQ-7. An inside host answers a hairpinned packet
// with an error; its sender gets it from the external address that it wrote
// to, about the packet that it sent.
func TestHairpinnedError(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	r.send(insidePort, from{src: client2, dst: external, sport: 7000, dport: 4000, payload: "hello"}.udp(t))
	delivered := r.one(insidePort)
	r.send(insidePort, from{src: client, dst: external}.quote(t, packet.ICMPUnreachable, 3, delivered.raw, 28))
	v := r.one(insidePort)
	if src(v) != "192.0.2.1" || dst(v) != "10.0.0.6" {
		t.Fatalf("the error went %v → %v", src(v), dst(v))
	}
	var q packet.Packet
	if reason := packet.ParseQuoted(v.raw[v.packet.L4+packet.ICMPLength:v.packet.End], &q); reason != verdict.None {
		t.Fatal(reason)
	}
	if q.Src != client2 || q.SrcPort != 7000 || q.Dst != external || q.DstPort != 4000 {
		t.Errorf("it quotes %+v", q)
	}
}
