package packet

// TCP option kinds (RFC 9293 3.2, RFC 7323 2.2) and the lengths that they have.
const (
	TCPOptionEnd         = 0
	TCPOptionNop         = 1
	TCPOptionMSS         = 2
	TCPOptionWindowScale = 3

	TCPMSSLength         = 4
	tcpWindowScaleLength = 3
)

const (
	// NoWindowScale says that a SYN offers no window scaling.
	NoWindowScale = 0xff
	// MaxWindowScale is the largest shift that counts (RFC 7323 2.3).
	MaxWindowScale = 14
)

// readSegment reads what sequence numbers are judged by from the TCP header at
// the beginning of b, which parseTCP has validated. Of a first fragment,
// SegmentLength is what the fragment holds.
func readSegment(b []byte, p *Packet) {
	b = b[:len(b):len(b)]
	p.Seq, p.Ack, p.Window = be32(b[4:]), be32(b[8:]), be16(b[14:])
	header := int(b[12]>>4) << 2
	// FIN and SYN are bits 0 and 1 of the flags.
	p.SegmentLength = uint16(max(len(b)-header, 0)) + uint16(b[13]&1) + uint16(b[13]>>1&1)
	if b[13]&TCPSyn != 0 {
		p.WindowScale = windowScale(b[TCPMinLength:min(header, len(b))], header > len(b))
	}
}

// windowScale is the window scale that a SYN's options offer, NoWindowScale
// where they offer none. Of a list that is cut off or broken one cannot tell what the
// receiver makes of it: the largest scale is assumed, which refuses nothing.
func windowScale(b []byte, cut bool) uint8 {
	for i := 0; i < len(b); {
		kind, length, ok := TCPOption(b[i:])
		switch {
		case !ok:
			return MaxWindowScale
		case kind == TCPOptionEnd:
			return NoWindowScale
		case kind == TCPOptionWindowScale && length == tcpWindowScaleLength:
			return min(b[i+2], MaxWindowScale)
		}
		i += length
	}
	if cut {
		return MaxWindowScale
	}
	return NoWindowScale
}

// TCPOption returns the kind and the length in bytes of the TCP option that b,
// which is not empty, begins with. It reports false where the length is under 2 or
// beyond b.
func TCPOption(b []byte) (kind uint8, length int, ok bool) {
	if b[0] == TCPOptionEnd || b[0] == TCPOptionNop {
		return b[0], 1, true
	}
	if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
		return b[0], 0, false
	}
	return b[0], int(b[1]), true
}
