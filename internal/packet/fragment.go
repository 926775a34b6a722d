package packet

import "encoding/binary"

const (
	fragmentOffset = 6      // of flags and fragment offset in the IPv4 header
	moreFragments  = 0x2000 // MF
	copiedFlag     = 0x80   // of an option's type: it goes into every fragment
)

// Cut is how a packet is divided into fragments (RFC 791 section 3.2). A packet
// that is a fragment already is divided further by the same rules.
type Cut struct {
	Count int // of fragments, at least 2

	first   int // bytes of payload in the first fragment, a multiple of 8
	middle  int // in each one between the first and the last, likewise
	total   int // bytes of the packet's payload
	more    bool
	options [IPv4MaxLength - IPv4MinLength]byte // those that are copied, padded
	length  int                                 // bytes of options
}

// NewCut plans how the packet p, which is longer than mtu bytes and does not
// have DF set, is divided so that no fragment is. It fails where mtu has no room
// for a header and 8 bytes.
func NewCut(frame []byte, p *Packet, mtu int) (c Cut, ok bool) {
	c.total = int(p.End - p.L4)
	c.more = be16(frame[p.L3+fragmentOffset:])&moreFragments != 0
	c.copyOptions(frame[p.L3+IPv4MinLength : p.L4])
	room := mtu - IPv4MinLength - c.length // of every fragment but the first
	c.first, c.middle = (mtu-int(p.L4-p.L3))&^7, room&^7
	if c.first < 8 || c.middle < 8 {
		return c, false
	}
	c.Count = 2
	if rest := c.total - c.first; rest > room {
		c.Count += (rest - room + c.middle - 1) / c.middle
	}
	return c, true
}

// copyOptions keeps those of the list b, which Parse found whole, whose copied
// flag is set, and pads them to the 4 bytes that a header is counted in.
func (c *Cut) copyOptions(b []byte) {
	for len(b) > 0 && b[0] != optionEnd {
		n := 1
		if b[0] != optionNop {
			n = int(b[1])
		}
		if b[0]&copiedFlag != 0 {
			c.length += copy(c.options[c.length:], b[:n])
		}
		b = b[n:]
	}
	for c.length%4 != 0 {
		c.options[c.length] = optionEnd
		c.length++
	}
}

// Later writes fragment i of the packet in frame, 1 ≤ i < Count, with the
// frame's link addresses into dst, and returns the length of the new frame.
func (c *Cut) Later(i int, dst, frame []byte, p *Packet) int {
	from := c.first + (i-1)*c.middle
	n, more := c.middle, true
	if i == c.Count-1 {
		n, more = c.total-from, c.more
	}
	header := IPv4MinLength + c.length
	copy(dst, frame[:EthernetLength])
	h := dst[EthernetLength:]
	copy(h[:IPv4MinLength], frame[p.L3:])
	copy(h[IPv4MinLength:], c.options[:c.length])
	copy(h[header:], frame[int(p.L4)+from:][:n])
	h[0] = 0x40 | byte(header/4)
	finish(h[:header], header+n, int(p.FragOff)+from, more)
	return EthernetLength + header + n
}

// First makes the packet in frame its own first fragment and returns the new
// length of the frame. It comes last: the payload of the others is cut off.
func (c *Cut) First(frame []byte, p *Packet) int {
	p.End = p.L4 + uint16(c.first)
	finish(frame[p.L3:p.L4], p.Length(), int(p.FragOff), true)
	return int(p.End)
}

// finish writes what differs between fragments into the header h.
func finish(h []byte, length, offset int, more bool) {
	field := uint16(offset >> 3)
	if more {
		field |= moreFragments
	}
	binary.BigEndian.PutUint16(h[2:], uint16(length))
	binary.BigEndian.PutUint16(h[fragmentOffset:], field)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], Checksum(h))
}

// SetID changes the packet's identification and its header checksum.
func SetID(frame []byte, p *Packet, id uint16) {
	h := frame[p.L3:][:IPv4MinLength]
	binary.BigEndian.PutUint16(h[10:], Update16(be16(h[10:]), p.ID, id))
	binary.BigEndian.PutUint16(h[4:], id)
	p.ID = id
}
