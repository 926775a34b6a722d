package gateway

import (
	"bytes"
	"fmt"

	"sluice/internal/fib"
	"sluice/internal/packet"
)

// control is a flow whose every packet is looked at: it must leave with what the
// flow's first one left with.
type control struct {
	name   string
	on     fib.PortID // where its packets in the original direction arrive
	call   from
	proto  uint8
	direct bool // the backend answers with the service's address
	said   int
	left   string // endpoints in the original direction, once known
}

// newControls are flows of each kind that there is, of one of several workers.
func newControls(n uint16) []*control {
	out := from{src: neighbour, dst: witness, sport: 47000 + 100*n, dport: 443}
	away, service, direct, forward, whole := out, out, out, out, out
	away.dst = excluded
	service.src, service.dst, service.dport = witness, vip, servedPort
	direct.src, direct.dst, direct.dport = witness, vip2, servedPort
	forward.src, forward.dst, forward.dport = witness, external, 80
	whole.src, whole.dst, whole.dport = witness, pooled, 80
	return []*control{
		{name: "masqueraded TCP", on: insidePort, call: out, proto: packet.ProtoTCP},
		{name: "masqueraded UDP", on: insidePort, call: out, proto: packet.ProtoUDP},
		{name: "masqueraded echo", on: insidePort, call: out, proto: packet.ProtoICMP},
		{name: "forwarded TCP", on: insidePort, call: away, proto: packet.ProtoTCP},
		{name: "balanced TCP", on: outsidePort, call: service, proto: packet.ProtoTCP},
		{name: "balanced UDP", on: outsidePort, call: service, proto: packet.ProtoUDP},
		{name: "direct TCP", on: outsidePort, call: direct, proto: packet.ProtoTCP, direct: true},
		{name: "direct UDP", on: outsidePort, call: direct, proto: packet.ProtoUDP, direct: true},
		{name: "TCP to a forwarded port", on: outsidePort, call: forward, proto: packet.ProtoTCP},
		{name: "UDP to a one-to-one address", on: outsidePort, call: whole, proto: packet.ProtoUDP},
	}
}

// open begins the flow.
func (k *control) open(r *rig) {
	if k.proto == packet.ProtoTCP {
		k.exchange(r, packet.TCPSyn, packet.TCPSyn|packet.TCPAck)
	}
	k.talk(r)
}

// talk says something in both directions.
func (k *control) talk(r *rig) { k.exchange(r, packet.TCPAck, packet.TCPAck) }

func (k *control) exchange(r *rig, there, back uint8) {
	k.said++
	k.call.payload = fmt.Sprintf("%s: %d of %d", k.name, k.said, k.call.sport)
	r.send(k.on, k.frame(r, k.call, there, packet.ICMPEchoRequest))
	v := k.arrived(r, 1-k.on)
	if v == nil {
		return
	}
	if k.left == "" {
		k.left = k.endpoints(v)
	}
	if got := k.endpoints(v); got != k.left {
		r.t.Errorf("%s: left as %s, and before as %s", k.name, got, k.left)
	}
	answer := from{src: v.packet.Dst, dst: v.packet.Src, sport: v.packet.DstPort, dport: v.packet.SrcPort, payload: k.call.payload + ", answered"}
	if k.direct {
		answer.src, answer.sport = k.call.dst, k.call.dport
	}
	id := answer
	if k.proto == packet.ProtoICMP {
		id.sport = answer.dport
	}
	r.send(1-k.on, k.frame(r, id, back, packet.ICMPEchoReply))
	v = k.arrived(r, k.on)
	want := fmt.Sprintf("%v > %v", fib.Addr(k.call.dst), fib.Addr(k.call.src))
	if k.proto != packet.ProtoICMP {
		want = fmt.Sprintf("%v:%d > %v:%d", fib.Addr(k.call.dst), k.call.dport, fib.Addr(k.call.src), k.call.sport)
	}
	if v == nil {
		return
	}
	if got := k.endpoints(v); got != want || k.proto == packet.ProtoICMP && v.icmp.Id != k.call.sport {
		r.t.Errorf("%s: the answer left as %s, want %s", k.name, got, want)
	}
}

// frame is a packet of the flow's.
func (k *control) frame(r *rig, f from, flags, typ uint8) []byte {
	switch k.proto {
	case packet.ProtoTCP:
		return f.tcp(r.t, flags)
	case packet.ProtoUDP:
		return f.udp(r.t)
	}
	return f.echo(r.t, typ, f.sport)
}

// arrived finds the one frame that carries what was said. Others are left where
// they are.
func (k *control) arrived(r *rig, on fib.PortID) *view {
	said := []byte(k.call.payload)
	var found *view
	for _, frame := range r.ports[on].tx {
		if !bytes.Contains(frame, said) {
			continue
		}
		if found != nil {
			r.t.Errorf("%s: packet %d left twice", k.name, k.said)
		}
		v := decode(r.t, frame)
		found = &v
	}
	if found == nil {
		r.t.Errorf("%s: packet %d did not leave by port %d; drops %v", k.name, k.said, on, r.allDrops())
	}
	return found
}

// endpoints says where a packet goes from and to, as gopacket sees it.
func (k *control) endpoints(v *view) string {
	if k.proto == packet.ProtoICMP {
		return fmt.Sprintf("%v > %v", v.ip.SrcIP, v.ip.DstIP)
	}
	return endpoints(*v)
}
