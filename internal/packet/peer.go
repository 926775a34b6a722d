package packet

const (
	peerGolden = 0x9e3779b97f4a7c15 // 2^64 / φ, odd
	peerFactor = 0xd6e8feb86659fd93 // of rrmxmx, a well-tested mixer of 64 bits
)

// PeerSlot is a keyed hash of what flows of a protocol without ports are told apart
// by at an external address. steering.c has the same function.
func PeerSlot(seed uint64, external, peer uint32, proto uint8) uint16 {
	x := (uint64(external)<<32 | uint64(peer)) + uint64(proto)*peerGolden
	x ^= seed
	x ^= x >> 32
	x *= peerFactor
	x ^= x >> 32
	x *= peerFactor
	x ^= x >> 32
	return uint16(x)
}
