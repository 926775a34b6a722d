package nat

import (
	"encoding/binary"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// highestCode is, for every ICMP error that is translated, the highest code that
// IANA has assigned (RFC 792, 1812, 4884). RFC 5508 REQ-10a asks for destination
// unreachable (also RFC 4787 REQ-12b, RFC 5382 REQ-9) and time exceeded, and RFC
// 5508 REQ-10b allows parameter problem. Source quench is deprecated (REQ-10c, RFC
// 6633), and a redirect speaks about one link's hosts.
func highestCode(icmpType uint8) int {
	switch icmpType {
	case packet.ICMPUnreachable:
		return 15
	case packet.ICMPTimeExceeded:
		return 1
	case packet.ICMPParameterProblem:
		return 2
	}
	return -1
}

// QuotedTuple reads the packet that the ICMP error p in frame quotes, and
// returns its tuple as the sender of the error saw it: that of the flow
// direction the error answers. The offsets in quoted count from the quoted
// header, ICMPLength bytes behind p.L4. It refuses what RFC 5508 REQ-3 says:
//
//   - a wrong checksum of the message (REQ-3) or of the quoted header (REQ-3a);
//     the quoted transport checksum is not looked at (REQ-3c), since a quote is
//     usually too short for it;
//   - a quote without the 8 bytes of transport header that hold the ports;
//   - an error about an error or about a later fragment, which nobody may send
//     (RFC 1812 4.3.2.7).
//
// Of a message that comes in fragments the first one must hold all of that. Its
// checksum cannot be seen to be right then; RewriteError changes it by what it
// changes in the message, so that a wrong one stays wrong.
//
// Quoted options are skipped by the header length (RFC 5508 REQ-3b).
func QuotedTuple(frame []byte, p *packet.Packet) (t conntrack.Tuple, quoted packet.Packet, r verdict.Reason) {
	if int(p.ICMPCode) > highestCode(p.ICMPType) {
		return t, quoted, verdict.ICMPUnsupported
	}
	icmp := frame[p.L4:p.End]
	if p.Flags&packet.FlagFragment == 0 && packet.Fold(packet.Sum(icmp, 0)) != 0xffff {
		return t, quoted, verdict.ICMPErrorMalformed
	}
	if r = packet.ParseQuoted(icmp[packet.ICMPLength:], &quoted); r != verdict.None {
		return t, quoted, r
	}
	if quoted.Flags&(packet.FlagICMPError|packet.FlagLaterFragment) != 0 {
		return t, quoted, verdict.ICMPErrorMalformed
	}
	t = conntrack.Tuple{
		Src: quoted.Src, Dst: quoted.Dst,
		SrcPort: quoted.SrcPort, DstPort: quoted.DstPort,
		Proto: quoted.Proto,
	}
	return t, quoted, verdict.None
}

// RewriteError translates an ICMP error that QuotedTuple accepted: the quoted
// packet gets the tuple quotedTo, which is the one its sender knows it by, and
// the message the addresses outerSrc and outerDst. Towards outside, outerSrc is
// the external address even where an inner router sent the error (RFC 5508
// REQ-5); type and code stay (REQ-4c, REQ-5c). All four checksums are updated:
// of the outer header, the message, the quoted header, and the quoted transport
// where the quote reaches that far. p and quoted follow.
//
// RFC 4884 extensions stay as they are (RFC 5508 REQ-3d): they begin at least 128
// bytes into the quote, and nothing is written beyond the quoted TCP checksum, which
// ends at 60 + 18.
func RewriteError(frame []byte, p, quoted *packet.Packet, quotedTo conntrack.Tuple, outerSrc, outerDst uint32) {
	message := frame[p.L4:p.End]
	quote := message[packet.ICMPLength:]
	// The quoted header's words, its checksum among them, sum to 0xffff before
	// and after: the message's checksum does not notice.
	pseudo := rewriteNetwork(quote, quoted, quotedTo.Src, quotedTo.Dst, 0)
	d := rewriteQuoted(quote[quoted.L4:quoted.End], quoted, quotedTo.SrcPort, quotedTo.DstPort, pseudo)
	d.store(message[icmpChecksum:])
	rewriteNetwork(frame[p.L3:], p, outerSrc, outerDst, 0)
}

// RewriteErrorRest gives a later fragment of an ICMP error the addresses that
// RewriteError gave the first.
func RewriteErrorRest(frame []byte, p *packet.Packet, outerSrc, outerDst uint32) {
	rewriteNetwork(frame[p.L3:], p, outerSrc, outerDst, 0)
}

// rewriteQuoted changes ports or identifier in t, the quoted transport, and its
// checksum if t holds it. It returns what that does to the message's sum.
func rewriteQuoted(t []byte, q *packet.Packet, srcPort, dstPort uint16, pseudo delta) delta {
	switch q.Proto {
	case packet.ProtoTCP:
		d := rewritePorts(t, q, srcPort, dstPort)
		if len(t) < tcpChecksum+2 {
			return d // RFC 792: only 8 bytes are sure to be quoted
		}
		sum := t[tcpChecksum:]
		old := binary.BigEndian.Uint16(sum)
		(d + pseudo).store(sum)
		return d + delta16(old, binary.BigEndian.Uint16(sum))
	case packet.ProtoUDP:
		d := rewritePorts(t, q, srcPort, dstPort)
		sum := t[udpChecksum:]
		old := binary.BigEndian.Uint16(sum)
		(d + pseudo).storeUDP(sum)
		return d + delta16(old, binary.BigEndian.Uint16(sum))
	case packet.ProtoICMP:
		if q.Flags&packet.FlagEcho != 0 {
			d := rewriteID(t, q, srcPort, dstPort)
			sum := t[icmpChecksum:]
			old := binary.BigEndian.Uint16(sum)
			d.store(sum)
			return d + delta16(old, binary.BigEndian.Uint16(sum))
		}
	case packet.ProtoUDPLite, packet.ProtoDCCP:
		if len(t) >= pseudoChecksum+2 {
			return rewritePseudo(t, q.Proto, pseudo)
		}
	}
	return 0
}
