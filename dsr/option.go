package dsr

import (
	"encoding/binary"

	"sluice/internal/packet"
)

// OptionLen is the length of the DSR option in bytes.
const OptionLen = 8

const (
	optionType = 0x9a // copied into fragments, class 0, number 26
	ethernet   = 14
	baseHeader = 20
	maxHeader  = 60
	tosEnd     = 0 // IPv4 option: end of list
	tosNop     = 1 // IPv4 option: no operation
)

// Order is the byte order of port and address in the option.
type Order uint8

const (
	// CiliumOrder has the least significant byte first, as Cilium does on the
	// little-endian machines that it runs on.
	CiliumOrder Order = iota
	NetworkOrder
)

// PutOption writes the option for a service's address and port into 8 bytes:
// 9a 08 00 7d 02 00 12 ac for 172.18.0.2:32000 in Cilium's order.
func PutOption(b []byte, vip uint32, port uint16, order Order) {
	_ = b[OptionLen-1]
	b[0], b[1] = optionType, OptionLen
	if order == NetworkOrder {
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint32(b[4:], vip)
		return
	}
	binary.LittleEndian.PutUint16(b[2:], port)
	binary.LittleEndian.PutUint32(b[4:], vip)
}

// FindOption looks for the option in the option list of an IPv4 header, anywhere
// in it, and returns what it says and where it begins. A list that is malformed
// is read as far as it makes sense.
func FindOption(options []byte, order Order) (vip uint32, port uint16, at int, ok bool) {
	for at < len(options) {
		n := optionAt(options, at)
		if n == 0 {
			break
		}
		if isOption(options[at:], n) {
			o := options[at:]
			if order == NetworkOrder {
				return binary.BigEndian.Uint32(o[4:]), binary.BigEndian.Uint16(o[2:]), at, true
			}
			return binary.LittleEndian.Uint32(o[4:]), binary.LittleEndian.Uint16(o[2:]), at, true
		}
		at += n
	}
	return 0, 0, 0, false
}

// optionAt is the length of the option that begins at an offset, 0 at the end of
// the list.
func optionAt(options []byte, at int) int {
	switch options[at] {
	case tosEnd:
		return 0
	case tosNop:
		return 1
	}
	if at+1 >= len(options) {
		return 0
	}
	n := int(options[at+1])
	if n < 2 || at+n > len(options) {
		return 0
	}
	return n
}

func isOption(o []byte, n int) bool { return o[0] == optionType && n == OptionLen }

// Insert puts the option right after the base header of an IPv4 packet, before
// the options that it has. b is the frame, untagged, with OptionLen bytes in front
// of it, which the frame begins with afterwards; its transport checksum does not
// change. Where the header has no room, nothing changes and ok is false.
func Insert(b []byte, vip uint32, port uint16, order Order) (ok bool) {
	h := b[OptionLen+ethernet:]
	n := int(h[0]&15) * 4
	if n > maxHeader-OptionLen || len(h) < n || int(binary.BigEndian.Uint16(h[2:]))+OptionLen > 1<<16-1 {
		return false
	}
	copy(b, b[OptionLen:OptionLen+ethernet+baseHeader])
	h = b[ethernet:]
	PutOption(h[baseHeader:], vip, port, order)
	resize(h, n+OptionLen, OptionLen)
	return true
}

// resize gives an IPv4 header its new length, and the packet one that is by more
// bytes longer.
func resize(h []byte, n, more int) {
	h[0] = 4<<4 | byte(n/4)
	binary.BigEndian.PutUint16(h[2:], uint16(int(binary.BigEndian.Uint16(h[2:]))+more))
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:n]))
}

// Strip takes every DSR option out of the packet in a frame, untagged and found
// valid, and returns by how many bytes the frame begins later.
func Strip(frame []byte) (shorter int) {
	for {
		h := frame[ethernet+shorter:]
		n := int(h[0]&15) * 4
		_, _, at, ok := FindOption(h[baseHeader:n], CiliumOrder)
		if !ok {
			return shorter
		}
		// What is before the option moves towards it.
		keep := ethernet + baseHeader + at
		copy(frame[shorter+OptionLen:], frame[shorter:shorter+keep])
		shorter += OptionLen
		resize(frame[ethernet+shorter:], n-OptionLen, -OptionLen)
	}
}
