package packet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/ip4defrag"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/internal/verdict"
)

// cutUp divides the packet in frame as the gateway does, each fragment in memory
// of its own.
func cutUp(t interface{ Fatalf(string, ...any) }, frame []byte, mtu int) [][]byte {
	var p Packet
	if r := Parse(frame, &p); r != verdict.None {
		t.Fatalf("the packet to divide is %v", r)
	}
	c, ok := NewCut(frame, &p, mtu)
	if !ok {
		return nil
	}
	whole := bytes.Clone(frame)
	frames := make([][]byte, c.Count)
	for i := 1; i < c.Count; i++ {
		dst := make([]byte, EthernetLength+mtu)
		frames[i] = dst[:c.Later(i, dst, whole, &p)]
	}
	frames[0] = whole[:c.First(whole, &p)]
	return frames
}

// header decodes a fragment's with gopacket and checks what holds for each.
func header(t interface{ Fatalf(string, ...any) }, frame []byte, mtu int) *layers.IPv4 {
	h := frame[EthernetLength:]
	var ip layers.IPv4
	if err := ip.DecodeFromBytes(h, gopacket.NilDecodeFeedback); err != nil {
		t.Fatalf("gopacket cannot read a fragment: %v: %x", err, h)
	}
	if len(h) != int(ip.Length) || len(h) > mtu {
		t.Fatalf("a fragment of %d bytes says that it has %d; the MTU is %d", len(h), ip.Length, mtu)
	}
	if Fold(Sum(h[:ip.IHL*4], 0)) != 0xffff {
		t.Fatalf("wrong header checksum: %x", h[:ip.IHL*4])
	}
	return &ip
}

// withHeader gives a frame's packet options and a place in a datagram.
func withHeader(t testing.TB, payload []byte, options []layers.IPv4Option, offset uint16, more bool) []byte {
	ip := ipv4(layers.IPProtocol(253)) // for experiments (RFC 3692): no transport header to agree with
	ip.Options, ip.FragOffset, ip.TOS = options, offset/8, 0x2e
	if more {
		ip.Flags = layers.IPv4MoreFragments
	}
	return build(t, ethernet(), ip, gopacket.Payload(payload))
}

// TestFragmentsMakeTheWhole: whatever is divided, and divided again, is again
// whole when put together, and every fragment obeys RFC 791 section 3.2.
func TestFragmentsMakeTheWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var options []layers.IPv4Option
		for room := 40; room > 0 && rapid.Bool().Draw(rt, "another option"); {
			o := layers.IPv4Option{OptionType: rapid.SampledFrom([]uint8{1, 7, 68, 130, 136, 148}).Draw(rt, "option")}
			n := 1
			if o.OptionType != 1 {
				n = rapid.IntRange(3, 11).Draw(rt, "length")
				o.OptionLength, o.OptionData = uint8(n), bytes.Repeat([]byte{o.OptionType ^ 0xff}, n-2)
			}
			if room -= n; room >= 0 {
				options = append(options, o)
			}
		}
		more := rapid.Bool().Draw(rt, "more")
		payload := make([]byte, rapid.IntRange(100, 3000).Draw(rt, "bytes"))
		if more {
			payload = payload[:len(payload)&^7]
		}
		for i := range payload {
			payload[i] = byte(i * i >> 3)
		}
		offset := uint16(rapid.IntRange(0, 7000).Draw(rt, "offset")) * 8
		frame := withHeader(t, payload, options, offset, more)
		mtu := rapid.IntRange(68, len(frame)-EthernetLength-1).Draw(rt, "mtu")
		frames := cutUp(rt, frame, mtu)
		if len(frames) < 2 {
			rt.Fatalf("%d fragments", len(frames))
		}
		if again := rapid.IntRange(68, mtu).Draw(rt, "next MTU"); rapid.Bool().Draw(rt, "again") {
			var finer [][]byte
			for _, f := range frames {
				if len(f)-EthernetLength <= again {
					finer = append(finer, f)
				} else {
					finer = append(finer, cutUp(rt, f, again)...)
				}
			}
			frames, mtu = finer, again
		}
		checkWhole(rt, frame, frames, payload, mtu)
	})
}

// checkWhole puts fragments together by what their headers say.
func checkWhole(t *rapid.T, frame []byte, frames [][]byte, payload []byte, mtu int) {
	original := header(t, frame, len(frame))
	next := int(original.FragOffset) * 8
	var whole []byte
	for i, f := range frames {
		ip := header(t, f, mtu)
		last := i == len(frames)-1
		switch {
		case int(ip.FragOffset)*8 != next:
			t.Fatalf("fragment %d begins at %d, want %d", i, ip.FragOffset*8, next)
		case !last && (ip.Flags != layers.IPv4MoreFragments || len(ip.Payload)%8 != 0):
			t.Fatalf("fragment %d: flags %v, %d bytes", i, ip.Flags, len(ip.Payload))
		case last && ip.Flags != original.Flags:
			t.Fatalf("the last fragment has flags %v, the packet had %v", ip.Flags, original.Flags)
		case ip.Id != original.Id || ip.TTL != original.TTL || ip.TOS != original.TOS || ip.Protocol != original.Protocol ||
			!ip.SrcIP.Equal(original.SrcIP) || !ip.DstIP.Equal(original.DstIP) || !bytes.Equal(f[:EthernetLength], frame[:EthernetLength]):
			t.Fatalf("fragment %d has another header: %+v, want %+v", i, ip, original)
		}
		if got, want := optionList(ip, 0), optionList(original, i); got != want {
			t.Fatalf("fragment %d has the options %s, want %s", i, got, want)
		}
		whole = append(whole, ip.Payload...)
		next += len(ip.Payload)
	}
	if !bytes.Equal(whole, payload) {
		t.Fatalf("put together: %d bytes, want %d", len(whole), len(payload))
	}
}

// optionList words the options that fragment i of a packet carries: all in the
// first, those with the copied flag in the others. Padding is none.
func optionList(ip *layers.IPv4, i int) (s string) {
	for _, o := range ip.Options {
		if o.OptionType != 0 && (i == 0 || o.OptionType >= 128) {
			s += fmt.Sprintf("%d:%x ", o.OptionType, o.OptionData)
		}
	}
	return s
}

// TestFragmentsThroughGopacket: the transport layer survives, checksum and all,
// as a reassembler that is not ours sees it.
func TestFragmentsThroughGopacket(t *testing.T) {
	data := make([]byte, 1472)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	for mtu := 68; mtu < 1500; mtu += 13 {
		frames := cutUp(t, udpFrame(t, string(data)), mtu)
		defrag := ip4defrag.NewIPv4Defragmenter()
		for i, f := range frames {
			p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
			ip, err := defrag.DefragIPv4(p.Layer(layers.LayerTypeIPv4).(*layers.IPv4))
			if err != nil {
				t.Fatalf("MTU %d, fragment %d: %v", mtu, i, err)
			}
			if whole := ip != nil; whole != (i == len(frames)-1) {
				t.Fatalf("MTU %d: whole after %d of %d fragments: %v", mtu, i+1, len(frames), whole)
			}
			if ip == nil {
				continue
			}
			if !bytes.Equal(ip.Payload[UDPLength:], data) {
				t.Fatalf("MTU %d: the payload changed", mtu)
			}
			if Fold(Sum(ip.Payload, uint32(PseudoSum(0x0a000001, 0xc0000209, ProtoUDP, len(ip.Payload))))) != 0xffff {
				t.Fatalf("MTU %d: wrong UDP checksum", mtu)
			}
		}
	}
}

// TestFragmentCounts: as few fragments as the MTU allows, an unaligned last one
// filled up among them, and none where the MTU has no room for 8 bytes.
func TestFragmentCounts(t *testing.T) {
	security := layers.IPv4Option{OptionType: 130, OptionLength: 40, OptionData: make([]byte, 38)}
	tests := []struct {
		payload, mtu int
		options      []layers.IPv4Option
		want         int
	}{
		{1480, 1499, nil, 2},
		{1480, 1300, nil, 2},
		{1480, 764, nil, 2}, // 744 bytes and 736
		{1480, 763, nil, 3}, // 736, and too many for one
		{1480, 748, nil, 3},
		{48 + 7, 68, nil, 2},
		{48 + 48, 68, nil, 2},
		{100, 71, nil, 3}, // 48 bytes and 51
		{99, 71, nil, 2},
		{30, 68, []layers.IPv4Option{security}, 4}, // 8, 8, 8 and 6: the least that every network carries
		{30, 67, []layers.IPv4Option{security}, 0},
		{30, 27, nil, 0},
		{30, 0, nil, 0},
	}
	for _, tt := range tests {
		frames := cutUp(t, withHeader(t, make([]byte, tt.payload), tt.options, 0, false), tt.mtu)
		if len(frames) != tt.want {
			t.Errorf("%d bytes at MTU %d: %d fragments, want %d", tt.payload, tt.mtu, len(frames), tt.want)
		}
	}
}

// TestTimestampStaysInFirst: RFC 791: record route, timestamp and no-operation
// are not copied, so later fragments carry more.
func TestTimestampStaysInFirst(t *testing.T) {
	timestamp := layers.IPv4Option{OptionType: 68, OptionLength: 8, OptionData: make([]byte, 6)}
	frames := cutUp(t, withHeader(t, make([]byte, 160), []layers.IPv4Option{timestamp}, 0, false), 100)
	var lengths []uint8
	for _, f := range frames {
		lengths = append(lengths, header(t, f, 100).IHL)
	}
	if len(lengths) != 3 || lengths[0] != 7 || lengths[1] != 5 || lengths[2] != 5 {
		t.Errorf("header lengths %v, want [7 5 5]", lengths)
	}
}

// FuzzCut: whatever Parse lets through is divided without a panic, into
// fragments that fit.
func FuzzCut(f *testing.F) {
	f.Add(udpFrame(f, "some bytes to divide, and a few more of them"), uint16(68))
	f.Add(withOptions(udpFrame(f, "some bytes to divide"), 0x9a, 8, 0, 0, 0, 0, 0, 0), uint16(40))
	f.Add(withOptions(udpFrame(f, "some bytes to divide"), 68, 4, 0, 0, 0x82, 2, 1, 0), uint16(36))
	f.Fuzz(func(t *testing.T, frame []byte, mtu uint16) {
		var p Packet
		if len(frame) > 4096 || Parse(frame, &p) != verdict.None || p.Is(FlagDontFragment) || p.Length() <= int(mtu) {
			return
		}
		total := 0
		for _, f := range cutUp(t, frame, int(mtu)) {
			h := f[EthernetLength:]
			n := int(h[0]&15) * 4
			if len(h) != int(be16(h[2:])) || len(h) > int(mtu) || n < IPv4MinLength || n >= len(h) || Fold(Sum(h[:n], 0)) != 0xffff {
				t.Fatalf("MTU %d: fragment %x", mtu, h)
			}
			total += len(h) - n
		}
		if total != 0 && total != int(p.End-p.L4) {
			t.Fatalf("%d bytes became %d", p.End-p.L4, total)
		}
	})
}

func TestCutDoesNotAllocate(t *testing.T) {
	frame := udpFrame(t, string(make([]byte, 1400)))
	work, dst := make([]byte, len(frame)), make([]byte, len(frame))
	if n := testing.AllocsPerRun(100, func() {
		var p Packet
		copy(work, frame)
		Parse(work, &p)
		c, _ := NewCut(work, &p, 576)
		for i := 1; i < c.Count; i++ {
			c.Later(i, dst, work, &p)
		}
		c.First(work, &p)
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
