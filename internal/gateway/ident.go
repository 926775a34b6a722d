package gateway

import (
	"math/bits"
	"math/rand/v2"
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
	hi, lo = bits.Mul64(hi^lo^k[0], 0x9e3779b97f4a7c15)
	return hi ^ lo
}

// identSlots is the number of counters that identifications come from.
const identSlots = 256

// idents gives IPv4 identifications to the packets that leave in fragments, and
// to those made here. RFC 6864 4.3 wants them not to repeat, for as long as
// fragments may be on their way, among the packets of one source, destination
// and protocol; a NAT cannot keep those of the hosts behind it, since many of
// them become one source. As in RFC 7739 5.4, a keyed hash of the three gives the
// place to start, and a counter that few others share the distance from it. Each
// worker has its own residue class, so that two of them never meet.
type idents struct {
	keyed
	worker, workers uint32
	count           [identSlots]uint32
}

func newIdents(k keyed, worker, workers int) idents {
	return idents{keyed: k, worker: uint32(worker), workers: uint32(max(workers, worker+1))}
}

// next returns the next identification for a packet.
func (x *idents) next(src, dst uint32, proto uint8) uint16 {
	h := x.sum(uint64(src)<<32|uint64(dst), uint64(proto))
	n := &x.count[h%identSlots]
	*n++
	span := (1 << 16) / x.workers
	return uint16((uint32(h>>32)+*n)%span*x.workers + x.worker)
}
