package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// A router between the gateway and the backends, and the largest packet that it
// forwards.
var middle = ip("10.0.0.99")

const middleMTU = 1400

// behindMiddle is a flow to a backend by a dispatch with outer headers.
func behindMiddle(t *testing.T, dispatch dsr.Dispatch, proto uint8) *served {
	v := newServed(t, serviceSpec{mode: dsr.DSR, backends: backends[:], dispatch: dispatch})
	v.publish(func(s *Snapshot) { s.Balance.Paths = &PathMTUs{} })
	v.begun(t, proto)
	return v
}

// large sends a packet of the flow, n bytes long, with DF or not.
func (v *served) large(t *testing.T, proto uint8, n int, df bool) {
	header := 28
	if proto == packet.ProtoTCP {
		header = 40
	}
	f := from{src: server, dst: vip, sport: 40000, dport: servedPort, df: df, payload: string(bytes.Repeat([]byte{7}, n-header))}
	v.send(outsidePort, leg{proto: proto, from: f, flags: packet.TCPAck}.frame(t))
}

// told is a router's error about what left for the backend, quoting n bytes of it.
func told(t *testing.T, left view, code uint8, mtu uint16, n int) []byte {
	body := left.raw[packet.EthernetLength:]
	f := from{src: middle, dst: gatewayInside}
	return f.frame(t, f.ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(packet.ICMPUnreachable, code), Seq: mtu}, gopacket.Payload(body[:min(n, len(body))]))
}

// tooBigFor wants the client told of an MTU, in an error about its own packet.
func (v *served) tooBigFor(t *testing.T, mtu int) {
	t.Helper()
	e := v.one(outsidePort)
	_, q := quotedBy(t, e)
	if e.icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || int(e.icmp.Seq) != mtu {
		t.Errorf("%v with MTU %d, want %d", e.icmp.TypeCode, e.icmp.Seq, mtu)
	}
	if e.packet.Src != vip || e.packet.Dst != server || q.Src != server || q.SrcPort != 40000 || q.Dst != vip || q.DstPort != servedPort {
		t.Errorf("%v to %v about %+v", e.ip.SrcIP, e.ip.DstIP, q)
	}
}

// tunnelDispatches calls f for both dispatches with outer headers and both
// protocols, with the bytes that they add to a packet which is not the flow's first.
func tunnelDispatches(t *testing.T, f func(t *testing.T, dispatch dsr.Dispatch, proto uint8, added int)) {
	for _, c := range []struct {
		dispatch dsr.Dispatch
		proto    uint8
		added    int
	}{
		{dsr.IPIP, packet.ProtoTCP, 20}, {dsr.IPIP, packet.ProtoUDP, 20},
		{dsr.Geneve, packet.ProtoTCP, 50}, {dsr.Geneve, packet.ProtoUDP, 62},
	} {
		t.Run(fmt.Sprint(c.dispatch, "/", c.proto), func(t *testing.T) { f(t, c.dispatch, c.proto, c.added) })
	}
}

// TestOuterErrorTellsTheMTU: the client hears at once where the quote reaches into
// its packet, and with the next packet where it does not. What has no DF set is
// divided to fit. After ten minutes a larger packet is tried.
func TestOuterErrorTellsTheMTU(t *testing.T) {
	for _, quoted := range []int{28, 548} {
		tunnelDispatches(t, func(t *testing.T, dispatch dsr.Dispatch, proto uint8, added int) {
			v := behindMiddle(t, dispatch, proto)
			v.large(t, proto, 1438, true)
			v.send(insidePort, told(t, v.one(insidePort), fragmentationNeeded, middleMTU, quoted))
			if quoted > 28 {
				v.tooBigFor(t, middleMTU-added)
			} else if n := v.worker.counters.Services.PathMTUs; n != 1 || len(v.ports[outsidePort].sent()) > 0 {
				t.Errorf("%d counted", n)
			}
			v.large(t, proto, middleMTU-added+1, true)
			v.tooBigFor(t, middleMTU-added)
			v.large(t, proto, middleMTU-added, true)
			v.one(insidePort)

			v.large(t, proto, 1438, false)
			for _, frame := range v.ports[insidePort].sent() {
				if p := decode(t, frame); p.packet.Length() > middleMTU {
					t.Errorf("%d bytes left", p.packet.Length())
				}
			}
			v.pass(pathMTUMinutes * ticksPerMinute)
			v.large(t, proto, 1438, true)
			v.one(insidePort)
			v.balanced()
		})
	}
}

// TestOuterErrorIsRelayed: other errors reach the client too, with extensions
// (RFC 4884) cut off, whose place is behind the quote.
func TestOuterErrorIsRelayed(t *testing.T) {
	tunnelDispatches(t, func(t *testing.T, dispatch dsr.Dispatch, proto uint8, _ int) {
		v := behindMiddle(t, dispatch, proto)
		v.large(t, proto, 400, true)
		frame := told(t, v.one(insidePort), 1, 0, 128)
		m := frame[packet.EthernetLength+20:]
		extended := append(bytes.Clone(m), make([]byte, 12)...) // a header and an object, of zeroes
		extended[5] = 128 / 4
		binary.BigEndian.PutUint16(extended[2:], 0)
		binary.BigEndian.PutUint16(extended[2:], packet.Checksum(extended))
		f := from{src: middle, dst: gatewayInside}
		v.send(insidePort, f.frame(t, f.ipv4(layers.IPProtocolICMPv4), gopacket.Payload(extended)))
		e := v.one(outsidePort)
		_, q := quotedBy(t, e)
		if e.icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 1) || e.packet.Src != vip || q.Dst != vip || q.DstPort != servedPort || e.raw[e.packet.L4+5] != 0 {
			t.Errorf("%v from %v about %+v", e.icmp.TypeCode, e.ip.SrcIP, q)
		}
		if want := 128 - int(map[dsr.Dispatch]int{dsr.IPIP: 20, dsr.Geneve: 50}[dispatch]); len(e.icmp.Payload) > want {
			t.Errorf("%d bytes are quoted, of at most %d", len(e.icmp.Payload), want)
		}
	})
}

// TestOuterErrorRefused: nothing is learned from an error that quotes what was not
// sent to a backend, or that did not fit the MTU told; and no path is made narrower
// than any is.
func TestOuterErrorRefused(t *testing.T) {
	const short = 28
	for _, c := range []struct {
		name   string
		mtu    uint16
		change func(quote []byte)
		limit  uint16
		reason verdict.Reason
	}{
		{name: "plausible", mtu: middleMTU, limit: middleMTU},
		{name: "of an old router", mtu: 0, limit: lowestPathMTU},
		{name: "very small", mtu: 68, limit: lowestPathMTU},
		{name: "it would have fit", mtu: 1458, limit: 1500, reason: verdict.ICMPErrorWithoutFlow},
		{name: "to no backend", mtu: middleMTU, limit: 1500, reason: verdict.ICMPErrorWithoutFlow,
			change: func(q []byte) { binary.BigEndian.PutUint32(q[16:], ip("10.0.0.23")) }},
		{name: "from no address of the gateway", mtu: middleMTU, limit: 1500, reason: verdict.ICMPErrorWithoutFlow,
			change: func(q []byte) { binary.BigEndian.PutUint32(q[12:], ip("10.0.0.23")) }},
		{name: "of another protocol", mtu: middleMTU, limit: 1500, reason: verdict.ICMPErrorWithoutFlow,
			change: func(q []byte) { q[9] = packet.ProtoGRE }},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := behindMiddle(t, dsr.IPIP, packet.ProtoTCP)
			v.large(t, packet.ProtoTCP, 1438, true)
			left := v.one(insidePort)
			backend := left.packet.Dst
			if c.change != nil {
				q := left.raw[packet.EthernetLength:]
				c.change(q)
				binary.BigEndian.PutUint16(q[10:], 0)
				binary.BigEndian.PutUint16(q[10:], packet.Checksum(q[:20]))
			}
			v.send(insidePort, told(t, left, fragmentationNeeded, c.mtu, short))
			if got := v.pointer.Load().Balance.Paths.limit(backend, 1500, v.now); got != c.limit {
				t.Errorf("the path takes %d, want %d", got, c.limit)
			}
			if c.reason != verdict.None && v.drops(c.reason) != 1 {
				t.Errorf("drops: %v", v.allDrops())
			}
		})
	}
}

// TestOuterErrorImplausible: an error about a segment that the client cannot have
// sent (RFC 5927) is dropped, and nothing learned.
func TestOuterErrorImplausible(t *testing.T) {
	v := behindMiddle(t, dsr.IPIP, packet.ProtoTCP)
	v.large(t, packet.ProtoTCP, 1438, true)
	left := v.one(insidePort)
	binary.BigEndian.PutUint32(left.raw[packet.EthernetLength+20+20+4:], 1<<31)
	v.send(insidePort, told(t, left, fragmentationNeeded, middleMTU, 548))
	v.none(verdict.ICMPErrorImplausible)
	if got := v.pointer.Load().Balance.Paths.limit(left.packet.Dst, 1500, v.now); got != 1500 {
		t.Errorf("the path takes %d", got)
	}
}

// TestPathMTUs: what is known of one backend is not said of another, and two that
// share a slot forget each other.
func TestPathMTUs(t *testing.T) {
	var m PathMTUs
	var none *PathMTUs
	if none.limit(1, 1500, 0) != 1500 || m.limit(1, 1500, 0) != 1500 {
		t.Error("known without an error")
	}
	const at = conntrack.Tick(1<<16*ticksPerMinute - 1) // the minutes begin anew
	m.learn(1, 1400, at)
	other := uint32(2)
	for m.slot(other) != m.slot(1) {
		other++
	}
	if m.limit(1, 1500, at) != 1400 || m.limit(1, 1300, at) != 1300 || m.limit(other, 1500, at) != 1500 {
		t.Error("not what was learned")
	}
	if m.limit(1, 1500, at+ticksPerMinute) != 1400 || m.limit(1, 1500, at+pathMTUMinutes*ticksPerMinute) != 1500 {
		t.Error("forgotten at another time")
	}
	m.learn(other, 1350, at)
	if m.limit(1, 1500, at) != 1500 || m.limit(other, 1500, at) != 1350 {
		t.Error("two in one slot")
	}
}
