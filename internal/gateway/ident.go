package gateway

import (
	"math/bits"
	"math/rand/v2"

	"sluice/internal/packet"
)

// keyed is a hash function that nobody outside can compute. It is no
// cryptography: it keeps others from aiming at a slot of a table.
type keyed [2]uint64

// newKeyed draws a function from the worker's seed. The seed's other use is
// the port search: the key comes from a stream apart, so that it tells
// nothing of the ports.
func newKeyed(seed [32]byte) keyed {
	seed[0] ^= 0xff
	r := rand.NewChaCha8(seed)
	return keyed{r.Uint64(), r.Uint64()}
}

// sum hashes two words by folded multiplication (as wyhash does).
func (k keyed) sum(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^k[0], b^k[1])
	return hi ^ lo
}

// identSlots is the number of counters that identifications come from.
const identSlots = 256

// idents gives IPv4 identifications to the packets that leave with an address of
// the gateway's. RFC 6864 wants them not to repeat, for as long as fragments
// may be on their way, among the packets of one source, destination and
// protocol. As in the hash-based algorithm of RFC 7739, a keyed hash of the three
// gives the place to start, and a counter that few others share the distance from
// it. The low bits are the worker's, so that two of them never meet.
type idents struct {
	keyed
	worker, shift uint32
	count         [identSlots]uint32
}

func newIdents(k keyed, worker, workers int) idents {
	return idents{keyed: k, worker: uint32(worker), shift: uint32(bits.Len(uint(max(workers-1, worker))))}
}

// next returns the next identification for a packet.
func (x *idents) next(src, dst uint32, proto uint8) uint16 {
	h := x.sum(uint64(src)<<32|uint64(dst), uint64(proto))
	n := &x.count[h%identSlots]
	*n++
	return uint16((uint32(h>>32)+*n)<<(x.shift&31) | x.worker)
}

// leastMTU is what every network carries in one piece (RFC 791 section 3.2).
const leastMTU = 68

// divisible reports whether the packet is a fragment, or somebody, here or further
// on, may divide it into fragments.
func divisible(p *packet.Packet) bool {
	return p.Is(packet.FlagFragment) || p.Length() > leastMTU && !p.Is(packet.FlagDontFragment)
}

// identify gives a packet that got another source an identification that is
// that source's: the hosts behind a NAT do not know of each other, and if two
// used the same one at the same time, the receiver would put fragments of both
// together (RFC 6864, RFC 7857 10). Those of one datagram get the same one.
func (w *Worker) identify(frame []byte, p *packet.Packet) {
	if p.Is(packet.FlagFragment) {
		packet.SetID(frame, p, w.nameDatagram(p))
		return
	}
	packet.SetID(frame, p, w.idents.next(p.Src, p.Dst, p.Proto))
}
