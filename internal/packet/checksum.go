package packet

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds the 16-bit words of b, in network byte order, to sum, in one's
// complement arithmetic. An odd last byte counts as the high half of a word
// (RFC 1071 section 4.1). The result is not folded to 16 bits; fold it with
// Fold, or pass it on to sum what follows, provided that b's length was even.
//
// The loop adds 8 bytes at a time with the carry brought round: 2^64-1 is a
// multiple of 2^16-1, so that a 64-bit one's complement sum folds to the 16-bit
// one (RFC 1071 section 2(C)).
func Sum(b []byte, sum uint32) uint32 {
	acc, carry := uint64(sum), uint64(0)
	for len(b) >= 32 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) >= 4 {
		acc, carry = bits.Add64(acc, uint64(binary.BigEndian.Uint32(b)), carry)
		b = b[4:]
	}
	if len(b) >= 2 {
		acc, carry = bits.Add64(acc, uint64(binary.BigEndian.Uint16(b)), carry)
		b = b[2:]
	}
	if len(b) == 1 {
		acc, carry = bits.Add64(acc, uint64(b[0])<<8, carry)
	}
	acc += carry // which does not carry again: an addition that carried left acc below 2^64-1
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	return uint32(acc)
}

// Fold brings a sum down to 16 bits with the carries added in.
func Fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum + sum>>16)
}

// Checksum is the value to store in the checksum field of b, which must hold 0
// while this is computed.
func Checksum(b []byte) uint16 { return ^Fold(Sum(b, 0)) }

// Update16 is the checksum field's new value after a 16-bit word that it covers
// changed from old to new: RFC 1624 equation 3, HC' = ~(~HC + ~m + m').
func Update16(field, old, new uint16) uint16 {
	return ^Fold(uint32(^field) + uint32(^old) + uint32(new))
}

// Update32 is Update16 for a 32-bit field such as an address.
func Update32(field uint16, old, new uint32) uint16 {
	return ^Fold(uint32(^field) + ^old>>16 + ^old&0xffff + new>>16 + new&0xffff)
}

// PseudoSum is the folded, not complemented sum of the pseudo-header of TCP and
// UDP, with length bytes of transport header and payload (RFC 768, RFC 9293
// 3.1).
func PseudoSum(src, dst uint32, proto uint8, length int) uint16 {
	return Fold(src>>16 + src&0xffff + dst>>16 + dst&0xffff + uint32(proto) + uint32(length))
}

// checksumOffset is where in the transport header the checksum stands that a
// sender may leave to its device, or -1.
func checksumOffset(proto uint8) int {
	switch proto {
	case ProtoTCP:
		return 16
	case ProtoUDP:
		return 6
	}
	return -1
}

// Partial reports whether the transport checksum is one that the sending stack
// left for its device to finish: the field holds the folded pseudo-header sum
// and not its complement (the kernel's CHECKSUM_PARTIAL, skbuff.h). Only links
// without a wire carry such packets, and 1 correct packet in 65,536 looks the
// same, for which finishing is harmless. It must be asked before any
// incremental update, since the field holds a sum and not a complement.
func Partial(frame []byte, p *Packet) bool {
	if p.Flags&FlagFragment != 0 {
		return false
	}
	offset := checksumOffset(p.Proto)
	if offset < 0 {
		return p.Proto == ProtoSCTP && partialSCTP(frame[p.L4:p.End])
	}
	field := be16(frame[int(p.L4)+offset:])
	return field == PseudoSum(p.Src, p.Dst, p.Proto, int(p.End-p.L4))
}

// Complete finishes a checksum for which Partial is true: it sums the whole
// segment, with the pseudo-header sum that already stands in the field, and
// stores the complement. A UDP result of 0 is stored as 0xffff, since 0 says
// that there is no checksum (RFC 768).
func Complete(frame []byte, p *Packet) {
	if p.Proto == ProtoSCTP {
		completeSCTP(frame[p.L4:p.End])
		return
	}
	field := frame[int(p.L4)+checksumOffset(p.Proto):]
	sum := Checksum(frame[p.L4:p.End])
	if sum == 0 && p.Proto == ProtoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}
