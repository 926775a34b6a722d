package packet

import "encoding/binary"

const (
	answerTTL = 64 // RFC 1700's default time to live
	resetAck  = 12 // of the TCP header: offset and flags
)

// AnswerReset makes a TCP segment that is no reset the reset that answers it
// (RFC 9293 3.10.7.1): with the sequence number that was acknowledged, or where
// none was, acknowledging the segment. The identification is id, DF is clear, and
// there are no options. p follows; the frame ends at p.End.
func AnswerReset(frame []byte, p *Packet, id uint16) {
	t := frame[p.L4:p.End]
	length := uint32(len(t)) - uint32(t[12]>>4)<<2
	if p.TCPFlags&TCPSyn != 0 {
		length++
	}
	if p.TCPFlags&TCPFin != 0 {
		length++
	}
	seq, ack, flags := be32(t[8:]), uint32(0), uint8(TCPRst)
	if p.TCPFlags&TCPAck == 0 {
		seq, ack, flags = 0, be32(t[4:])+length, TCPRst|TCPAck
	}
	p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	p.L4 = p.L3 + IPv4MinLength
	p.End = p.L4 + TCPMinLength
	p.ID, p.TTL, p.TCPFlags, p.Flags, p.FragOff = id, answerTTL, flags, 0, 0
	p.Seq, p.Ack, p.Window, p.SegmentLength, p.WindowScale = seq, ack, 0, 0, 0

	h := frame[p.L3:p.L4]
	binary.BigEndian.PutUint32(h, 0x4500<<16|IPv4MinLength+TCPMinLength)
	binary.BigEndian.PutUint32(h[4:], uint32(id)<<16)
	binary.BigEndian.PutUint32(h[8:], uint32(answerTTL)<<24|uint32(ProtoTCP)<<16)
	binary.BigEndian.PutUint32(h[12:], p.Src)
	binary.BigEndian.PutUint32(h[16:], p.Dst)
	binary.BigEndian.PutUint16(h[10:], Checksum(h))

	t = frame[p.L4:p.End]
	binary.BigEndian.PutUint16(t, p.SrcPort)
	binary.BigEndian.PutUint16(t[2:], p.DstPort)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	binary.BigEndian.PutUint32(t[resetAck:], TCPMinLength/4<<28|uint32(flags)<<16)
	binary.BigEndian.PutUint32(t[16:], 0)
	binary.BigEndian.PutUint16(t[16:], ^Fold(Sum(t, uint32(PseudoSum(p.Src, p.Dst, ProtoTCP, TCPMinLength)))))
}
