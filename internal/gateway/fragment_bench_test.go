package gateway

import (
	"slices"
	"testing"
)

// BenchmarkFragments is the whole pass of fragments of 1500 bytes, three to a
// datagram, of one flow; a datagram's last one comes first in the reordered case.
func BenchmarkFragments(b *testing.B) {
	for _, order := range []string{"in order", "reordered"} {
		b.Run(order, func(b *testing.B) {
			r := newRig(b)
			received := &memory{bytes: r.memory.bytes[:len(r.memory.bytes)/2]}
			r.worker.memory = &recycled{memory: r.memory}
			var frames [][]byte
			for id := range uint16(100) {
				train := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(4000)}.udpPieces(b, id, 1480)
				if order == "reordered" {
					slices.Reverse(train)
				}
				frames = append(frames, train...)
			}
			r.worker.ports[insidePort], r.worker.ports[outsidePort] = &loop{memory: received, frames: frames}, &sink{}
			b.ResetTimer()
			for range b.N / Burst {
				r.worker.Step(r.now)
			}
			if len(r.allDrops()) != 0 {
				b.Fatalf("drops %v", r.allDrops())
			}
		})
	}
}
