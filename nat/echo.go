package nat

import "sluice/internal/packet"

// echoTTL is RFC 1700's default time to live.
const echoTTL = 64

// EchoReply makes of an ICMP echo request its reply: addresses exchanged, a fresh
// time to live, the data as it is (RFC 792, RFC 1812 4.3.3.6). Checksums are
// updated incrementally, so that a wrong one stays wrong; p follows.
func EchoReply(frame []byte, p *packet.Packet) {
	h := frame[p.L3:][:packet.IPv4MinLength]
	delta16(uint16(p.TTL)<<8, echoTTL<<8).store(h[ipChecksum:])
	h[ipTTL], p.TTL = echoTTL, echoTTL
	rewriteNetwork(h, p, p.Dst, p.Src, 0)
	t := frame[p.L4:p.End]
	delta16(packet.ICMPEchoRequest<<8, packet.ICMPEchoReply<<8).store(t[icmpChecksum:])
	t[0], p.ICMPType = packet.ICMPEchoReply, packet.ICMPEchoReply
	p.SrcPort, p.DstPort = 0, p.SrcPort
}
