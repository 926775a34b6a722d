package conntrack

import (
	"math/bits"
	"unsafe"
)

// Tick is a point in time, or a span: tenths of a second of CLOCK_MONOTONIC.
// Differences are taken modulo 2^32, which wraps after 13 years.
type Tick uint32

// TicksPerSecond converts seconds to Ticks.
const TicksPerSecond = 10

// Tuple is what a packet is looked up by: its five-tuple as it arrives, and the
// zone it arrives in. Addresses and ports are in host byte order. Ports of an
// ICMP echo are those that packet.Packet gives it.
type Tuple struct {
	Src, Dst         uint32
	SrcPort, DstPort uint16
	Zone             uint16 // 0; later VLAN, VRF, tenant
	Proto            uint8
	pad              uint8 // 0
}

// Reverse is the tuple of a packet that answers t where nothing is translated.
func (t Tuple) Reverse() Tuple {
	t.Src, t.Dst = t.Dst, t.Src
	t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	return t
}

// Direction says which of a flow's tuples a packet has.
type Direction uint8

const (
	Original Direction = iota // as the flow's first packet
	Reply
)

// Opposite is the other direction.
func (d Direction) Opposite() Direction { return d ^ 1 }

// String returns "original" or "reply".
func (d Direction) String() string {
	if d == Original {
		return "original"
	}
	return "reply"
}

// key is what the index finds a record by: two words, the same form for all
// kinds. The top byte of the second is the domain, which keeps a mapping from
// ever looking like a flow. An IPv6 key will be longer and live in records, and
// an index, of its own.
type key struct{ a, b uint64 } // a struct, not an array: the compiler keeps it in registers

const (
	domainFlow uint64 = iota << 56
	domainMapping
	domainSource
	domainTowards // a mapping towards one address
	domainPeer    // a mapping by its external endpoint and a peer's address
)

// words views a tuple as two words, which compare and hash as fast as 16 bytes
// can: the compiler compares field by field. A Tuple has no padding and holds no
// pointer, so any view of its bytes is good; both processors that we run on take
// a word that is aligned to 4 bytes only.
func (t *Tuple) words() *[2]uint64 { return (*[2]uint64)(unsafe.Pointer(t)) }

// key is the tuple's. The pad, in the place of the domain, is domainFlow: 0.
func (t *Tuple) key() key {
	w := t.words()
	return key{w[0], w[1]}
}

// mappingKey is a mapping's: endpoint-independent mapping holds for each
// external address (RFC 4787 REQ-1), so that is part of the key.
func mappingKey(proto uint8, inside uint32, port, zone uint16, external uint32) key {
	return key{
		uint64(inside) | uint64(external)<<32,
		uint64(port) | uint64(zone)<<32 | uint64(proto)<<48 | domainMapping,
	}
}

func sourceKey(addr uint32, zone uint16) key {
	return key{uint64(addr), uint64(zone)<<32 | domainSource}
}

// seed keys the hash. It is random for each table, so that nobody outside can
// choose tuples that meet in one bucket.
type seed [2]uint64

// mix multiplies to 128 bits and folds: every bit of the result depends on
// every bit of both factors (wyhash's primitive).
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

const (
	prime0 = 0xa0761d6478bd642f // wyhash's secrets
	prime1 = 0xe7037ed1a0b428db
	golden = 0x9e3779b97f4a7c15 // 2^64 / φ, odd
)

// hash is wyhash for 16 bytes. The second round is what makes differences in
// the key unrelated to differences in the hash even where one factor of the
// first happens to be small.
func (s *seed) hash(k key) uint64 {
	return mix(prime1^16, mix(k.a^s[0]^prime0, k.b^s[1]))
}

// reduce maps a hash to [0, n) by its high bits, without a division.
func reduce(h uint64, n uint32) uint32 {
	hi, _ := bits.Mul64(h, uint64(n))
	return uint32(hi)
}
