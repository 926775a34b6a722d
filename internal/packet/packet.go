// Package packet reads IPv4 frames: header views over []byte, one validating
// parse, and the Internet checksum, complete (RFC 1071) and incremental
// (RFC 1624).
//
// It owns the wire format and nothing else: it keeps no state, decides no
// policy and rewrites no address. Every later stage of the gateway works with
// the offsets that Parse found, so that no length is checked twice and none is
// forgotten. All functions are pure, allocate nothing and are safe for
// concurrent use on different frames.
//
// It follows RFC 791 (header, options), RFC 1812 5.2.2 (what a router
// validates), RFC 792/768/9293 (transport headers) and RFC 1858/3128 (tiny
// fragments).
package packet

import "encoding/binary"

// Ethernet and IPv4 sizes, in bytes.
const (
	EthernetLength  = 14
	IPv4MinLength   = 20
	IPv4MaxLength   = 60
	TCPMinLength    = 20
	UDPLength       = 8
	ICMPLength      = 8
	EtherTypeIPv4   = 0x0800
	EtherTypeARP    = 0x0806
	etherTypeOffset = 12
)

// IP protocol numbers.
const (
	ProtoICMP    = 1
	ProtoIPIP    = 4 // RFC 2003
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoGRE     = 47
	ProtoESP     = 50
	ProtoAH      = 51
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// Portless reports whether flows of a protocol are told apart by their addresses
// alone: all but TCP, UDP and ICMP. SCTP, DCCP and UDP-Lite do have ports; they
// are not translated (RFC 7857 leaves them to their own documents), so that they
// do not count here.
func Portless(proto uint8) bool {
	return proto != ProtoTCP && proto != ProtoUDP && proto != ProtoICMP
}

// TCP flag bits, as in byte 13 of the header.
const (
	TCPFin = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
)

// ICMP types that the gateway tells apart (RFC 792).
const (
	ICMPEchoReply        = 0
	ICMPUnreachable      = 3
	ICMPSourceQuench     = 4
	ICMPRedirect         = 5
	ICMPEchoRequest      = 8
	ICMPTimeExceeded     = 11
	ICMPParameterProblem = 12
)

// Flags say what kind of packet Parse saw.
type Flags uint8

const (
	FlagFragment      Flags = 1 << iota // more fragments follow, or the offset is not 0
	FlagLaterFragment                   // the offset is not 0: there is no transport header
	FlagOptions                         // the IPv4 header carries options
	FlagICMPError                       // an ICMP message that quotes another packet
	FlagDontFragment                    // DF is set
	FlagEcho                            // ICMP echo request or reply
	FlagMoreFragments                   // MF: it is not the last fragment
)

// Packet is what Parse found in one frame: offsets from the frame's first byte,
// and the header fields that later stages decide by, in host byte order.
type Packet struct {
	Src, Dst uint32 // addresses: 10.0.0.1 is 0x0a000001

	// SrcPort and DstPort are TCP's or UDP's ports. An echo request has its
	// identifier in SrcPort and 0 in DstPort, an echo reply the other way
	// round, so that reversing a tuple works for every protocol. All others,
	// and later fragments, have 0 in both.
	SrcPort, DstPort uint16

	L3, L4, End uint16 // IPv4 header, transport header, one past the IPv4 total length
	ID          uint16 // IPv4 identification
	FragOff     uint16 // fragment offset in bytes

	// TCP's; SegmentLength is what the segment takes of the sequence space, SYN
	// and FIN included, and WindowScale the option of a SYN. A quoted segment
	// has Seq alone.
	Seq, Ack              uint32
	Window, SegmentLength uint16

	Proto, TTL         uint8
	TCPFlags           uint8
	WindowScale        uint8
	ICMPType, ICMPCode uint8
	Flags              Flags
}

// Is reports whether any of the flags in f is set.
func (p *Packet) Is(f Flags) bool { return p.Flags&f != 0 }

// Length is the IPv4 total length in bytes.
func (p *Packet) Length() int { return int(p.End - p.L3) }

// be16 and be32 read a field in network byte order.
func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
