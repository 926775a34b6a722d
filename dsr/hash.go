package dsr

import (
	"encoding/binary"
	"math/bits"
)

// The hashes are Cilium's, since both ends of a Maglev table must agree.

const (
	// From Cilium's default maglev.hashSeed, "JLfvgnHc2kaSUFaI": the base64 of three
	// big-endian words. The third one is IPv6's.
	murmurSeed = 0x24b7ef82
	jhashSeed  = 0x71dcda46
)

// jhash is the kernel's jhash_3words (include/linux/jhash.h).
func jhash(a, b, c, seed uint32) uint32 {
	const initval = 0xdeadbeef
	seed += initval + 3<<2
	a, b, c = a+seed, b+seed, c+seed
	c ^= b
	c -= bits.RotateLeft32(b, 14)
	a ^= c
	a -= bits.RotateLeft32(c, 11)
	b ^= a
	b -= bits.RotateLeft32(a, 25)
	c ^= b
	c -= bits.RotateLeft32(b, 16)
	a ^= c
	a -= bits.RotateLeft32(c, 4)
	b ^= a
	b -= bits.RotateLeft32(a, 14)
	c ^= b
	c -= bits.RotateLeft32(b, 24)
	return c
}

// tupleHash is hash_from_tuple_v4 of bpf/lib/hash.h: addresses and ports as the
// bytes on the wire, read as little-endian numbers.
func tupleHash(src uint32, srcPort, dstPort uint16, proto uint8, seed uint32) uint32 {
	ports := uint32(bits.ReverseBytes16(dstPort))<<16 | uint32(bits.ReverseBytes16(srcPort))
	return jhash(bits.ReverseBytes32(src), ports, uint32(proto), seed)
}

// murmur is MurmurHash3_x64_128 (Austin Appleby, public domain).
func murmur(data []byte, seed uint32) (h1, h2 uint64) {
	const c1, c2 = 0x87c37b91114253d5, 0x4cf5ad432745937f
	h1, h2 = uint64(seed), uint64(seed)
	n := len(data)
	for ; len(data) >= 16; data = data[16:] {
		k1, k2 := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
		h1 ^= bits.RotateLeft64(k1*c1, 31) * c2
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52dce729
		h2 ^= bits.RotateLeft64(k2*c2, 33) * c1
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495ab5
	}
	var tail [16]byte
	copy(tail[:], data)
	// A tail of zeros adds nothing, so that its length need not be asked.
	h2 ^= bits.RotateLeft64(binary.LittleEndian.Uint64(tail[8:])*c2, 33) * c1
	h1 ^= bits.RotateLeft64(binary.LittleEndian.Uint64(tail[:])*c1, 31) * c2
	h1 ^= uint64(n)
	h2 ^= uint64(n)
	h1 += h2
	h2 += h1
	h1, h2 = murmurMix(h1), murmurMix(h2)
	h1 += h2
	h2 += h1
	return h1, h2
}

func murmurMix(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}
