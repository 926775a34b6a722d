package dsr

import (
	"encoding/binary"

	"sluice/conntrack"
	"sluice/internal/packet"
)

// Lengths of a Geneve encapsulation (RFC 8926) in bytes: outer IPv4 and UDP, the
// Geneve header and the inner Ethernet header; and the option.
const (
	GeneveLen       = 20 + 8 + 8 + 14
	GeneveOptionLen = 12
)

const (
	// GenevePort is the UDP port that Geneve is sent to.
	GenevePort = 6081

	udpLen          = 8
	geneveHeader    = 8
	geneveBridging  = 0x6558 // what is inside: Ethernet
	geneveWorld     = 2      // the VNI: Cilium's identity of what is outside a cluster
	geneveClass     = 0x014b // Cilium's
	geneveType      = 0x81   // critical, 1
	geneveOuterTTL  = 63     // 64, and one hop through the sender's own routing
	dontFragment    = 0x4000
	geneveWordCount = 2
)

// GeneveSourcePort is the outer source port for a flow, by which receivers spread
// load: Cilium's XDP program hashes the tuple towards the backend, but for that
// one's address.
func GeneveSourcePort(t *conntrack.Tuple) uint16 { return geneveSourcePort(t, jhashSeed) }

func geneveSourcePort(t *conntrack.Tuple, seed uint32) uint16 {
	h := tupleHash(t.Src, t.DstPort, t.SrcPort, t.Proto, seed)
	raw := uint16(h>>16) ^ uint16(h)
	return raw<<8 | raw>>8
}

// EncapsulateGeneve puts outer headers before a frame whose packet already goes to
// the backend, and returns how many of the bytes in front of it they take: b is
// the frame with GeneveLen and, where the service is to be named, GeneveOptionLen
// bytes in front. vip 0 names none.
func EncapsulateGeneve(b []byte, src, dst uint32, srcPort uint16, vip uint32, port uint16) int {
	n := GeneveLen
	if vip != 0 {
		n += GeneveOptionLen
	}
	inner := len(b) - n // with its Ethernet header, which stays where it is
	copy(b, b[n:n+ethernet])
	h := b[ethernet:]
	h[0], h[1] = 0x45, 0
	binary.BigEndian.PutUint16(h[2:], uint16(n-ethernet+inner))
	// No identification, so it must never be divided (RFC 6864 4.1).
	binary.BigEndian.PutUint16(h[4:], 0)
	binary.BigEndian.PutUint16(h[6:], dontFragment)
	finishOuter(h[:baseHeader], geneveOuterTTL, packet.ProtoUDP, src, dst)

	u := h[baseHeader:]
	binary.BigEndian.PutUint16(u, srcPort)
	binary.BigEndian.PutUint16(u[2:], GenevePort)
	binary.BigEndian.PutUint16(u[4:], uint16(n-ethernet-baseHeader+inner))
	binary.BigEndian.PutUint16(u[6:], 0) // RFC 6935: none

	g := u[udpLen:]
	clear(g[:geneveHeader])
	binary.BigEndian.PutUint16(g[2:], geneveBridging)
	g[6] = geneveWorld
	if vip == 0 {
		return n
	}
	// As Cilium has it: the option is critical by its type, and the header's bit for
	// that (RFC 8926 3.4, C) is clear.
	g[0] = 3 // words of options
	o := g[geneveHeader:]
	binary.BigEndian.PutUint16(o, geneveClass)
	o[2], o[3] = geneveType, geneveWordCount
	binary.BigEndian.PutUint32(o[4:], vip)
	binary.BigEndian.PutUint16(o[8:], port)
	o[10], o[11] = 0, 0
	return n
}

// DecapsulateGeneve returns where in an IPv4 packet the frame inside begins, and
// the service that an option names; vip is 0 where none does. ok is false where it
// is no Geneve packet of Cilium's kind, or has a critical option that is unknown
// (RFC 8926 3.5).
func DecapsulateGeneve(p []byte) (at int, vip uint32, port uint16, ok bool) {
	n, ok := outerHeader(p, packet.ProtoUDP)
	if !ok || len(p) < n+udpLen+geneveHeader || binary.BigEndian.Uint16(p[n+2:]) != GenevePort {
		return 0, 0, 0, false
	}
	g := p[n+udpLen:]
	options := int(g[0]&0x3f) * 4
	if g[0]>>6 != 0 || binary.BigEndian.Uint16(g[2:]) != geneveBridging || len(g) < geneveHeader+options+ethernet+baseHeader {
		return 0, 0, 0, false
	}
	for o := g[geneveHeader : geneveHeader+options]; len(o) > 0; {
		size := 4
		if len(o) >= 4 {
			size += int(o[3]&0x1f) * 4
		}
		if len(o) < size {
			return 0, 0, 0, false
		}
		switch {
		case binary.BigEndian.Uint16(o) == geneveClass && o[2] == geneveType && size == GeneveOptionLen:
			vip, port = binary.BigEndian.Uint32(o[4:]), binary.BigEndian.Uint16(o[8:])
		case o[2]&0x80 != 0:
			return 0, 0, 0, false
		}
		o = o[size:]
	}
	return n + udpLen + geneveHeader + options, vip, port, true
}
