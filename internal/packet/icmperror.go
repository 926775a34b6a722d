package packet

import "encoding/binary"

const (
	// ICMPErrorOverhead is what an ICMP error puts in front of the packet that
	// it quotes: an IPv4 header and its own.
	ICMPErrorOverhead = IPv4MinLength + ICMPLength

	// ICMPErrorMaxLength is the most that an ICMP error is long in all, so that
	// it fits any path: RFC 1812 4.3.2.3.
	ICMPErrorMaxLength = 576
)

const (
	// icmpErrorTOS is precedence 6, internetwork control (RFC 1812 4.3.2.5),
	// which is the code point CS6 (RFC 2474). The type of service of the packet
	// at fault, which RFC 1812 asks to keep below it, is no longer one: its bits
	// would make another code point, and ECN's would lie.
	icmpErrorTOS = 0xc0

	// icmpErrorTTL is RFC 1700's default time to live.
	icmpErrorTTL = 64
)

// ICMPError is an ICMP error that a router makes itself (RFC 792, RFC 1812
// section 4.3).
type ICMPError struct {
	Src, Dst   uint32
	ID         uint16 // IPv4 identification
	Type, Code uint8
	MTU        uint16 // of the next hop, bytes, for fragmentation needed (RFC 1191); else 0
}

// Write puts the error into frame, in front of the packet that it quotes, and
// fills p with what Parse would find. The first EthernetLength +
// ICMPErrorOverhead bytes of frame are overwritten, but for the link addresses,
// which are left to the caller; the quote, as the receiver of the error knows
// it, stands behind them and goes to the end. DF stays clear: an error about a
// path's MTU must not be lost for a smaller one.
func (e *ICMPError) Write(frame []byte, p *Packet) {
	binary.BigEndian.PutUint16(frame[etherTypeOffset:], EtherTypeIPv4)
	h := frame[EthernetLength:]
	binary.BigEndian.PutUint16(h[0:], 0x4500|icmpErrorTOS)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	binary.BigEndian.PutUint16(h[4:], e.ID)
	binary.BigEndian.PutUint16(h[6:], 0)
	binary.BigEndian.PutUint16(h[8:], icmpErrorTTL<<8|ProtoICMP)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint32(h[12:], e.Src)
	binary.BigEndian.PutUint32(h[16:], e.Dst)
	binary.BigEndian.PutUint16(h[10:], Checksum(h[:IPv4MinLength]))

	m := h[IPv4MinLength:]
	binary.BigEndian.PutUint16(m[0:], uint16(e.Type)<<8|uint16(e.Code))
	binary.BigEndian.PutUint32(m[2:], 0) // checksum, and the unused half (RFC 4884: no length)
	binary.BigEndian.PutUint16(m[6:], e.MTU)
	binary.BigEndian.PutUint16(m[2:], Checksum(m))

	*p = Packet{
		Src: e.Src, Dst: e.Dst, ID: e.ID, TTL: icmpErrorTTL, Proto: ProtoICMP,
		L3: EthernetLength, L4: EthernetLength + IPv4MinLength, End: uint16(len(frame)),
		ICMPType: e.Type, ICMPCode: e.Code, Flags: FlagICMPError,
	}
}
