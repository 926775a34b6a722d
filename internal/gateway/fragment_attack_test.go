package gateway

import (
	"encoding/binary"
	"testing"

	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// TestFragmentsDisagree: RFC 1858, 3128, 5722: an overlap, or pieces that
// contradict each other, end the whole datagram; exact duplicates do not.
func TestFragmentsDisagree(t *testing.T) {
	f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(88)} // 96 bytes of datagram
	train := f.udpPieces(t, 1, 32)
	other := from{src: client, dst: server, sport: 4001, dport: 53, payload: big(88)}.udpPieces(t, 1, 32)[0]
	many := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(8 * 129)}.udpPieces(t, 1, 8)
	for _, tt := range []struct {
		name   string
		frames [][]byte
		want   verdict.Reason // of the last one
		left   int            // fragments that left
	}{
		{"5722: a piece that begins in another", [][]byte{train[0], train[1], f.later(t, 1, 40, true, big(32))}, verdict.FragmentOverlap, 2},
		{"5722: a piece that ends in another", [][]byte{train[0], train[2], f.later(t, 1, 32, true, big(40))}, verdict.FragmentOverlap, 2},
		{"5722: a piece that contains another", [][]byte{train[0], f.later(t, 1, 40, true, big(8)), f.later(t, 1, 32, true, big(24))}, verdict.FragmentOverlap, 2},
		{"3128: a piece over the first one", [][]byte{train[0], f.later(t, 1, 8, true, big(32))}, verdict.FragmentOverlap, 1},
		{"the first one with other ports", [][]byte{train[0], train[1], other}, verdict.FragmentOverlap, 2},
		{"two lengths", [][]byte{train[0], train[2], f.later(t, 1, 32, false, big(16))}, verdict.FragmentOverlap, 2},
		{"beyond the end", [][]byte{train[0], train[2], f.later(t, 1, 96, true, big(16))}, verdict.FragmentOverlap, 2},
		{"an end before what came", [][]byte{train[0], f.later(t, 1, 64, true, big(16)), f.later(t, 1, 32, false, big(16))}, verdict.FragmentOverlap, 2},
		{"the last one is not the last", [][]byte{train[0], train[2], f.later(t, 1, 64, true, big(32))}, verdict.FragmentOverlap, 2},
		{"one that is not the last is", [][]byte{train[0], train[1], f.later(t, 1, 32, false, big(32))}, verdict.FragmentOverlap, 2},
		{"more pieces than a datagram needs", many[:129], verdict.TooManyFragments, 128},
		{"exact duplicates", [][]byte{train[0], train[0], train[1], train[1], train[2]}, verdict.None, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			for _, frame := range tt.frames {
				r.send(insidePort, frame)
			}
			if n := len(r.ports[outsidePort].sent()); n != tt.left {
				t.Errorf("%d fragments left, want %d; drops %v", n, tt.left, r.allDrops())
			}
			if tt.want == verdict.None {
				if len(r.allDrops()) != 0 {
					t.Errorf("drops %v", r.allDrops())
				}
				return
			}
			if r.drops(tt.want) != 1 {
				t.Errorf("drops %v, want 1 of %v", r.allDrops(), tt.want)
			}
			r.send(insidePort, f.later(t, 1, 400, false, big(16)), train[0]) // nothing revives it
			if n := len(r.ports[outsidePort].sent()); n != 0 || r.drops(tt.want) != 3 {
				t.Errorf("%d fragments of a datagram that ended left; drops %v", n, r.allDrops())
			}
		})
	}
}

// TestFragmentsDisagreeBeforeFirst: what waits is dropped with the rest.
func TestFragmentsDisagreeBeforeFirst(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(88)}
	train := f.udpPieces(t, 1, 32)
	r.send(insidePort, train[1], train[2], f.later(t, 1, 40, true, big(8)), train[0])
	r.none(verdict.FragmentOverlap)
	if r.drops(verdict.FragmentOverlap) != 4 || r.worker.store.Held() != 0 {
		t.Errorf("drops %v, %d wait", r.allDrops(), r.worker.store.Held())
	}
}

// TestFragmentDuplicateWaits: once.
func TestFragmentDuplicateWaits(t *testing.T) {
	r := newRig(t)
	train := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(88)}.udpPieces(t, 1, 32)
	r.send(insidePort, train[1], train[1], train[2], train[0])
	if n := len(r.ports[outsidePort].sent()); n != 3 || r.drops(verdict.FragmentDuplicate) != 1 {
		t.Errorf("%d fragments left; drops %v", n, r.allDrops())
	}
}

// TestFragmentFlood: REQ-14a: floods of fragments that never make a datagram, from
// one source and from many, from inside and outside, firsts and later ones, harm
// neither whole packets nor fragments in order, and memory is bounded.
func TestFragmentFlood(t *testing.T) {
	floods := map[string]func(i int) (on fib.PortID, frame []byte){
		"later ones from one source": func(i int) (fib.PortID, []byte) {
			return outsidePort, from{src: server, dst: pooled}.later(t, uint16(i), 64, true, big(64))
		},
		"later ones from many sources": func(i int) (fib.PortID, []byte) {
			return outsidePort, from{src: server + uint32(i), dst: pooled}.later(t, uint16(i), 64, true, big(64))
		},
		"first ones from many sources to ports that nothing is mapped to": func(i int) (fib.PortID, []byte) {
			return outsidePort, from{src: server + uint32(i), dst: pooled, sport: uint16(i), dport: 9, payload: big(56)}.udpPieces(t, uint16(i), 32)[0]
		},
		"first ones from one inside host": func(i int) (fib.PortID, []byte) {
			return insidePort, from{src: client2, dst: server, sport: 9, dport: 9, payload: big(56)}.udpPieces(t, uint16(i), 32)[0]
		},
		"later ones from one inside host": func(i int) (fib.PortID, []byte) {
			return insidePort, from{src: client2, dst: server}.later(t, uint16(i), 64, true, big(64))
		},
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, withPool)
			out := from{src: client, dst: server, sport: 4000, dport: 53}
			r.send(insidePort, out.udp(t))
			v := r.one(outsidePort).packet
			whole := from{src: server, dst: v.Src, sport: 53, dport: v.SrcPort}
			long := whole
			long.payload = big(4000)
			const between = 100 // of the flood, between a datagram's fragments
			n := 0
			harass := func() {
				for range between {
					on, frame := flood(n)
					n++
					r.send(on, frame)
				}
				r.ports[outsidePort].sent()
				r.ports[insidePort].sent()
			}
			for id := range uint16(8) {
				for i, f := range long.udpPieces(t, 60000+id, 1480) {
					harass()
					r.send(outsidePort, f)
					if got := len(r.ports[insidePort].sent()); got != 1 {
						t.Fatalf("fragment %d of datagram %d: %d left; drops %v", i, id, got, r.allDrops())
					}
				}
				harass()
				r.send(outsidePort, whole.udp(t))
				r.one(insidePort)
			}
			if held := r.worker.store.Held(); held > 256 {
				t.Errorf("%d fragments are held", held)
			}
		})
	}
}

// TestFragmentFloodLeavesOrder: also out of order a datagram gets through while a
// source floods, as long as it is not that source's.
func TestFragmentFloodLeavesOrder(t *testing.T) {
	r := newRig(t)
	out := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(4000)}
	for i := range 2000 {
		r.send(insidePort, from{src: client2, dst: server}.later(t, uint16(i), 64, true, big(64)))
	}
	train := out.udpPieces(t, 1, 1480)
	r.send(insidePort, train[2], train[1])
	for i := range 200 {
		r.send(insidePort, from{src: client2, dst: server}.later(t, uint16(i), 64, true, big(64)))
	}
	r.send(insidePort, train[0])
	if n := len(r.ports[outsidePort].sent()); n != 3 {
		t.Errorf("%d fragments left, want 3; drops %v", n, r.allDrops())
	}
}

// TestFragmentsDoNotAllocate: neither those that follow nor those that wait, nor
// what is handed to another worker.
func TestFragmentsDoNotAllocate(t *testing.T) {
	w := pair(t)
	for i, r := range w {
		received := &memory{bytes: r.memory.bytes[:len(r.memory.bytes)/2]}
		r.worker.memory = &recycled{memory: r.memory}
		var frames [][]byte
		for id := range uint16(40) {
			f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(3000)}
			train, own := f.udpPieces(t, id, 1000), f.udpPieces(t, uint16(1000*i)+id+100, 1000)
			answer := from{src: server, dst: client, sport: 53, dport: 4000, payload: big(300)}.udp(t)
			unreachable := pieces(from{src: client, dst: server}.quote(t, 3, 3, answer, 300), uint16(1000*i)+id+200, 48)
			frames = append(frames, unreachable[1], unreachable[0], train[1], train[0], train[2+i], own[1], own[0], from{src: client2, dst: server}.later(t, id, 64, true, big(64)))
		}
		r.worker.ports[insidePort] = &loop{memory: received, frames: frames}
		r.worker.ports[outsidePort] = &sink{}
	}
	if n := testing.AllocsPerRun(60, func() {
		for _, r := range w {
			r.worker.Step(r.now)
			r.now++
		}
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	over := uint64(0)
	for _, r := range w {
		c := &r.worker.counters
		over += c.FragmentsHandedOver
		if c.FragmentsFollowed == 0 || c.FragmentsHeld == 0 || c.Drops[verdict.ICMPErrorMalformed] != 0 || c.Ports[outsidePort].TxPackets == 0 {
			t.Errorf("%d followed, %d held; drops %v: it proves nothing", c.FragmentsFollowed, c.FragmentsHeld, r.allDrops())
		}
	}
	if over == 0 {
		t.Error("nothing was handed over")
	}
}

// recycled is a Memory whose free frames are those of its second half, in turn.
type recycled struct {
	*memory
	next int
}

func (m *recycled) Free([]xdp.Desc) {}

func (m *recycled) Allocate(descs []xdp.Desc) int {
	half := len(m.bytes) / 2
	for i := range descs {
		descs[i] = xdp.Desc{Addr: uint64(half + m.next*chunk%half + headroom)}
		m.next++
	}
	return len(descs)
}

// TestFragmentsForHost: the fragments that the host gets, and those out of order,
// on an address that it shares with NAT.
func TestFragmentsForHost(t *testing.T) {
	r := newRig(t)
	m := withPunts(r)
	r.mapped()
	host := from{src: server, dst: external, sport: 53, dport: 9999, payload: big(88)}.udpPieces(t, 1, 32)
	for range 2 { // an identification is used again
		for _, f := range host {
			r.expectPunt(m, "the host's, in order", outsidePort, f, verdict.HostOwned)
		}
	}
	m.got = nil
	r.send(outsidePort, host[2], host[1])
	if len(m.got) != 0 || r.worker.store.Held() != 2 {
		t.Fatalf("%d punted, %d wait", len(m.got), r.worker.store.Held())
	}
	r.send(outsidePort, host[0])
	if len(m.got) != 3 || m.got[0].reason != verdict.HostOwned || r.worker.store.Held() != 0 {
		t.Fatalf("%d punted, %d wait; drops %v", len(m.got), r.worker.store.Held(), r.allDrops())
	}
	// The steering program gave the first one to the host itself.
	m.got = nil
	r.send(outsidePort, host[1])
	r.now += 50
	r.step()
	if len(m.got) != 1 || m.got[0].reason != verdict.FragmentWithoutFirst || len(r.allDrops()) != 0 {
		t.Fatalf("%d punted; drops %v", len(m.got), r.allDrops())
	}
	nats := from{src: server, dst: external, sport: 53, dport: 4000, payload: big(88)}.udpPieces(t, 2, 32)
	m.got = nil
	r.send(outsidePort, nats[1], nats[0], nats[2])
	if n := len(r.ports[insidePort].sent()); n != 3 || len(m.got) != 0 {
		t.Errorf("NAT's: %d left, %d punted; drops %v", n, len(m.got), r.allDrops())
	}
}

// TestFragmentDividedAgain: REQ-13, 13a: a fragment that is too large for the way
// out is divided, or with DF refused, and the sender told if it is a first one.
func TestFragmentDividedAgain(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(4000)}
	r.setMTU(576)
	m := newReassembler(t)
	train := f.udpPieces(t, 1, 1480)
	r.send(insidePort, train[1], train[0], train[2])
	var port uint16
	for _, frame := range r.ports[outsidePort].sent() {
		if p := decode(t, frame).packet; !p.Is(packet.FlagLaterFragment) {
			port = p.SrcPort
		}
		m.take(frame)
	}
	if len(m.whole) != 1 || r.worker.counters.Fragmented != 3 {
		t.Fatalf("%d datagrams left; drops %v", len(m.whole), r.allDrops())
	}
	checkDatagram(t, m.whole[0], external, server, port, 53, f.payload)
	for _, frame := range train {
		h := frame[packet.EthernetLength:]
		h[5], h[6], h[10], h[11] = 2, h[6]|0x40, 0, 0 // another datagram, with DF
		binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:packet.IPv4MinLength]))
	}
	for i, frame := range train {
		r.send(insidePort, frame)
		if n := len(r.ports[insidePort].sent()); n != map[bool]int{true: 1, false: 0}[i == 0] {
			t.Errorf("fragment %d with DF: %d errors", i, n)
		}
	}
	if r.drops(verdict.FragmentationNeeded) != 3 {
		t.Errorf("drops %v", r.allDrops())
	}
}
