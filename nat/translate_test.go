package nat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

var anyDatagram = rapid.Custom(func(t *rapid.T) datagram {
	d := datagram{
		proto: rapid.SampledFrom([]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP, 47}).Draw(t, "proto"),
		src:   rapid.Uint32().Draw(t, "src"), dst: rapid.Uint32().Draw(t, "dst"),
		sport: rapid.Uint16().Draw(t, "sport"), dport: rapid.Uint16().Draw(t, "dport"),
		ttl:     rapid.Uint8Range(1, 255).Draw(t, "ttl"),
		payload: rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "payload"),
		noSum:   rapid.IntRange(0, 7).Draw(t, "noSum") == 0,
	}
	if rapid.IntRange(0, 3).Draw(t, "options") == 0 {
		d.options = []layers.IPv4Option{{OptionType: 0x9a, OptionLength: 8, OptionData: rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "option")}}
	}
	return d.oneID(t)
})

// oneID makes ICMP echoes and portless protocols of random datagrams: an echo
// has its identifier where its direction has it.
func (d datagram) oneID(t *rapid.T) datagram {
	switch d.proto {
	case packet.ProtoICMP:
		d.icmpType = rapid.SampledFrom([]uint8{8, 0}).Draw(t, "icmpType")
		if d.icmpType == 8 {
			d.dport = 0
		} else {
			d.sport = 0
		}
	case 47:
		d.sport, d.dport = 0, 0
	}
	return d
}

// anyTranslation is a tuple that a flow could give d.
func anyTranslation(t *rapid.T, d datagram) conntrack.Tuple {
	to := conntrack.Tuple{
		Src: rapid.Uint32().Draw(t, "to src"), Dst: rapid.Uint32().Draw(t, "to dst"),
		SrcPort: rapid.Uint16().Draw(t, "to sport"), DstPort: rapid.Uint16().Draw(t, "to dport"), Proto: d.proto,
	}
	switch {
	case d.proto == 47:
		to.SrcPort, to.DstPort = 0, 0
	case d.proto == packet.ProtoICMP && d.icmpType == 8:
		to.DstPort = 0
	case d.proto == packet.ProtoICMP:
		to.SrcPort = 0
	}
	return to
}

// TestRewriteEqualsRecompute: the incremental checksums are those that gopacket
// computes from scratch for the same packet with the new tuple, bit for bit.
func TestRewriteEqualsRecompute(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := anyDatagram.Draw(rt, "datagram")
		to := anyTranslation(rt, d)
		frame := d.frame(t)
		p := parse(t, frame)
		Rewrite(frame, &p, to)
		if want := d.translated(to).frame(t); !bytes.Equal(frame, want) {
			rt.Fatalf("\n got %x\nwant %x", frame, want)
		}
		if again := parse(t, frame); p != again {
			rt.Fatalf("p = %+v, but the frame has %+v", p, again)
		}
	})
}

// TestRewriteBackIsIdentity: there and back leaves every bit as it was, also
// where a checksum was wrong.
func TestRewriteBackIsIdentity(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := anyDatagram.Draw(rt, "datagram")
		frame := d.frame(t)
		p := parse(t, frame)
		if offset := sumOffset(d); offset >= 0 && rapid.Bool().Draw(rt, "corrupt") {
			// 0xffff, the other form of 0, comes back as 0: only UDP has it.
			wrong := rapid.Uint16Range(0, 0xfffe).Draw(rt, "checksum")
			binary.BigEndian.PutUint16(frame[int(p.L4)+offset:], wrong)
		}
		before := bytes.Clone(frame)
		Rewrite(frame, &p, anyTranslation(rt, d))
		Rewrite(frame, &p, d.tuple())
		if !bytes.Equal(frame, before) {
			rt.Fatalf("\nafter  %x\nbefore %x", frame, before)
		}
	})
}

// sumOffset is where in the transport header d's checksum stands, or -1.
func sumOffset(d datagram) int {
	switch d.proto {
	case packet.ProtoTCP:
		return tcpChecksum
	case packet.ProtoUDP:
		return udpChecksum
	case packet.ProtoICMP:
		return icmpChecksum
	}
	return -1
}

// TestRewriteKeepsWrongSums: a checksum that is off stays off by the same
// amount. RFC 1624's point, and what keeps a NAT from repairing garbage.
func TestRewriteKeepsWrongSums(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := anyDatagram.Draw(rt, "datagram")
		d.noSum = false
		if d.proto == 47 {
			d.proto = packet.ProtoTCP
		}
		frame := d.frame(t)
		p := parse(t, frame)
		wrong := rapid.Uint16Range(1, 0xffff).Draw(rt, "checksum")
		binary.BigEndian.PutUint16(frame[int(p.L4)+sumOffset(d):], wrong)
		before := transportSum(frame, &p)
		Rewrite(frame, &p, anyTranslation(rt, d))
		if after := transportSum(frame, &p); after%0xffff != before%0xffff {
			rt.Fatalf("the sum was %#04x and is %#04x now", before, after)
		}
	})
}

func TestRewriteUDPZero(t *testing.T) {
	d := datagram{proto: packet.ProtoUDP, src: addr("10.0.0.1"), dst: addr("1.1.1.1"), sport: 5000, dport: 53, ttl: 64, payload: []byte("query")}
	to := d.tuple()
	to.Src, to.SrcPort = addr("192.0.2.1"), 1024

	t.Run("RFC 768: no checksum stays none", func(t *testing.T) {
		d := d
		d.noSum = true
		frame := d.frame(t)
		p := parse(t, frame)
		Rewrite(frame, &p, to)
		if sum := binary.BigEndian.Uint16(frame[int(p.L4)+udpChecksum:]); sum != 0 {
			t.Errorf("checksum %#04x, want 0", sum)
		}
	})
	t.Run("RFC 768: a sum of 0 is sent as 0xffff", func(t *testing.T) {
		met := 0
		frame := d.frame(t)
		p := parse(t, frame)
		for port := range 0x10000 {
			to.SrcPort = uint16(port)
			Rewrite(frame, &p, to)
			switch binary.BigEndian.Uint16(frame[int(p.L4)+udpChecksum:]) {
			case 0:
				t.Fatalf("port %d: checksum 0 says that there is none", port)
			case 0xffff:
				met++
			}
			if s := transportSum(frame, &p); s != 0xffff {
				t.Fatalf("port %d: the datagram sums to %#04x", port, s)
			}
		}
		if met == 0 {
			t.Error("no port gave 0xffff: the case was not met")
		}
	})
}

// split cuts a datagram into two fragments, the first with n bytes of payload.
func split(b []byte, n int) (first, later []byte) {
	h := int(b[0]&15) * 4
	first = bytes.Clone(b[:h+n])
	later = append(bytes.Clone(b[:h]), b[h+n:]...)
	for _, f := range [][]byte{first, later} {
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
	}
	binary.BigEndian.PutUint16(first[6:], 0x2000)
	binary.BigEndian.PutUint16(later[6:], uint16(n/8))
	fixHeader(first)
	fixHeader(later)
	return ethernet(first), ethernet(later)
}

// TestRewriteFragments: ports are only in the first fragment, whose checksum
// covers the whole datagram; of the later one nothing but addresses changes.
func TestRewriteFragments(t *testing.T) {
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP} {
		t.Run(fmt.Sprint(proto), func(t *testing.T) {
			d := datagram{proto: proto, src: addr("10.0.0.1"), dst: addr("1.1.1.1"), sport: 5000, ttl: 64, icmpType: 8, payload: bytes.Repeat([]byte("0123456789"), 20)}
			to := d.tuple()
			to.Src, to.SrcPort = addr("192.0.2.1"), 1024
			first, later := split(d.bytes(t), 64)
			wantFirst, wantLater := split(d.translated(to).bytes(t), 64)
			for _, f := range []struct{ frame, want []byte }{{first, wantFirst}, {later, wantLater}} {
				p := parse(t, f.frame)
				Rewrite(f.frame, &p, to)
				if !bytes.Equal(f.frame, f.want) {
					t.Errorf("\n got %x\nwant %x", f.frame, f.want)
				}
			}
		})
	}
}

// TestRewriteSame: a packet whose tuple stays is not touched, wrong or unusual
// checksums included.
func TestRewriteSame(t *testing.T) {
	d := datagram{proto: packet.ProtoTCP, src: addr("10.0.0.1"), dst: addr("10.0.0.2"), sport: 5000, dport: 80, ttl: 64}
	frame := d.frame(t)
	p := parse(t, frame)
	binary.BigEndian.PutUint16(frame[int(p.L4)+tcpChecksum:], 0xffff)
	before := bytes.Clone(frame)
	Rewrite(frame, &p, d.tuple())
	if !bytes.Equal(frame, before) {
		t.Errorf("\nafter  %x\nbefore %x", frame, before)
	}
}

// TestRewriteOtherICMP: a message that is neither echo nor error has no
// identifier that we know of; only its addresses change.
func TestRewriteOtherICMP(t *testing.T) {
	d := datagram{proto: packet.ProtoICMP, src: addr("10.0.0.1"), dst: addr("10.0.0.2"), sport: 99, ttl: 64, icmpType: 13, payload: make([]byte, 12)}
	frame := d.frame(t)
	p := parse(t, frame)
	to := conntrack.Tuple{Src: addr("192.0.2.1"), Dst: d.dst, SrcPort: 1, DstPort: 2, Proto: d.proto}
	Rewrite(frame, &p, to)
	want := d
	want.src = to.Src
	if !bytes.Equal(frame, want.frame(t)) {
		t.Errorf("\n got %x\nwant %x", frame, want.frame(t))
	}
}

func TestDecrementTTL(t *testing.T) {
	for ttl := 1; ttl <= 255; ttl++ {
		// Every source gives another checksum: the carry is met on both sides.
		for src := range uint32(300) {
			d := datagram{proto: 47, src: src * 0x01010101, dst: addr("1.1.1.1"), ttl: uint8(ttl)}
			b := make([]byte, 20)
			b[0], b[3], b[8], b[9] = 0x45, 20, d.ttl, d.proto
			binary.BigEndian.PutUint32(b[12:], d.src)
			binary.BigEndian.PutUint32(b[16:], d.dst)
			fixHeader(b)
			frame := ethernet(b)
			p := parse(t, frame)
			DecrementTTL(frame, &p)
			b[8]--
			fixHeader(b)
			if !bytes.Equal(frame[14:], b) || p.TTL != uint8(ttl-1) {
				t.Fatalf("TTL %d, source %d:\n got %x\nwant %x", ttl, src, frame[14:], b)
			}
		}
	}
}

func TestTranslateAllocs(t *testing.T) {
	there, back, frame, p := rewriteFixture(t)
	if n := testing.AllocsPerRun(100, func() {
		Rewrite(frame, &p, there)
		DecrementTTL(frame, &p)
		Rewrite(frame, &p, back)
	}); n != 0 {
		t.Errorf("a rewrite allocates %v times", n)
	}
}

func rewriteFixture(t testing.TB) (there, back conntrack.Tuple, frame []byte, p packet.Packet) {
	d := datagram{proto: packet.ProtoTCP, src: addr("10.0.0.1"), dst: addr("1.1.1.1"), sport: 5000, dport: 443, ttl: 255, payload: make([]byte, 1000)}
	back, there = d.tuple(), d.tuple()
	there.Src, there.SrcPort = addr("192.0.2.1"), 1024
	frame = d.frame(t)
	return there, back, frame, parse(t, frame)
}

func BenchmarkRewrite(b *testing.B) {
	there, back, frame, p := rewriteFixture(b)
	for b.Loop() {
		Rewrite(frame, &p, there)
		Rewrite(frame, &p, back)
	}
	b.ReportMetric(2, "rewrites/op")
}

func BenchmarkDecrementTTL(b *testing.B) {
	_, _, frame, p := rewriteFixture(b)
	for b.Loop() {
		DecrementTTL(frame, &p)
	}
}

// FuzzRewrite: whatever Parse accepts is translated without a panic, stays
// acceptable, carries the tuple, and differs nowhere but in the header fields.
func FuzzRewrite(f *testing.F) {
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP, 47} {
		d := datagram{proto: proto, src: addr("10.0.0.1"), dst: addr("1.1.1.1"), sport: 5000, ttl: 64, icmpType: 8, payload: make([]byte, 100)}
		f.Add(d.frame(f), addr("192.0.2.1"), addr("1.1.1.1"), uint16(1024), uint16(53))
		first, later := split(d.bytes(f), 64)
		f.Add(first, addr("192.0.2.1"), addr("1.1.1.1"), uint16(1024), uint16(53))
		f.Add(later, addr("192.0.2.1"), addr("1.1.1.1"), uint16(1024), uint16(53))
	}
	f.Fuzz(func(t *testing.T, frame []byte, src, dst uint32, sport, dport uint16) {
		var p packet.Packet
		if len(frame) > 0xffff || packet.Parse(frame, &p) != verdict.None {
			return
		}
		before, start := bytes.Clone(frame), p
		Rewrite(frame, &p, conntrack.Tuple{Src: src, Dst: dst, SrcPort: sport, DstPort: dport, Proto: p.Proto})
		var after packet.Packet
		if r := packet.Parse(frame, &after); r != verdict.None {
			t.Fatalf("the rewritten packet is refused: %v", r)
		}
		if after != p || p.Src != src || p.Dst != dst {
			t.Fatalf("p = %+v, but the frame has %+v", p, after)
		}
		head := min(int(start.L4)+packet.TCPMinLength, int(start.End))
		if start.Is(packet.FlagLaterFragment) {
			head = int(start.L4)
		}
		if !bytes.Equal(frame[:start.L3+ipChecksum], before[:start.L3+ipChecksum]) || !bytes.Equal(frame[head:], before[head:]) {
			t.Fatal("bytes changed outside of the headers")
		}
	})
}
