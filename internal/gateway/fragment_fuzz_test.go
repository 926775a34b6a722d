package gateway

import (
	"encoding/binary"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/internal/packet"
)

// FuzzFragments: any sequence of fragments, over two workers and both sides, loses
// no frame, leaks no inside source, passes no bound and harms no whole packet.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0x20, 0, 8, 0, 1, 1, 0x00, 1, 2, 1, 1, 0, 0x20, 0, 8, 0})
	f.Add([]byte{2, 1, 0, 0x20, 0, 16, 1, 3, 1, 0x00, 2, 3, 1, 2, 1, 0x20, 2, 1, 1, 255, 1, 0x3f, 255, 9, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 6*400 {
			return
		}
		w := pair(t)
		ways := []from{
			{src: client, dst: server, sport: 4000, dport: 53},
			{src: server, dst: external, sport: 53, dport: 4000},
			{src: client2, dst: external, sport: 6000, dport: 4000},
			{src: client, dst: excluded, sport: 1, dport: 2},
		}
		body := make([]byte, 512)
		binary.BigEndian.PutUint16(body[4:], 1000) // a UDP length that a first fragment may have
		for ; len(b) >= 6; b = b[6:] {
			way := ways[b[0]>>1&3]
			on := insidePort
			if way.src == server {
				on = outsidePort
			}
			binary.BigEndian.PutUint16(body, way.sport)
			binary.BigEndian.PutUint16(body[2:], way.dport)
			l := way.ipv4([]layers.IPProtocol{packet.ProtoUDP, packet.ProtoTCP, packet.ProtoICMP, 47}[b[1]>>6])
			frame := way.frame(t, l, payload(string(body[:int(b[4])*2])))
			h := frame[packet.EthernetLength:]
			h[5], h[6], h[7] = b[1]&3, b[2]&0x3f, b[3]
			binary.BigEndian.PutUint16(h[10:], 0)
			binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:packet.IPv4MinLength]))
			r := w[b[0]&1]
			r.now += 3
			w[1-b[0]&1].now = r.now
			r.send(on, frame)
			leaksNone(t, r)
		}
		for _, r := range w {
			r.step()
			leaksNone(t, r)
			if n := r.worker.store.Held(); n > 256 {
				t.Fatalf("%d fragments are held", n)
			}
		}
		w[0].send(insidePort, from{src: client, dst: server, sport: 9999, dport: 53}.udp(t))
		w[0].one(outsidePort)
		for _, r := range w { // everything ends
			r.now += 301
			r.worker.Idle(r.now, 1)
			if r.worker.store.Held() != 0 || r.worker.store.Old(r.now+1000) != nil {
				t.Fatal("a datagram is remembered for ever")
			}
			r.balanced()
		}
	})
}

func leaksNone(t *testing.T, r *rig) {
	r.ports[insidePort].sent()
	for _, frame := range r.ports[outsidePort].sent() {
		if leak(t, frame) {
			t.Fatalf("leaked: %x", frame)
		}
	}
}
