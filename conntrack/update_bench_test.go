package conntrack

import (
	"testing"

	"sluice/internal/packet"
)

// BenchmarkUpdate is what a segment of an established connection costs beyond the
// look-up: the state, the time last seen and the counters, over a thousand flows,
// data one way and acknowledgements the other.
func BenchmarkUpdate(b *testing.B) {
	const flows = 1024
	w := newTable(b, flows, 1).Worker(0)
	list := make([]*Flow, flows)
	data := make([]packet.Packet, flows)
	for i := range list {
		nf := plain(Tuple{Src: client, Dst: server, SrcPort: uint16(1024 + i), DstPort: 80, Proto: packet.ProtoTCP})
		nf.TCPFlags = packet.TCPSyn
		list[i] = mustCreate(b, w, nf, 100)
		for _, s := range []struct {
			d Direction
			p packet.Packet
		}{
			{Original, packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPSyn, Seq: 99, SegmentLength: 1, Window: 60000, WindowScale: 7}},
			{Reply, packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPSyn | packet.TCPAck, Seq: 199, Ack: 100, SegmentLength: 1, Window: 60000, WindowScale: 7}},
			{Original, packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck, Seq: 100, Ack: 200, Window: 500}},
		} {
			w.Update(list[i], s.d, &s.p)
		}
		data[i] = packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck, Seq: 100, Ack: 200, Window: 500, SegmentLength: 1460}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += 2 {
		i := n / 2 % flows
		p, f := &data[i], list[i]
		if w.Update(f, Original, p) {
			f.Touch(Original, 1500, 100)
		}
		ack := packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck, Seq: 200, Ack: p.Seq + 1460, Window: 500}
		if w.Update(f, Reply, &ack) {
			f.Touch(Reply, 40, 100)
		}
		p.Seq += 1460
	}
	if s := list[0].State(); s != TCPEstablished {
		b.Fatalf("%v", s)
	}
}
