package nat

import (
	"encoding/binary"

	"sluice/internal/packet"
)

// ClampMSS lowers the maximum segment size that the TCP SYN p in frame offers to
// limit, and updates the checksum, and reports whether there was anything to
// lower. It never raises one, and adds none: a SYN without the option stands for
// 536 bytes (RFC 9293 3.7.1), which fit everywhere. Options that are not well formed
// to the end stay as they are, since nobody knows how their receiver reads them.
func ClampMSS(frame []byte, p *packet.Packet, limit uint16) bool {
	t := frame[p.L4:p.End]
	header := int(t[12]>>4) << 2
	if header > len(t) { // a first fragment that does not hold them all
		return false
	}
	options := t[packet.TCPMinLength:header]
	for i := 0; i < len(options); {
		kind, length, ok := packet.TCPOption(options[i:])
		if !ok {
			return false
		}
		if kind == packet.TCPOptionEnd {
			break
		}
		i += length
	}
	return lowerMSS(t, header, limit)
}

// lowerMSS lowers every MSS option: of several, receivers take the last one.
func lowerMSS(t []byte, header int, limit uint16) (lowered bool) {
	for i := packet.TCPMinLength; i < header; {
		kind, length, _ := packet.TCPOption(t[i:header])
		if kind == packet.TCPOptionEnd {
			break
		}
		if kind == packet.TCPOptionMSS && length == packet.TCPMSSLength && binary.BigEndian.Uint16(t[i+2:]) > limit {
			// The sum is over words of the segment, in two of which the value lies
			// where the option begins at an odd byte.
			d := replace16(t[(i+2)&^1:(i+5)&^1], t[i+2:], limit)
			d.store(t[tcpChecksum:])
			lowered = true
		}
		i += length
	}
	return lowered
}

// replace16 writes v at the beginning of field, which lies in words, and returns
// what that does to a sum over words.
func replace16(words, field []byte, v uint16) (d delta) {
	var old [2]uint16
	for i := 0; i < len(words); i += 2 {
		old[i/2] = binary.BigEndian.Uint16(words[i:])
	}
	binary.BigEndian.PutUint16(field, v)
	for i := 0; i < len(words); i += 2 {
		d += delta16(old[i/2], binary.BigEndian.Uint16(words[i:]))
	}
	return d
}
