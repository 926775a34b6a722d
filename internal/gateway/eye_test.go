package gateway

import (
	"encoding/binary"
	"fmt"
)

// judge is an eye on the wire that shares no code with the gateway: it says what is
// wrong with a frame that left, or "". outside is where the invariant holds.
func judge(frame []byte, outside bool) string {
	if len(frame) < 14 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return "" // ARP
	}
	h := frame[14:]
	if len(h) < 20 || h[0]>>4 != 4 || int(h[0]&15) < 5 || len(h) < int(h[0]&15)*4 {
		return "no IPv4 header"
	}
	n, total := int(h[0]&15)*4, int(binary.BigEndian.Uint16(h[2:]))
	switch {
	case onesSum(h[:n]) != 0xffff:
		return "wrong header checksum"
	case total < n || total > len(h):
		return fmt.Sprintf("a total length of %d in %d bytes", total, len(h))
	case h[8] == 0:
		return "a time to live of 0"
	case !outside:
		return ""
	}
	src, dst := binary.BigEndian.Uint32(h[12:]), binary.BigEndian.Uint32(h[16:])
	if inside(src) && !isExcluded(dst) {
		return "an inside source"
	}
	if h[9] != 1 || binary.BigEndian.Uint16(h[6:])&0x1fff != 0 || isExcluded(dst) {
		return ""
	}
	return judgeQuote(h[n:total])
}

// judgeQuote looks for inside addresses in what an ICMP error quotes.
func judgeQuote(icmp []byte) string {
	switch {
	case len(icmp) < 8:
		return "no ICMP header"
	case icmp[0] != 3 && icmp[0] != 4 && icmp[0] != 5 && icmp[0] != 11 && icmp[0] != 12:
		return ""
	case len(icmp) < 8+20:
		return "an ICMP error that quotes no header"
	}
	if q := icmp[8:]; inside(binary.BigEndian.Uint32(q[12:])) || inside(binary.BigEndian.Uint32(q[16:])) {
		return "an ICMP error that quotes an inside address"
	}
	return ""
}

func inside(addr uint32) bool     { return addr>>8 == 10<<16 }
func isExcluded(addr uint32) bool { return addr>>16 == 10<<8|9 }

// onesSum is the ones' complement sum of RFC 1071, as slowly as it can be said.
func onesSum(b []byte) uint16 {
	sum := uint32(0)
	for i, v := range b {
		if i&1 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// mend gives an IPv4 header the checksum that belongs to it, where there is one.
func mend(frame []byte) {
	if len(frame) < 34 {
		return
	}
	h := frame[14:]
	n := int(h[0]&15) * 4
	if n < 20 || n > len(h) {
		return
	}
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h[:n]))
}
