package packet

import "sluice/internal/verdict"

// Parse validates the IPv4 packet in an Ethernet frame and fills p. The frame
// may be longer than the packet: link padding is cut off by p.End (RFC 1812
// 5.2.2). A reason other than verdict.None means that the packet must be
// dropped and that p holds nothing to rely on.
func Parse(frame []byte, p *Packet) verdict.Reason {
	if len(frame) < EthernetLength+IPv4MinLength {
		return verdict.FrameTooShort
	}
	if be16(frame[etherTypeOffset:]) != EtherTypeIPv4 {
		return verdict.NotIPv4
	}
	h := frame[EthernetLength:]
	headerLength := int(h[0]&0x0f) << 2
	total := int(be16(h[2:]))
	switch {
	case h[0]>>4 != 4:
		return verdict.BadVersion
	case headerLength < IPv4MinLength || headerLength > len(h):
		return verdict.BadHeaderLength
	case total < headerLength || total > len(h):
		return verdict.BadTotalLength
	case headerSum(h, headerLength) != 0xffff:
		return verdict.BadHeaderChecksum
	}
	fillNetwork(h, p, EthernetLength, headerLength, total)
	if headerLength > IPv4MinLength {
		p.Flags |= FlagOptions
		if r := checkOptions(h[IPv4MinLength:headerLength]); r != verdict.None {
			return r
		}
	}
	return parseTransport(h[headerLength:total], p)
}

// headerSum is the folded sum of a header; nearly all of them have 20 bytes.
func headerSum(h []byte, length int) uint16 {
	if length != IPv4MinLength {
		return Fold(Sum(h[:length], 0))
	}
	h = h[:IPv4MinLength]
	sum := uint64(be32(h)) + uint64(be32(h[4:])) + uint64(be32(h[8:])) + uint64(be32(h[12:])) + uint64(be32(h[16:]))
	sum = sum>>32 + sum&0xffffffff
	return Fold(uint32(sum>>16 + sum&0xffff))
}

// fillNetwork copies the IPv4 header h, which begins at offset base, into p.
//
// Field by field: of a composite literal the compiler makes a copy on the stack
// first, and the wide loads that fetch it from there have to wait until the
// narrow stores that made it are through to the cache. That costs a packet more
// than the rest of its parsing.
func fillNetwork(h []byte, p *Packet, base, headerLength, total int) {
	h = h[:IPv4MinLength:IPv4MinLength]
	frag := be16(h[6:])
	*p = Packet{}
	p.Src, p.Dst = be32(h[12:]), be32(h[16:])
	p.L3, p.L4, p.End = uint16(base), uint16(base+headerLength), uint16(base+total)
	p.ID, p.FragOff = be16(h[4:]), frag<<3
	p.TTL, p.Proto = h[8], h[9]
	if frag&0x4000 != 0 {
		p.Flags |= FlagDontFragment
	}
	if frag&0x3fff != 0 {
		p.Flags |= FlagFragment
		if frag&moreFragments != 0 {
			p.Flags |= FlagMoreFragments
		}
		if p.FragOff != 0 {
			p.Flags |= FlagLaterFragment
		}
	}
}

// parseTransport reads the transport header at the beginning of b, which is
// exactly the packet's IPv4 payload.
func parseTransport(b []byte, p *Packet) verdict.Reason {
	if p.Flags&FlagFragment != 0 {
		if r := checkFragment(b, p); r != verdict.None || p.Flags&FlagLaterFragment != 0 {
			return r
		}
	}
	switch p.Proto {
	case ProtoTCP:
		return parseTCP(b, p)
	case ProtoUDP:
		if len(b) < UDPLength {
			return verdict.TransportTruncated
		}
		// A first fragment carries less than its UDP length says.
		if n := int(be16(b[4:])); n < UDPLength || n > len(b) && p.Flags&FlagFragment == 0 {
			return verdict.BadUDPLength
		}
		p.SrcPort, p.DstPort = be16(b), be16(b[2:])
	case ProtoICMP:
		if len(b) < ICMPLength {
			return verdict.TransportTruncated
		}
		parseICMP(b, p)
	default:
		if len(b) < leastTransport(p.Proto) {
			return verdict.TransportTruncated
		}
	}
	return verdict.None
}

// leastTransport is the shortest header of the protocols whose checksum covers
// the addresses, or that may need one finished; others are not looked into.
func leastTransport(proto uint8) int {
	switch proto {
	case ProtoUDPLite:
		return UDPLength // RFC 3828 3.1
	case ProtoDCCP, ProtoSCTP:
		return SCTPLength // RFC 4340 5.1: 12 bytes, too
	}
	return 0
}

// checkFragment refuses a fragment that is none: empty, or of a length that nothing
// can follow (RFC 791 section 3.2); one that ends beyond the longest datagram; and
// those that keep a transport header from whoever looks at the first fragment: a
// first one that does not hold all of it (RFC 1858 3.1), and one that could
// overwrite it behind his back (RFC 1858 3.2, RFC 3128).
func checkFragment(b []byte, p *Packet) verdict.Reason {
	header := leastTransport(p.Proto)
	if p.Proto == ProtoTCP {
		header = TCPMinLength
	}
	switch {
	case len(b) == 0 || p.Flags&FlagMoreFragments != 0 && len(b)%8 != 0:
		return verdict.BadFragment
	case int(p.L4-p.L3)+int(p.FragOff)+len(b) > 0xffff:
		return verdict.BadTotalLength
	case p.FragOff == 0 && len(b) < header, p.FragOff != 0 && int(p.FragOff) < header:
		return verdict.TinyFragment
	}
	return verdict.None
}

func parseTCP(b []byte, p *Packet) verdict.Reason {
	if len(b) < TCPMinLength {
		return verdict.TransportTruncated
	}
	if offset := int(b[12]>>4) << 2; offset < TCPMinLength || offset > len(b) && p.Flags&FlagFragment == 0 {
		return verdict.BadTCPOffset
	}
	p.SrcPort, p.DstPort = be16(b), be16(b[2:])
	p.TCPFlags = b[13]
	if !LegalTCPFlags(p.TCPFlags) {
		return verdict.BadTCPFlags
	}
	readSegment(b, p)
	return verdict.None
}

// LegalTCPFlags tells the flag sets that a connection uses from scans. SYN
// excludes FIN and RST, and every segment but a SYN or RST acknowledges.
func LegalTCPFlags(flags uint8) bool {
	return tcpFlagSets>>(flags&0x1f)&1 != 0
}

// tcpFlagSets has the bit of each legal combination of FIN, SYN, RST, PSH and
// ACK (bits 0 to 4); URG, ECE and CWR go with any of them.
const tcpFlagSets uint32 = 1<<TCPSyn | 1<<(TCPSyn|TCPPsh) |
	1<<(TCPSyn|TCPAck) | 1<<(TCPSyn|TCPAck|TCPPsh) |
	1<<TCPRst | 1<<(TCPRst|TCPAck) | 1<<(TCPRst|TCPPsh) | 1<<(TCPRst|TCPAck|TCPPsh) |
	1<<TCPAck | 1<<(TCPAck|TCPPsh) |
	1<<(TCPFin|TCPAck) | 1<<(TCPFin|TCPAck|TCPPsh) |
	1<<(TCPFin|TCPRst|TCPAck) | 1<<(TCPFin|TCPRst|TCPAck|TCPPsh)

func parseICMP(b []byte, p *Packet) {
	p.ICMPType, p.ICMPCode = b[0], b[1]
	switch p.ICMPType {
	case ICMPEchoRequest:
		p.SrcPort = be16(b[4:])
		p.Flags |= FlagEcho
	case ICMPEchoReply:
		p.DstPort = be16(b[4:])
		p.Flags |= FlagEcho
	case ICMPUnreachable, ICMPSourceQuench, ICMPRedirect, ICMPTimeExceeded, ICMPParameterProblem:
		p.Flags |= FlagICMPError
	}
}

// ParseQuoted reads the packet that an ICMP error quotes: b begins at the
// quoted IPv4 header, and the quote may end after 8 bytes of transport (RFC
// 792). Offsets in p count from b's first byte; p.End is where the quote ends,
// not where the packet did. The quoted header's checksum is checked (RFC 5508
// REQ-3a), its transport checksum is not (REQ-3c), and options are skipped by
// the header length (REQ-3b).
func ParseQuoted(b []byte, p *Packet) verdict.Reason {
	if len(b) < IPv4MinLength {
		return verdict.ICMPErrorMalformed
	}
	headerLength := int(b[0]&0x0f) << 2
	total := int(be16(b[2:]))
	if b[0]>>4 != 4 || headerLength < IPv4MinLength || headerLength > len(b) || total < headerLength ||
		Fold(Sum(b[:headerLength], 0)) != 0xffff {
		return verdict.ICMPErrorMalformed
	}
	fillNetwork(b, p, 0, headerLength, min(total, len(b)))
	if headerLength > IPv4MinLength {
		p.Flags |= FlagOptions
	}
	if p.Flags&FlagLaterFragment != 0 {
		return verdict.None
	}
	t := b[headerLength:p.End]
	switch p.Proto {
	case ProtoTCP, ProtoUDP, ProtoICMP:
		if len(t) < 8 {
			return verdict.ICMPErrorMalformed
		}
	}
	switch p.Proto {
	case ProtoTCP:
		p.SrcPort, p.DstPort, p.Seq = be16(t), be16(t[2:]), be32(t[4:])
	case ProtoUDP:
		p.SrcPort, p.DstPort = be16(t), be16(t[2:])
	case ProtoICMP:
		parseICMP(t, p)
	}
	return verdict.None
}

// IPv4 option types that the parser tells apart (RFC 791, copied flag
// included).
const (
	optionEnd         = 0
	optionNop         = 1
	optionLooseRoute  = 131
	optionStrictRoute = 137
)

// checkOptions walks the option list: one byte for End and Nop, a length of at
// least 2 that stays inside the header for all others. Source routes are
// refused (RFC 7126 4.3, 4.4, RFC 1812 5.3.13.4); unknown options pass (RFC 1812 5.2.4).
func checkOptions(b []byte) verdict.Reason {
	for i := 0; i < len(b); {
		switch b[i] {
		case optionEnd:
			return verdict.None
		case optionNop:
			i++
			continue
		case optionLooseRoute, optionStrictRoute:
			return verdict.SourceRoute
		}
		if i+1 >= len(b) || b[i+1] < 2 || i+int(b[i+1]) > len(b) {
			return verdict.BadOption
		}
		i += int(b[i+1])
	}
	return verdict.None
}
