package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/internal/verdict"
)

// build serializes layers with gopacket, the independent oracle.
func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ls...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

func ethernet() *layers.Ethernet {
	return &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
}

func ipv4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 64, Protocol: proto, Id: 7,
		SrcIP: net.IPv4(10, 0, 0, 1), DstIP: net.IPv4(192, 0, 2, 9),
	}
}

func udpFrame(t testing.TB, payload string) []byte {
	ip, udp := ipv4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 4000, DstPort: 53}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return build(t, ethernet(), ip, udp, gopacket.Payload(payload))
}

func tcpFrame(t testing.TB, payload string, set func(*layers.TCP)) []byte {
	ip, tcp := ipv4(layers.IPProtocolTCP), &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 1, ACK: true, Window: 100}
	if set != nil {
		set(tcp)
	}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return build(t, ethernet(), ip, tcp, gopacket.Payload(payload))
}

func icmpFrame(t testing.TB, typ uint8, id uint16, payload string) []byte {
	return build(t, ethernet(), ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: id, Seq: 1}, gopacket.Payload(payload))
}

// fixHeader recomputes the IPv4 header checksum after a test changed the header.
func fixHeader(frame []byte) {
	h := frame[EthernetLength:]
	n := int(h[0]&15) * 4
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], Checksum(h[:n]))
}

// withOptions puts options (a multiple of 4 bytes) behind the base header.
func withOptions(frame []byte, options ...byte) []byte {
	head := EthernetLength + IPv4MinLength
	out := append(append(append([]byte(nil), frame[:head]...), options...), frame[head:]...)
	h := out[EthernetLength:]
	h[0] = 0x40 | byte((IPv4MinLength+len(options))/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(out)-EthernetLength))
	fixHeader(out)
	return out
}

func TestParse(t *testing.T) {
	edit := func(frame []byte, f func(h []byte)) []byte {
		f(frame[EthernetLength:])
		fixHeader(frame)
		return frame
	}
	cut := func(frame []byte, n int) []byte { // to n bytes of payload
		frame = frame[:EthernetLength+IPv4MinLength+n]
		return edit(frame, func(h []byte) { binary.BigEndian.PutUint16(h[2:], uint16(len(h))) })
	}
	fragment := func(frame []byte, field uint16) []byte {
		return edit(frame, func(h []byte) { binary.BigEndian.PutUint16(h[6:], field) })
	}
	tests := []struct {
		name  string
		frame []byte
		want  verdict.Reason
		flags Flags
		sport uint16
		dport uint16
	}{
		{"RFC 791: UDP", udpFrame(t, "hello"), verdict.None, 0, 4000, 53},
		{"RFC 791: TCP", tcpFrame(t, "hello", nil), verdict.None, 0, 4000, 80},
		{"RFC 792: echo request has its id as source port", icmpFrame(t, 8, 77, "x"), verdict.None, FlagEcho, 77, 0},
		{"RFC 792: echo reply has its id as destination port", icmpFrame(t, 0, 77, "x"), verdict.None, FlagEcho, 0, 77},
		{"RFC 792: unreachable is an error", icmpFrame(t, 3, 0, "quote"), verdict.None, FlagICMPError, 0, 0},
		{"RFC 792: timestamp is neither", icmpFrame(t, 13, 5, "x"), verdict.None, 0, 0, 0},
		{"6274-2: link padding is cut", append(udpFrame(t, "p"), make([]byte, 20)...), verdict.None, 0, 4000, 53},
		{"791-1: transport begins behind the options", withOptions(udpFrame(t, "hello"), 1, 1, 1, 0), verdict.None, FlagOptions, 4000, 53},
		{"791-2: an unknown option passes", withOptions(udpFrame(t, "hello"), 0x9a, 8, 0, 0, 0, 0, 0, 0), verdict.None, FlagOptions, 4000, 53},
		{"791-2: option length 0", withOptions(udpFrame(t, "hello"), 0x9a, 0, 0, 0), verdict.BadOption, 0, 0, 0},
		{"791-2: option length 1", withOptions(udpFrame(t, "hello"), 0x9a, 1, 0, 0), verdict.BadOption, 0, 0, 0},
		{"791-2: option beyond the header", withOptions(udpFrame(t, "hello"), 0x9a, 8, 0, 0), verdict.BadOption, 0, 0, 0},
		{"791-2: option without length byte", withOptions(udpFrame(t, "hello"), 1, 1, 1, 0x9a), verdict.BadOption, 0, 0, 0},
		{"7126-1: loose source route", withOptions(udpFrame(t, "hello"), 131, 3, 4, 0), verdict.SourceRoute, 0, 0, 0},
		{"7126-1: strict source route", withOptions(udpFrame(t, "hello"), 1, 137, 3, 4), verdict.SourceRoute, 0, 0, 0},
		{"1812-5.2.2: cut inside the IPv4 header", udpFrame(t, "")[:EthernetLength+19], verdict.FrameTooShort, 0, 0, 0},
		{"not IPv4", func() []byte { f := udpFrame(t, ""); f[12] = 0x86; f[13] = 0xdd; return f }(), verdict.NotIPv4, 0, 0, 0},
		{"1812-5.2.2: version 5", edit(udpFrame(t, ""), func(h []byte) { h[0] = 0x55 }), verdict.BadVersion, 0, 0, 0},
		{"6274-1: header length 4 words", edit(udpFrame(t, ""), func(h []byte) { h[0] = 0x44 }), verdict.BadHeaderLength, 0, 0, 0},
		{"6274-1: header longer than the frame", func() []byte { f := udpFrame(t, ""); f[14] = 0x4f; return f }(), verdict.BadHeaderLength, 0, 0, 0},
		{"6274-1: total length under the header's", edit(udpFrame(t, ""), func(h []byte) { h[3] = 19 }), verdict.BadTotalLength, 0, 0, 0},
		{"6274-1: total length beyond the frame", edit(udpFrame(t, ""), func(h []byte) { h[2] = 9 }), verdict.BadTotalLength, 0, 0, 0},
		{"1812-5.2.2: header checksum", func() []byte { f := udpFrame(t, ""); f[EthernetLength+8]--; return f }(), verdict.BadHeaderChecksum, 0, 0, 0},
		{"UDP header cut", edit(udpFrame(t, ""), func(h []byte) { h[3] = 27 }), verdict.TransportTruncated, 0, 0, 0},
		{"UDP length under 8", func() []byte { f := udpFrame(t, "abc"); f[EthernetLength+25] = 7; return f }(), verdict.BadUDPLength, 0, 0, 0},
		{"UDP length beyond the packet", func() []byte { f := udpFrame(t, "abc"); f[EthernetLength+25] = 99; return f }(), verdict.BadUDPLength, 0, 0, 0},
		{"TCP header cut", edit(tcpFrame(t, "", nil), func(h []byte) { h[3] = 39 }), verdict.TransportTruncated, 0, 0, 0},
		{"TCP offset 4 words", func() []byte { f := tcpFrame(t, "", nil); f[EthernetLength+32] = 0x40; return f }(), verdict.BadTCPOffset, 0, 0, 0},
		{"TCP offset beyond the packet", func() []byte { f := tcpFrame(t, "", nil); f[EthernetLength+32] = 0xf0; return f }(), verdict.BadTCPOffset, 0, 0, 0},
		{"TCP SYN+FIN", tcpFrame(t, "", func(l *layers.TCP) { l.SYN, l.FIN, l.ACK = true, true, false }), verdict.BadTCPFlags, 0, 0, 0},
		{"TCP null scan", tcpFrame(t, "", func(l *layers.TCP) { l.ACK = false }), verdict.BadTCPFlags, 0, 0, 0},
		{"TCP xmas scan", tcpFrame(t, "", func(l *layers.TCP) { l.ACK, l.FIN, l.URG, l.PSH = false, true, true, true }), verdict.BadTCPFlags, 0, 0, 0},
		{"TCP SYN with ECE and CWR (RFC 3168)", tcpFrame(t, "", func(l *layers.TCP) { l.ACK, l.SYN, l.ECE, l.CWR = false, true, true, true }), verdict.None, 0, 4000, 80},
		{"TCP FIN+ACK", tcpFrame(t, "", func(l *layers.TCP) { l.FIN = true }), verdict.None, 0, 4000, 80},
		{"ICMP header cut", edit(icmpFrame(t, 8, 1, ""), func(h []byte) { h[3] = 27 }), verdict.TransportTruncated, 0, 0, 0},
		{"first fragment keeps its ports", fragment(udpFrame(t, "12345678"), 0x2000), verdict.None, FlagFragment | FlagMoreFragments, 4000, 53},
		{"791-4: a fragment that nothing can follow", fragment(udpFrame(t, "hello"), 0x2000), verdict.BadFragment, 0, 0, 0},
		{"791-4: an empty fragment", fragment(cut(udpFrame(t, ""), 0), 0x0010), verdict.BadFragment, 0, 0, 0},
		{"1858: the first fragment splits the TCP header", fragment(cut(tcpFrame(t, "", nil), 16), 0x2000), verdict.TinyFragment, 0, 0, 0},
		{"later fragment has none", fragment(udpFrame(t, "hello"), 0x0010), verdict.None, FlagFragment | FlagLaterFragment, 0, 0},
		{"DF is no fragment", fragment(udpFrame(t, "hello"), 0x4000), verdict.None, FlagDontFragment, 4000, 53},
		{"3128: second fragment inside the TCP header", fragment(tcpFrame(t, "12345678", nil), 0x0001), verdict.TinyFragment, 0, 0, 0},
		{"791-4: fragment beyond 65535", fragment(udpFrame(t, "hello"), 0x1fff), verdict.BadTotalLength, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Packet
			if got := Parse(tt.frame, &p); got != tt.want {
				t.Fatalf("Parse = %v, want %v", got, tt.want)
			}
			if tt.want != verdict.None {
				return
			}
			if p.Flags != tt.flags || p.SrcPort != tt.sport || p.DstPort != tt.dport {
				t.Errorf("flags %b ports %d→%d, want %b %d→%d", p.Flags, p.SrcPort, p.DstPort, tt.flags, tt.sport, tt.dport)
			}
			if p.Src != 0x0a000001 || p.Dst != 0xc0000209 || p.TTL != 64 || p.ID != 7 || p.L3 != 14 {
				t.Errorf("header fields: %+v", p)
			}
			if int(p.End) > len(tt.frame) || p.L4 < p.L3+20 || p.End < p.L4 {
				t.Errorf("offsets out of order: %+v", p)
			}
		})
	}
}

// TestChecksumAgainstGopacket holds sums of every length against gopacket's.
func TestChecksumAgainstGopacket(t *testing.T) {
	for n := range 200 {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(rand.Uint32())
		}
		frame := icmpFrame(t, 8, 1, string(payload))
		body := frame[EthernetLength+IPv4MinLength:]
		if got := Fold(Sum(body, 0)); got != 0xffff {
			t.Fatalf("%d bytes of payload: folded sum %#x over a correct ICMP message", n, got)
		}
		want := be16(body[2:])
		binary.BigEndian.PutUint16(body[2:], 0)
		if got := Checksum(body); got != want {
			t.Fatalf("%d bytes of payload: checksum %#x, gopacket has %#x", n, got, want)
		}
	}
}

// TestSumCarries drives the 64-bit sum to its carries, the last one too, against the
// definition.
func TestSumCarries(t *testing.T) {
	for n := range 100 {
		sums(t, bytes.Repeat([]byte{0xff}, n), 0xffffffff)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xfe, 0xff}), 0, 100).Draw(t, "b")
		sums(t, b, rapid.SampledFrom([]uint32{0, 1, 0xffff, 0x10000, 0xffffffff}).Draw(t, "start"))
	})
}

func sums(t rapid.TB, b []byte, start uint32) {
	t.Helper()
	slow := uint64(start)
	for i, v := range b {
		slow += uint64(v) << (8 * ((i + 1) % 2))
	}
	for slow>>16 != 0 {
		slow = slow>>16 + slow&0xffff
	}
	if got := Fold(Sum(b, start)); got != uint16(slow) {
		t.Fatalf("Sum folds to %#x, the definition gives %#x", got, slow)
	}
}

// TestUpdate holds RFC 1624's incremental update against a full sum.
func TestUpdate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "b")
		b[0] |= 1 // a sum of all zeroes never occurs in a header
		new32 := rapid.Uint32().Draw(t, "new32")
		new16 := rapid.Uint16().Draw(t, "new16")
		field := Checksum(b)
		field = Update32(field, be32(b[4:]), new32)
		field = Update16(field, be16(b[8:]), new16)
		binary.BigEndian.PutUint32(b[4:], new32)
		binary.BigEndian.PutUint16(b[8:], new16)
		if want := Checksum(b); field != want {
			t.Fatalf("incremental %#x, full %#x", field, want)
		}
	})
}

// TestPartial is the promise about virtual links: a pseudo-header sum is
// recognised and finished, a finished checksum is left alone.
func TestPartial(t *testing.T) {
	for _, frame := range [][]byte{udpFrame(t, "payload!"), udpFrame(t, "odd"), tcpFrame(t, "data", nil)} {
		var p Packet
		if r := Parse(frame, &p); r != verdict.None {
			t.Fatal(r)
		}
		if Partial(frame, &p) {
			t.Error("a finished checksum is taken for a partial one")
		}
		whole := append([]byte(nil), frame...)
		field := frame[int(p.L4)+checksumOffset(p.Proto):]
		binary.BigEndian.PutUint16(field, PseudoSum(p.Src, p.Dst, p.Proto, int(p.End-p.L4)))
		if !Partial(frame, &p) {
			t.Fatal("a partial checksum is not recognised")
		}
		Complete(frame, &p)
		if string(frame) != string(whole) {
			t.Errorf("completed frame differs from gopacket's:\n%x\n%x", frame, whole)
		}
	}
	var p Packet
	frame := icmpFrame(t, 8, 1, "x")
	Parse(frame, &p)
	if Partial(frame, &p) {
		t.Error("ICMP has no pseudo-header and no partial checksum")
	}
}

func TestCompleteNeverStoresZeroForUDP(t *testing.T) {
	frame := udpFrame(t, "\x00\x00")
	var p Packet
	Parse(frame, &p)
	// Choose the payload so that the sum comes out as 0xffff.
	binary.BigEndian.PutUint16(frame[p.L4+6:], 0)
	pseudo := PseudoSum(p.Src, p.Dst, p.Proto, int(p.End-p.L4))
	rest := Fold(Sum(frame[p.L4:p.End], uint32(pseudo)))
	binary.BigEndian.PutUint16(frame[p.L4+8:], ^rest)
	binary.BigEndian.PutUint16(frame[p.L4+6:], pseudo)
	Complete(frame, &p)
	if got := be16(frame[p.L4+6:]); got != 0xffff {
		t.Errorf("UDP checksum %#x, want 0xffff (RFC 768)", got)
	}
}

func TestParseQuoted(t *testing.T) {
	tcp := tcpFrame(t, "more than the padding", nil)[EthernetLength:]
	broken := append([]byte(nil), tcp...)
	broken[8]++
	tests := []struct {
		name string
		b    []byte
		want verdict.Reason
		end  uint16
	}{
		{"RFC 792: 8 bytes of transport", tcp[:28], verdict.None, 28},
		{"whole packet", tcp, verdict.None, uint16(len(tcp))},
		{"RFC 4884 padding is not the packet's", append(append([]byte(nil), tcp...), 0, 0, 0, 0), verdict.None, uint16(len(tcp))},
		{"RFC 5508 REQ-3b: options", withOptions(tcpFrame(t, "data", nil), 1, 1, 1, 0)[EthernetLength:][:32], verdict.None, 32},
		{"7 bytes of transport", tcp[:27], verdict.ICMPErrorMalformed, 0},
		{"cut header", tcp[:19], verdict.ICMPErrorMalformed, 0},
		{"RFC 5508 REQ-3a: header checksum", broken, verdict.ICMPErrorMalformed, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Packet
			if got := ParseQuoted(tt.b, &p); got != tt.want {
				t.Fatalf("ParseQuoted = %v, want %v", got, tt.want)
			}
			if tt.want == verdict.None && (p.SrcPort != 4000 || p.DstPort != 80 || p.End != tt.end) {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	frame := tcpFrame(t, "data", nil)
	var p Packet
	if n := testing.AllocsPerRun(100, func() { Parse(frame, &p); Partial(frame, &p) }); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

// FuzzParse: nothing that arrives can make the parser panic or report an offset
// outside the frame.
func FuzzParse(f *testing.F) {
	f.Add(udpFrame(f, "hello"))
	f.Add(tcpFrame(f, "hello", nil))
	f.Add(icmpFrame(f, 3, 0, string(tcpFrame(f, "x", nil)[EthernetLength:])))
	f.Add(withOptions(udpFrame(f, "hello"), 0x9a, 8, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		if len(frame) > 4096 {
			return
		}
		if Parse(frame, &p) == verdict.None {
			if p.L4 < p.L3+IPv4MinLength || p.End < p.L4 || int(p.End) > len(frame) {
				t.Fatalf("offsets %+v in a frame of %d bytes", p, len(frame))
			}
			if Partial(frame, &p) {
				Complete(frame, &p)
			}
		}
		if ParseQuoted(frame, &p) == verdict.None && int(p.End) > len(frame) {
			t.Fatalf("quoted offsets %+v in %d bytes", p, len(frame))
		}
	})
}

func BenchmarkParse(b *testing.B) {
	frame := udpFrame(b, "0123456789012345678")
	var p Packet
	for b.Loop() {
		Parse(frame, &p)
	}
}
