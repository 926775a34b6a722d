package nat

import (
	"encoding/binary"

	"sluice/conntrack"
	"sluice/internal/packet"
)

// Offsets of the fields that translation changes: in the IPv4 header, and in the
// transport header.
const (
	ipTTL      = 8
	ipChecksum = 10
	ipSrc      = 12
	ipDst      = 16

	tcpChecksum  = 16
	udpChecksum  = 6
	icmpChecksum = 2
	icmpID       = 4

	pseudoChecksum = 6 // of UDP-Lite and DCCP
)

// delta is what a change does to a one's complement sum: the sum over the
// changed words m of ~m + m' (RFC 1624 equation 3). Deltas of several changes
// add up; a delta stays under 2^32 for the few words of a header.
type delta uint32

func delta16(old, new uint16) delta { return delta(^old) + delta(new) }

func delta32(old, new uint32) delta {
	return delta(^old>>16+^old&0xffff) + delta(new>>16+new&0xffff)
}

// apply is the checksum field's new value: HC' = ~(~HC + Σ(~m + m')). A wrong
// sum stays wrong by the same amount, so that the receiver still sees it.
func (d delta) apply(field uint16) uint16 {
	return ^packet.Fold(uint32(^field) + uint32(d))
}

// store changes the checksum field at the beginning of b by d.
func (d delta) store(b []byte) {
	binary.BigEndian.PutUint16(b, d.apply(binary.BigEndian.Uint16(b)))
}

// storeUDP is store for UDP, where 0 says that there is no checksum: none stays
// none, and a sum of 0 is sent as 0xffff (RFC 768).
func (d delta) storeUDP(b []byte) {
	old := binary.BigEndian.Uint16(b)
	if old == 0 {
		return
	}
	sum := d.apply(old)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b, sum)
}

// Rewrite gives the packet p in frame the addresses and ports of to, and updates
// the IPv4 and transport checksums incrementally; p follows. For ICMP echo the
// port is the identifier: SrcPort of a request, DstPort of a reply. Later
// fragments get addresses only, and so do protocols without ports. A partial
// checksum must have been completed before (packet.Partial).
//
// Where to is what the packet has already, nothing is written. Payload is never
// looked at: there is no application layer gateway (RFC 4787 REQ-10, RFC 5382
// REQ-6).
func Rewrite(frame []byte, p *packet.Packet, to conntrack.Tuple) {
	if p.Src == to.Src && p.Dst == to.Dst && p.SrcPort == to.SrcPort && p.DstPort == to.DstPort {
		return
	}
	d := rewriteNetwork(frame[p.L3:], p, to.Src, to.Dst, 0)
	if p.Flags&packet.FlagLaterFragment == 0 {
		rewriteTransport(frame[p.L4:p.End], p, to.SrcPort, to.DstPort, d)
	}
}

// Forward is Rewrite and DecrementTTL in one, for a packet of a flow: answer is
// the tuple that an answer to it will arrive with (conntrack.Flow.Answer). The
// header checksum is read and written once.
func Forward(frame []byte, p *packet.Packet, answer *conntrack.Tuple) {
	if p.Src == answer.Dst && p.Dst == answer.Src && p.SrcPort == answer.DstPort && p.DstPort == answer.SrcPort {
		DecrementTTL(frame, p)
		return
	}
	h := frame[p.L3:][:packet.IPv4MinLength]
	h[ipTTL]--
	p.TTL--
	d := rewriteNetwork(h, p, answer.Dst, answer.Src, lessTTL)
	if p.Flags&packet.FlagLaterFragment == 0 {
		rewriteTransport(frame[p.L4:p.End], p, answer.DstPort, answer.SrcPort, d)
	}
}

// rewriteNetwork changes the addresses of the IPv4 header h, and its checksum by
// that and by other changes, and returns what the addresses do to a
// pseudo-header's sum.
func rewriteNetwork(h []byte, p *packet.Packet, src, dst uint32, other delta) delta {
	h = h[:packet.IPv4MinLength]
	d := delta32(p.Src, src) + delta32(p.Dst, dst)
	binary.BigEndian.PutUint32(h[ipSrc:], src)
	binary.BigEndian.PutUint32(h[ipDst:], dst)
	(d + other).store(h[ipChecksum:])
	p.Src, p.Dst = src, dst
	return d
}

// rewriteTransport changes the ports or the identifier in the transport header
// t and its checksum; pseudo is what the new addresses do to it.
func rewriteTransport(t []byte, p *packet.Packet, srcPort, dstPort uint16, pseudo delta) {
	switch p.Proto {
	case packet.ProtoTCP:
		t = t[:packet.TCPMinLength]
		(rewritePorts(t, p, srcPort, dstPort) + pseudo).store(t[tcpChecksum:])
	case packet.ProtoUDP:
		t = t[:packet.UDPLength]
		(rewritePorts(t, p, srcPort, dstPort) + pseudo).storeUDP(t[udpChecksum:])
	case packet.ProtoICMP:
		if p.Flags&packet.FlagEcho != 0 {
			t = t[:packet.ICMPLength]
			rewriteID(t, p, srcPort, dstPort).store(t[icmpChecksum:]) // ICMP has no pseudo-header
		}
	case packet.ProtoUDPLite, packet.ProtoDCCP:
		rewritePseudo(t, p.Proto, pseudo)
	}
}

// rewritePseudo changes the checksum of a protocol whose ports stay by what the
// new addresses do to its pseudo-header, which it covers however little of the
// payload it does (RFC 3828 3.1, RFC 4340 9.1). It returns what
// that does to the sum of t.
func rewritePseudo(t []byte, proto uint8, pseudo delta) delta {
	field := t[pseudoChecksum:]
	old := binary.BigEndian.Uint16(field)
	if proto == packet.ProtoUDPLite {
		pseudo.storeUDP(field) // 0 is not allowed there, and stays wrong
	} else {
		pseudo.store(field)
	}
	return delta16(old, binary.BigEndian.Uint16(field))
}

// rewritePorts changes the ports at the beginning of t, which TCP and UDP have
// in the same place.
func rewritePorts(t []byte, p *packet.Packet, srcPort, dstPort uint16) delta {
	d := delta16(p.SrcPort, srcPort) + delta16(p.DstPort, dstPort)
	binary.BigEndian.PutUint32(t, uint32(srcPort)<<16|uint32(dstPort))
	p.SrcPort, p.DstPort = srcPort, dstPort
	return d
}

// rewriteID changes the identifier of an ICMP echo: of the two ports, the one
// that its direction uses. The other one is 0 before and after.
func rewriteID(t []byte, p *packet.Packet, srcPort, dstPort uint16) delta {
	old, id := p.SrcPort|p.DstPort, srcPort
	if p.ICMPType == packet.ICMPEchoReply {
		id = dstPort
		p.DstPort = id
	} else {
		p.SrcPort = id
	}
	binary.BigEndian.PutUint16(t[icmpID:], id)
	return delta16(old, id)
}

// lessTTL is what one less TTL does to the header checksum: TTL is the high byte
// of its word, which goes down by 0x0100, and ~0x0100 is 0xfeff. The protocol in
// the low byte cancels out.
const lessTTL delta = 0xfeff

// DecrementTTL takes 1 off the time to live, which must not be 0, and updates
// the header checksum (RFC 1812 5.3.1, RFC 1624).
func DecrementTTL(frame []byte, p *packet.Packet) {
	h := frame[p.L3:][:packet.IPv4MinLength]
	lessTTL.store(h[ipChecksum:])
	h[ipTTL]--
	p.TTL--
}

// RestoreTTL takes a DecrementTTL back.
func RestoreTTL(frame []byte, p *packet.Packet) {
	h := frame[p.L3:][:packet.IPv4MinLength]
	delta(0x0100).store(h[ipChecksum:])
	h[ipTTL]++
	p.TTL++
}
