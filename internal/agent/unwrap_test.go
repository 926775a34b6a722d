package agent

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// outer says what a test changes in a request with an outer header.
type outer struct {
	tos, inner  uint8 // types of service
	flags       layers.IPv4Flag
	vni         uint32
	version     uint8
	control     bool
	protocol    uint16
	class       uint16
	nameless    bool
	syn         bool
	wrongHeader bool
}

// wrapped is a segment from the client in an outer header, as a gateway sends it.
func wrapped(t testing.TB, d Dispatch, o outer) []byte {
	inside := ipv4(client.String(), vipAddress, layers.IPProtocolTCP)
	inside.TOS = o.inner
	tcp := &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 1, ACK: !o.syn, SYN: o.syn}
	out := ipv4("10.0.0.254", backendAddress, layers.IPProtocolIPv4)
	out.TOS, out.Flags = o.tos, o.flags
	if d == IPIP {
		return damaged(packetOf(t, out, inside, tcp), o)
	}
	inside.DstIP = backend.AsSlice()
	out.Protocol = layers.IPProtocolUDP
	return damaged(packetOf(t, out, &layers.UDP{SrcPort: 1, DstPort: 6081}, o.geneve(t, inside, tcp)), o)
}

// geneve is the header (RFC 8926 3.4) with option and frame.
func (o *outer) geneve(t testing.TB, inside *layers.IPv4, tcp *layers.TCP) gopacket.Payload {
	head := []byte{o.version << 6, 0, byte(o.protocol >> 8), byte(o.protocol), byte(o.vni >> 16), byte(o.vni >> 8), byte(o.vni), 0}
	if o.control {
		head[1] = 0x80
	}
	if !o.nameless {
		head[0] |= 3 // words of options
		head = append(head, byte(o.class>>8), byte(o.class), 0x81, 2, 172, 18, 0, 2, 0x7d, 0, 0, 0)
	}
	return append(head, packetOf(t, inside, tcp)...)
}

func damaged(frame []byte, o outer) []byte {
	if o.wrongHeader {
		frame[14+10] ^= 1
	}
	return frame
}

func sound() outer { return outer{protocol: 0x6558, vni: 2, class: 0x014b, syn: true} }

var tunnels = map[Dispatch]uint32{IPIP: dispatchIPIP, Geneve: dispatchGeneve}

// TestOuterHeader: what is no dispatch of a service is left as it came, and counted;
// a segment of a flow that is not known is dropped.
func TestOuterHeader(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*outer)
		counter string
		verdict int32
		only    Dispatch // 0: both
	}{
		{name: "sound", change: func(*outer) {}, counter: "decapsulated"},
		{name: "world of a cluster with IPv6", change: func(o *outer) { o.vni = 9 }, counter: "decapsulated", only: Geneve},
		{name: "first fragment", change: func(o *outer) { o.flags = layers.IPv4MoreFragments }, counter: "outer-fragment"},
		{name: "checksum", change: func(o *outer) { o.wrongHeader = true }, counter: "outer-foreign"},
		{name: "another tunnel's VNI", change: func(o *outer) { o.vni = 4711 }, counter: "outer-foreign", only: Geneve},
		{name: "VNI with another upper byte", change: func(o *outer) { o.vni = 0x010002 }, counter: "outer-foreign", only: Geneve},
		{name: "version", change: func(o *outer) { o.version = 1 }, counter: "outer-foreign", only: Geneve},
		{name: "control packet", change: func(o *outer) { o.control = true }, counter: "outer-foreign", only: Geneve},
		{name: "what is inside", change: func(o *outer) { o.protocol = 0x0800 }, counter: "outer-foreign", only: Geneve},
		{name: "option", change: func(o *outer) { o.class = 0x0102 }, counter: "outer-foreign", only: Geneve},
		{name: "no service, no flow", change: func(o *outer) { o.nameless, o.syn = true, false }, counter: "flow-unknown", verdict: shot, only: Geneve},
	} {
		for d, setting := range tunnels {
			if c.only != Option && c.only != d {
				continue
			}
			t.Run(fmt.Sprint(d, "/", c.name), func(t *testing.T) {
				b := newBed(t, anyService|setting)
				o := sound()
				c.change(&o)
				frame := wrapped(t, d, o)
				want := c.verdict
				if want == 0 {
					want = next
				}
				verdict, ip, out := b.run(b.o.Request, frame)
				if verdict != want {
					t.Errorf("verdict %d, want %d", verdict, want)
				}
				b.counts(c.counter, 1)
				if c.counter != "decapsulated" {
					b.counts("learned", 0)
					if !bytes.Equal(out, frame) {
						t.Error("the packet changed")
					}
					return
				}
				if ip.SrcIP.String() != client.String() || ip.DstIP.String() != backendAddress {
					t.Errorf("inside: %s to %s", ip.SrcIP, ip.DstIP)
				}
				b.leaves(vipAddress, answer(t, 2, "SA"))
			})
		}
	}
}

// TestOuterFlowKnown: a segment that names no service is its flow's.
func TestOuterFlowKnown(t *testing.T) {
	b := newBed(t, anyService|dispatchGeneve)
	b.delivered(next, wrapped(t, Geneve, sound()))
	o := sound()
	o.nameless, o.syn = true, false
	b.delivered(next, wrapped(t, Geneve, o))
	b.counts("request", 2)
}

// TestOuterCongestion is figure 4 of RFC 6040, both dispatches: what the packet
// inside says after both headers; -1 for its loss.
func TestOuterCongestion(t *testing.T) {
	const none, ect1, ect0, ce, lost = 0, 1, 2, 3, -1
	figure := map[uint8]map[uint8]int{ // inner, outer
		none: {none: none, ect0: none, ect1: none, ce: lost},
		ect0: {none: ect0, ect0: ect0, ect1: ect1, ce: ce},
		ect1: {none: ect1, ect0: ect1, ect1: ect1, ce: ce},
		ce:   {none: ce, ect0: ce, ect1: ce, ce: ce},
	}
	const dscp = 46 << 2
	for d, setting := range tunnels {
		b := newBed(t, anyService|setting)
		for inner, row := range figure {
			for out, want := range row {
				o := sound()
				o.tos, o.inner = out, dscp|inner
				dropped := b.count("outer-congestion")
				verdict, ip, frame := b.run(b.o.Request, wrapped(t, d, o))
				if want == lost {
					if verdict != shot || b.count("outer-congestion") != dropped+1 {
						t.Errorf("%v: inner %d, outer %d: verdict %d", d, inner, out, verdict)
					}
					continue
				}
				if verdict != next || int(ip.TOS) != dscp|want {
					t.Errorf("%v: inner %d, outer %d: verdict %d, type of service %#x, want %#x", d, inner, out, verdict, ip.TOS, dscp|want)
				}
				(&rig{t: t}).checkSums(frame)
			}
		}
	}
}
