package gateway

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
)

// pieces cuts a frame's packet, which may be longer than any frame, into fragments
// that carry size bytes each: nothing of the gateway's does it.
func pieces(whole []byte, id uint16, size int) (train [][]byte) {
	const header = packet.EthernetLength + packet.IPv4MinLength
	body := whole[header:]
	for from := 0; from < len(body); from += size {
		to := min(from+size, len(body))
		f := append(bytes.Clone(whole[:header]), body[from:to]...)
		h := f[packet.EthernetLength:]
		field := uint16(from / 8)
		if to < len(body) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
		binary.BigEndian.PutUint16(h[4:], id)
		binary.BigEndian.PutUint16(h[6:], field)
		binary.BigEndian.PutUint16(h[10:], 0)
		binary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:packet.IPv4MinLength]))
		train = append(train, f)
	}
	return train
}

// reassembler is the slow model of a receiver: it puts datagrams together byte by
// byte.
type reassembler struct {
	t     fataler
	parts map[fragment.Key]*parts
	whole [][]byte // datagrams that became complete, as one packet each, from the IPv4 header on
}

type parts struct {
	header []byte // of the first fragment
	bytes  map[int]byte
	length int // of the payload, 0 while unknown
}

func newReassembler(t fataler) *reassembler {
	return &reassembler{t: t, parts: map[fragment.Key]*parts{}}
}

// take adds a frame that left.
func (m *reassembler) take(frame []byte) {
	h := frame[packet.EthernetLength:]
	n := int(h[0]&15) * 4
	if packet.Fold(packet.Sum(h[:n], 0)) != 0xffff || int(binary.BigEndian.Uint16(h[2:])) != len(h) {
		m.t.Fatalf("wrong header: %x", h[:n])
	}
	k := fragment.Key{Src: address(h[12:]), Dst: address(h[16:]), ID: binary.BigEndian.Uint16(h[4:]), Proto: h[9]}
	field := binary.BigEndian.Uint16(h[6:])
	x := m.parts[k]
	if x == nil {
		x = &parts{bytes: map[int]byte{}}
		m.parts[k] = x
	}
	at := int(field&0x1fff) * 8
	if at == 0 {
		x.header = bytes.Clone(h[:n])
	}
	for i, b := range h[n:] {
		x.bytes[at+i] = b
	}
	if field&0x2000 == 0 {
		x.length = at + len(h) - n
	}
	if x.length == 0 || x.header == nil || len(x.bytes) != x.length {
		return
	}
	whole := x.header
	for i := range x.length {
		whole = append(whole, x.bytes[i])
	}
	delete(m.parts, k)
	m.whole = append(m.whole, whole)
}

// big is a payload of n bytes.
func big(n int) string {
	b, random := make([]byte, n), rand.New(rand.NewPCG(uint64(n), 2))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return string(b)
}

// checkDatagram holds a datagram, from the IPv4 header on, against what it should
// be: addresses, ports or identifier, transport checksum, payload.
func checkDatagram(t fataler, d []byte, src, dst uint32, sport, dport uint16, data string) {
	if address(d[12:]) != src || address(d[16:]) != dst {
		t.Fatalf("%v → %v, want %v → %v", fib.Addr(address(d[12:])), fib.Addr(address(d[16:])), fib.Addr(src), fib.Addr(dst))
	}
	body, header := d[packet.IPv4MinLength:], packet.UDPLength
	sum := uint32(packet.PseudoSum(src, dst, d[9], len(body)))
	switch d[9] {
	case packet.ProtoICMP:
		sum, sport, dport = 0, sport|dport, 0
		if got := binary.BigEndian.Uint16(body[4:]); got != sport {
			t.Fatalf("identifier %d, want %d", got, sport)
		}
	case packet.ProtoTCP:
		header = packet.TCPMinLength
		fallthrough
	default:
		if s, d := binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:]); s != sport || d != dport {
			t.Fatalf("ports %d → %d, want %d → %d", s, d, sport, dport)
		}
	}
	if packet.Fold(packet.Sum(body, sum)) != 0xffff {
		t.Fatalf("wrong transport checksum, protocol %d", d[9])
	}
	if string(body[header:]) != data {
		t.Fatalf("%d bytes of payload, want %d, or others", len(body)-header, len(data))
	}
}

// pair are two workers of one gateway: what arrives at each is up to the test.
func pair(t testing.TB, options ...rigOption) [2]*rig {
	share := func(r *rig, _ *Snapshot) { r.workers, r.exchange = 2, fragment.NewExchange(2, [2]uint64{3, 4}) }
	a := newRig(t, append(options, share)...)
	b := &rig{t: t, memory: newMemory(2048), now: a.now, resolve: a.resolve, table: a.table, ext: a.ext, builder: a.builder, mtu: a.mtu}
	b.pointer.Store(a.pointer.Load())
	for i := range b.ports {
		b.ports[i] = &port{m: b.memory, room: -1}
	}
	b.worker = New(Config{
		ID: 1, Workers: 2, Table: b.table, Ports: []Port{b.ports[0], b.ports[1]}, Memory: b.memory, Snapshot: &b.pointer,
		Resolve: b.resolve, Seed: [32]byte{2}, Fragments: a.exchange, Wake: b.woke,
	})
	return [2]*rig{a, b}
}

// woke notes that the rig's worker woke another one.
func (r *rig) woke(worker int) { r.wakes[worker]++ }

// udpPieces are the fragments of a UDP datagram.
func (f from) udpPieces(t testing.TB, id uint16, size int) [][]byte {
	return pieces(f.udp(t), id, size)
}

// summed is f with a payload of n bytes, or a few more, by which its UDP checksum is
// not 0: gopacket writes that as it is, and it would stand for none (RFC 768).
func (f from) summed(t testing.TB, n int) from {
	for f.payload = big(n); binary.BigEndian.Uint16(f.udp(t)[40:]) == 0; n++ {
		f.payload = big(n + 1)
	}
	return f
}

// later is one fragment that carries data at an offset.
func (f from) later(t testing.TB, id uint16, offset int, more bool, data string) []byte {
	l := f.ipv4(layers.IPProtocolUDP)
	l.Id, l.FragOffset = id, uint16(offset/8)
	if more {
		l.Flags = layers.IPv4MoreFragments
	}
	return f.frame(t, l, payload(data))
}

// rewriteAddresses changes a packet's addresses and its header checksum alone.
func rewriteAddresses(frame []byte, p *packet.Packet, src, dst uint32) {
	h := frame[p.L3:][:packet.IPv4MinLength]
	binary.BigEndian.PutUint32(h[12:], src)
	binary.BigEndian.PutUint32(h[16:], dst)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], packet.Checksum(h))
}
