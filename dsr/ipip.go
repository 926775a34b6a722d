package dsr

import (
	"encoding/binary"

	"sluice/internal/packet"
)

// Dispatch is how a service's address and port travel to a backend.
type Dispatch uint8

const (
	Option Dispatch = iota // in an IPv4 option
	IPIP                   // in the packet itself, behind another IPv4 header
	Geneve                 // in an option of a Geneve header
)

// String returns the dispatch's word in the configuration.
func (d Dispatch) String() string {
	switch d {
	case IPIP:
		return "ipip"
	case Geneve:
		return "geneve"
	}
	return "option"
}

// Overhead is by how many bytes a packet that carries the address is longer.
func (d Dispatch) Overhead() int {
	switch d {
	case IPIP:
		return IPIPLen
	case Geneve:
		return GeneveLen + GeneveOptionLen
	}
	return OptionLen
}

// Bare is Overhead for a packet that does not carry the address.
func (d Dispatch) Bare() int {
	switch d {
	case IPIP:
		return IPIPLen
	case Geneve:
		return GeneveLen
	}
	return 0
}

// Wraps reports whether a packet from the gateway to a backend, of an IP protocol
// and to a port of it, is one that carries a client's in outer headers.
func (d Dispatch) Wraps(proto uint8, port uint16) bool {
	switch d {
	case IPIP:
		return proto == packet.ProtoIPIP
	case Geneve:
		return proto == packet.ProtoUDP && port == GenevePort
	}
	return false
}

// Inside returns where in an IPv4 packet the one begins that its outer headers
// carry, the beginning of which must be there.
func (d Dispatch) Inside(p []byte) (at int, ok bool) {
	switch d {
	case IPIP:
		return DecapsulateIPIP(p)
	case Geneve:
		at, _, _, ok = DecapsulateGeneve(p)
		return at + ethernet, ok
	}
	return 0, false
}

const (
	// IPIPLen is the length of the outer header in bytes.
	IPIPLen = 20

	outerTTL = 64
)

// EncapsulateIPIP puts an outer header before the packet in a frame: from src, the
// gateway, to dst, the backend; the packet goes on from the client to the service.
// b is the frame with IPIPLen bytes in front. Type of service, identification and
// DF are the inner packet's, as Cilium's XDP program has it (RFC 2003 3.1 leaves the
// identification open). Of a fragment the outer packet is a whole one all the same:
// with the bits of the inner one, which Cilium copies as well, a receiver would put
// outer packets together.
func EncapsulateIPIP(b []byte, src, dst uint32) {
	copy(b, b[IPIPLen:IPIPLen+ethernet])
	inner := b[IPIPLen+ethernet:]
	h := b[ethernet : ethernet+IPIPLen]
	h[0] = 0x45
	h[1] = inner[1]
	binary.BigEndian.PutUint16(h[2:], binary.BigEndian.Uint16(inner[2:])+IPIPLen)
	copy(h[4:6], inner[4:6])
	binary.BigEndian.PutUint16(h[6:], binary.BigEndian.Uint16(inner[6:])&dontFragment)
	finishOuter(h, outerTTL, packet.ProtoIPIP, src, dst)
}

// finishOuter writes the second half of an outer header.
func finishOuter(h []byte, ttl, proto uint8, src, dst uint32) {
	h[8], h[9], h[10], h[11] = ttl, proto, 0, 0
	binary.BigEndian.PutUint32(h[12:], src)
	binary.BigEndian.PutUint32(h[16:], dst)
	binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:baseHeader]))
}

// DecapsulateIPIP returns where in an IPv4 packet the packet inside begins. ok is
// false where there is none, or a fragment of one.
func DecapsulateIPIP(p []byte) (at int, ok bool) {
	n, ok := outerHeader(p, packet.ProtoIPIP)
	if !ok || len(p) < n+baseHeader || p[n]>>4 != 4 {
		return 0, false
	}
	return n, true
}

// outerHeader is the length of a packet's header, if it is whole and of proto.
func outerHeader(p []byte, proto uint8) (n int, ok bool) {
	if len(p) < baseHeader || p[0]>>4 != 4 || p[9] != proto {
		return 0, false
	}
	n = int(p[0]&15) * 4
	const moreOrOffset = 0x3fff
	return n, n >= baseHeader && len(p) >= n && binary.BigEndian.Uint16(p[6:])&moreOrOffset == 0
}
