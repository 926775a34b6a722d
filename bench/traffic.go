package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"

	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/xdp"
)

// The frames of the traffic in memory: UDP, 60 bytes, as most benchmarks have
// it, with valid checksums.
const (
	frameLength   = 60
	udpLength     = frameLength - packet.EthernetLength - packet.IPv4MinLength
	totalLength   = frameLength - packet.EthernetLength
	l3            = packet.EthernetLength
	l4            = l3 + packet.IPv4MinLength
	frameStride   = 2048 // a UMEM's chunk
	frameHeadroom = 256  // in front of a received frame, as in a UMEM

	// group is how many packets are timed at once: enough for the clock not to
	// count, few enough for the frames to be where a kernel that just copied
	// them would have left them, in the second-level cache.
	group = 256
	burst = gateway.Burst
)

// MAC addresses of the traffic in memory: the gateway's two, and its next hops'.
var (
	insideMAC  = [6]byte{2, 0, 0, 0, 1, 0}
	outsideMAC = [6]byte{2, 0, 0, 0, 1, 1}
	uplinkMAC  = [6]byte{2, 0, 0, 0, 2, 1}
	accessMAC  = [6]byte{2, 0, 0, 0, 2, 0}
	strangeMAC = [6]byte{2, 9, 9, 9, 9, 9} // source of what arrives
)

// endpoints is a packet's addresses and ports, in host byte order.
type endpoints struct {
	src, dst     uint32
	sport, dport uint16
}

// flow is one flow of the traffic: the original direction, and its source as it
// is known outside.
type flow struct {
	endpoints
	external     uint32
	externalPort uint16
}

// arriving is the packet of a direction as it arrives at the gateway.
func (f *flow) arriving(direction int) endpoints {
	if direction == 0 {
		return f.endpoints
	}
	return endpoints{f.dst, f.external, f.dport, f.externalPort}
}

// portsPerHost is how many flows an inside host has (as in CSIT's NAT44 tests).
const portsPerHost = 63

// makeFlows makes flows from inside hosts 10.x.x.x to servers in 198.18.0.0/15
// (RFC 2544), with random ports (RFC 4814). first is the number of the first:
// flows of different numbers have different endpoints.
func makeFlows(first, n int) []flow {
	flows := make([]flow, n)
	for i := range flows {
		k := first + i
		r := rand.New(rand.NewPCG(uint64(k/portsPerHost), 1)) // the host's
		base := r.UintN(32768)
		flows[i].endpoints = endpoints{
			src: 0x0a000000 + 16 + uint32(k/portsPerHost),
			dst: 0xc6120000 + uint32(uint64(k)*0x9e3779b97f4a7c15>>47),
			// An odd stride modulo a power of two repeats no port of the host.
			sport: uint16(32768 + (base+uint(k%portsPerHost)*509)%32768),
			dport: 443,
		}
	}
	return flows
}

// Distribution says how packets choose their flows.
type Distribution string

const (
	Uniform Distribution = "uniform" // every flow alike: the hardest for caches
	Zipf    Distribution = "zipf"    // few flows have most of the packets, exponent 1.1
)

// packets is how many packets a traffic has before it begins again: a power of
// two.
const packets = 1 << 21

// traffic is flows and a sequence of their packets. Bursts of either direction
// take turns: packet i is of direction i / burst % 2.
type traffic struct {
	flows   []flow
	vectors []endpoints // packets of them, as they arrive
	at      int         // the next packet
}

// newTraffic draws the packets of flows, whose number is a power of two.
func newTraffic(flows []flow, how Distribution) *traffic {
	t := &traffic{flows: flows, vectors: make([]endpoints, packets)}
	r := rand.New(rand.NewPCG(4814, uint64(len(flows))))
	next := func() uint64 { return r.Uint64N(uint64(len(flows))) }
	if how == Zipf {
		z := rand.NewZipf(r, 1.1, 1, uint64(len(flows)-1))
		// Flows of neighbouring rank lie apart in memory: an odd factor is a
		// permutation modulo a power of two.
		next = func() uint64 { return z.Uint64() * 0x9e3779b1 % uint64(len(flows)) }
	}
	for i := range t.vectors {
		t.vectors[i] = flows[next()].arriving(i / burst % 2)
	}
	return t
}

// write makes the frame of packet i in b.
func (t *traffic) write(b []byte, i int) {
	writeFrame(b, &t.vectors[i%packets], i/burst%2)
}

// common is what all frames share. The checksum fields hold its share of the
// sums, not complemented.
var common = func() (b [frameLength]byte) {
	copy(b[6:], strangeMAC[:])
	binary.BigEndian.PutUint16(b[12:], packet.EtherTypeIPv4)
	h, u := b[l3:l4], b[l4:]
	h[0], h[6], h[8], h[9] = 0x45, 0x40, 64, packet.ProtoUDP // DF
	binary.BigEndian.PutUint16(h[2:], totalLength)
	binary.BigEndian.PutUint16(u[4:], udpLength)
	copy(u[packet.UDPLength:], "sluice benchmark..")
	binary.BigEndian.PutUint16(h[10:], packet.Fold(packet.Sum(h, 0)))
	pseudo := uint32(packet.PseudoSum(0, 0, packet.ProtoUDP, udpLength))
	binary.BigEndian.PutUint16(u[6:], packet.Fold(packet.Sum(u, pseudo)))
	return b
}()

// writeFrame makes a frame that arrives in a direction.
func writeFrame(b []byte, v *endpoints, direction int) {
	b = b[:frameLength]
	copy(b, common[:])
	to := &insideMAC
	if direction == 1 {
		to = &outsideMAC
	}
	copy(b, to[:])
	h, u := b[l3:l4], b[l4:]
	addresses := v.src>>16 + v.src&0xffff + v.dst>>16 + v.dst&0xffff
	binary.BigEndian.PutUint32(h[12:], v.src)
	binary.BigEndian.PutUint32(h[16:], v.dst)
	binary.BigEndian.PutUint16(h[10:], ^packet.Fold(uint32(binary.BigEndian.Uint16(h[10:]))+addresses))
	binary.BigEndian.PutUint16(u, v.sport)
	binary.BigEndian.PutUint16(u[2:], v.dport)
	sum := ^packet.Fold(uint32(binary.BigEndian.Uint16(u[6:])) + addresses + uint32(v.sport) + uint32(v.dport))
	if sum == 0 {
		sum = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(u[6:], sum)
}

// send writes the traffic to the twin: see the head of twin.c.
func (t *traffic) send(to io.Writer, cpu int) error {
	w := bufio.NewWriterSize(to, 1<<20)
	le := binary.LittleEndian
	b := le.AppendUint64(nil, 0x6e697774)
	b = le.AppendUint64(b, uint64(len(t.flows)))
	b = le.AppendUint64(b, packets)
	b = le.AppendUint64(b, uint64(cpu))
	for _, mac := range [][6]byte{insideMAC, outsideMAC, uplinkMAC, accessMAC} {
		b = append(b, mac[:]...)
	}
	b = append(b, common[:]...)
	b = append(b, 0, 0, 0, 0)
	w.Write(b)
	for i := range t.flows {
		f := &t.flows[i]
		b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b[:0], f.src), f.dst), f.external)
		b = le.AppendUint16(le.AppendUint16(le.AppendUint16(le.AppendUint16(b, f.sport), f.dport), f.externalPort), 0)
		w.Write(b)
	}
	for i := range t.vectors {
		v := &t.vectors[i]
		b = le.AppendUint16(le.AppendUint16(le.AppendUint32(le.AppendUint32(b[:0], v.src), v.dst), v.sport), v.dport)
		w.Write(b)
	}
	if err := w.Flush(); err != nil { // any earlier error, too
		return fmt.Errorf("bench: twin: send the traffic: %w", err)
	}
	return nil
}

// digest is FNV-1a over the frames, in order.
type digest uint64

func newDigest() digest { return 0xcbf29ce484222325 }

func (d digest) add(frame []byte) digest {
	for _, c := range frame {
		d = (d ^ digest(c)) * 0x100000001b3
	}
	return d
}

// sizeName is 1k, 64k, 1M, …
func sizeName(n int) string {
	switch shift := bits.TrailingZeros(uint(n)); {
	case shift >= 20:
		return fmt.Sprintf("%dM", n>>20)
	case shift >= 10:
		return fmt.Sprintf("%dk", n>>10)
	}
	return fmt.Sprint(n)
}

// groupDescs are the descriptors of the frames of a group.
func groupDescs() (d [group]xdp.Desc) {
	for i := range d {
		d[i] = xdp.Desc{Addr: uint64(i*frameStride + frameHeadroom), Len: frameLength}
	}
	return d
}
