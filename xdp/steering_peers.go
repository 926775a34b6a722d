package xdp

import "unsafe"

// peerSlots is the length of struct peers of the C source.
const peerSlots = 1 << 16

// Peers are the 65536 slots in which the flows of protocols without ports are
// counted, and the seed of the keyed hash that chooses one by external address,
// peer and protocol: the program takes a packet whose slot is not 0 for NAT's. The
// words are shared with the program and accessed atomically.
func (s *Steering) Peers() (slots []uint32, seed uint64) {
	// A mapped word holds two slots and is aligned for both.
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(s.peers))), peerSlots), s.peerSeed
}
