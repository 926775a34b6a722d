package nat

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestForward: Forward does what Rewrite and DecrementTTL do, in fewer steps, to
// packets of every protocol, with and without a change of tuple.
func TestForward(t *testing.T) {
	r := rand.New(rand.NewPCG(1624, 1))
	for i := range 20_000 {
		frame := make([]byte, 14+20+20+r.IntN(40))
		for j := range frame {
			frame[j] = byte(r.Uint32())
		}
		copy(frame[12:], []byte{8, 0, 0x45})
		proto := []byte{packet.ProtoUDP, packet.ProtoTCP, packet.ProtoICMP, 47}[i%4]
		frame[16], frame[17] = 0, byte(len(frame)-14)
		frame[20], frame[21], frame[22], frame[23] = 0x40, 0, max(frame[22], 1), proto
		switch proto {
		case packet.ProtoUDP:
			frame[38], frame[39] = 0, byte(len(frame)-34)
			if r.IntN(4) == 0 {
				frame[40], frame[41] = 0, 0 // no checksum
			}
		case packet.ProtoTCP:
			frame[46], frame[47] = 0x50, packet.TCPAck
		case packet.ProtoICMP:
			frame[34] = packet.ICMPEchoRequest
		}
		frame[24], frame[25] = 0, 0
		sum := packet.Checksum(frame[14:34])
		frame[24], frame[25] = byte(sum>>8), byte(sum)
		var p packet.Packet
		if r := packet.Parse(frame, &p); r != verdict.None {
			t.Fatal(r)
		}
		to := conntrack.Tuple{Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto}
		if r.IntN(5) != 0 {
			to.Src, to.SrcPort = r.Uint32(), uint16(r.Uint32())
		}
		if r.IntN(2) == 0 {
			to.Dst, to.DstPort = r.Uint32(), uint16(r.Uint32())
		}
		want, q := bytes.Clone(frame), p
		Rewrite(want, &q, to)
		DecrementTTL(want, &q)
		answer := to.Reverse()
		Forward(frame, &p, &answer)
		if !bytes.Equal(frame, want) || p != q {
			t.Fatalf("%d to %v:\n%x %+v\n%x %+v", proto, to, frame, p, want, q)
		}
	}
}
