package dsr

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

var macs = unhex("02 00 00 00 00 01 02 00 00 00 00 02 08 00")

// The field note's SYN, after the destination became the backend, and what has to
// leave.
var (
	bareSYN   = unhex("45 00 00 3c 00 00 40 00 3f 06 e3 fc ac 12 00 01 0a 00 02 7b")
	taggedSYN = unhex("47 00 00 44 00 00 40 00 3f 06 d1 f4 ac 12 00 01 0a 00 02 7b 9a 08 00 7d 02 00 12 ac")
)

// frame is an Ethernet frame of a header and a transport of n zero bytes, with
// room in front.
func frame(room int, header []byte, n int) []byte {
	return append(append(append(make([]byte, room), macs...), header...), make([]byte, n)...)
}

// TestFieldNote: the bytes of the field note.
func TestFieldNote(t *testing.T) {
	header := bytes.Clone(bareSYN)
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], packet.Checksum(header))
	b := frame(OptionLen, header, 40)
	if !Insert(b, vip, 32000, CiliumOrder) {
		t.Fatal("no room")
	}
	if got := b[ethernet : ethernet+28]; !bytes.Equal(got, taggedSYN) {
		t.Errorf("% x\nwant % x", got, taggedSYN)
	}
	if !bytes.Equal(b[:ethernet], macs) {
		t.Errorf("Ethernet header % x", b[:ethernet])
	}
	// Cilium's xdp_nodeport_dsr_fwd4: its checksum proves the byte order.
	h := unhex("45 00 00 3c 00 00 00 00 3f 06 00 00 6e 00 0b 01 c0 a8 00 02")
	for order, sum := range map[Order]uint16{CiliumOrder: 0x434a, NetworkOrder: 0xef9d} {
		b := frame(OptionLen, h, 40)
		if !Insert(b, address("172.16.10.2"), 80, order) {
			t.Fatal("no room")
		}
		if got := binary.BigEndian.Uint16(b[ethernet+10:]); got != sum {
			t.Errorf("order %d: checksum %#x, want %#x", order, got, sum)
		}
	}
}

// withOptions is a valid header with options.
func withOptions(options []byte, payload int) []byte {
	h := append(bytes.Clone(bareSYN), options...)
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+payload))
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], packet.Checksum(h))
	return h
}

// TestFindOption: anywhere in the list, and no further than the list makes sense.
func TestFindOption(t *testing.T) {
	option := make([]byte, OptionLen)
	PutOption(option, vip, 32000, CiliumOrder)
	for _, c := range []struct {
		name    string
		options []byte
		at      int
		ok      bool
	}{
		{"none", nil, 0, false},
		{"alone", option, 0, true},
		{"behind no-operations", append([]byte{1, 1, 1, 1}, option...), 4, true},
		{"behind another", append(unhex("94 04 00 00"), option...), 4, true},
		{"behind the end", append([]byte{0, 0, 0, 0}, option...), 0, false},
		{"behind a broken one", append([]byte{0x94, 0, 0, 0}, option...), 0, false},
		{"cut short", option[:6], 0, false},
		{"another length", unhex("9a 04 00 00"), 0, false},
	} {
		gotVIP, port, at, ok := FindOption(c.options, CiliumOrder)
		if ok != c.ok || ok && (at != c.at || gotVIP != vip || port != 32000) {
			t.Errorf("%s: %#x:%d at %d, %v", c.name, gotVIP, port, at, ok)
		}
	}
}

// TestHeaderFull: options are kept, and where there is no room nothing changes.
func TestHeaderFull(t *testing.T) {
	for n := 0; n <= 40; n += 4 {
		options := bytes.Repeat([]byte{1}, n)
		b := frame(OptionLen, withOptions(options, 20), 20)
		before := bytes.Clone(b)
		ok := Insert(b, vip, 80, CiliumOrder)
		if ok != (n <= 32) {
			t.Errorf("%d bytes of options: %v", n, ok)
		}
		if !ok && !bytes.Equal(b, before) {
			t.Errorf("%d bytes of options: changed all the same", n)
		}
		if ok && !bytes.Equal(b[ethernet+28:ethernet+28+n], options) {
			t.Errorf("%d bytes of options: % x", n, b[ethernet+20:])
		}
	}
}

// TestStripUndoesInsert, whatever else is in the header; and gopacket finds the
// header in order all the time.
func TestStripUndoesInsert(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var options []byte
		for range rapid.IntRange(0, 4).Draw(r, "others") {
			options = append(options, rapid.SampledFrom([][]byte{{1, 1, 1, 1}, {0x94, 4, 0, 0}, {0x9a, 4, 1, 2}, {7, 7, 4, 0, 0, 0, 0, 1}}).Draw(r, "option")...)
		}
		options = options[:min(len(options), 24)]
		if rapid.Bool().Draw(r, "end of list") {
			options = append(options, 0, 0, 0, 0)
		}
		n := rapid.IntRange(1, 2).Draw(r, "insertions")
		original := frame(0, withOptions(options, 30), 30)
		if _, _, _, ok := FindOption(original[34:14+int(original[14]&15)*4], CiliumOrder); ok {
			return // cut to look like one
		}
		b := append(make([]byte, n*OptionLen), original...)
		order := rapid.SampledFrom([]Order{CiliumOrder, NetworkOrder}).Draw(r, "order")
		inserted := 0
		for inserted < n && Insert(b[(n-inserted-1)*OptionLen:], vip, 32000, order) {
			inserted++
		}
		got := b[(n-inserted)*OptionLen:]
		verify(r, got)
		if inserted > 0 {
			h := got[ethernet:]
			if a, port, at, ok := FindOption(h[20:int(h[0]&15)*4], order); !ok || a != vip || port != 32000 || at != 0 {
				r.Fatalf("% x", h)
			}
		}
		shorter := Strip(got)
		if shorter != inserted*OptionLen || !bytes.Equal(got[shorter:], original) {
			r.Fatalf("%d bytes shorter:\n% x\nwant\n% x", shorter, got[shorter:], original)
		}
	})
}

// verify has gopacket decode a frame, and compares the header's checksum.
func verify(t interface{ Fatalf(string, ...any) }, b []byte) gopacket.Packet {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !ok {
		t.Fatalf("no IPv4 in % x", b)
	}
	if packet.Checksum(b[ethernet:ethernet+int(ip.IHL)*4]) != 0 {
		t.Fatalf("header checksum of % x", b)
	}
	if int(ip.Length) != len(b)-ethernet {
		t.Fatalf("total length %d of %d bytes", ip.Length, len(b)-ethernet)
	}
	return p
}

// TestIPIP: the inner packet is whole, the outer header as Cilium makes it.
func TestIPIP(t *testing.T) {
	header := withOptions(nil, 40)
	header[1] = 0xb8
	header[4], header[5] = 0x12, 0x34
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], packet.Checksum(header))
	inner := frame(0, header, 40)
	b := append(make([]byte, IPIPLen), inner...)
	EncapsulateIPIP(b, address("172.18.0.1"), address("10.0.2.123"))
	p := verify(t, b)
	outer := p.Layers()[1].(*layers.IPv4)
	if outer.Protocol != layers.IPProtocolIPv4 || outer.SrcIP.String() != "172.18.0.1" || outer.DstIP.String() != "10.0.2.123" ||
		outer.TTL != 64 || outer.TOS != 0xb8 || outer.Id != 0x1234 || outer.Flags != layers.IPv4DontFragment {
		t.Errorf("%+v", outer)
	}
	at, ok := DecapsulateIPIP(b[ethernet:])
	if !ok || !bytes.Equal(b[ethernet+at:], inner[ethernet:]) {
		t.Errorf("at %d, %v: % x", at, ok, b)
	}
	b[ethernet+6] |= 0x20 // more fragments
	if _, ok := DecapsulateIPIP(b[ethernet:]); ok {
		t.Error("a fragment is taken for the whole")
	}
	// A fragment inside is whole outside.
	b = append(make([]byte, IPIPLen), inner...)
	b[IPIPLen+ethernet+6], b[IPIPLen+ethernet+7] = 0x20, 5
	EncapsulateIPIP(b, address("172.18.0.1"), address("10.0.2.123"))
	if at, ok := DecapsulateIPIP(b[ethernet:]); !ok || b[ethernet+at+6] != 0x20 || b[ethernet+6] != 0 {
		t.Errorf("a fragment went out as % x", b[ethernet:][:IPIPLen])
	}
}

// TestGeneve: with and without the option, as gopacket reads it.
func TestGeneve(t *testing.T) {
	inner := frame(0, withOptions(nil, 40), 40)
	for _, named := range []bool{true, false} {
		room, service := GeneveLen, uint32(0)
		if named {
			room, service = room+GeneveOptionLen, vip
		}
		b := append(make([]byte, room), inner...)
		to := conntrack.Tuple{Src: 1, SrcPort: 2, DstPort: 3, Proto: 6}
		if n := EncapsulateGeneve(b, address("172.18.0.1"), address("10.0.2.123"), GeneveSourcePort(&to), service, 32000); n != room {
			t.Fatalf("%d bytes, want %d", n, room)
		}
		p := verify(t, b)
		udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		g, _ := p.Layer(layers.LayerTypeGeneve).(*layers.Geneve)
		if udp == nil || g == nil || udp.DstPort != GenevePort || int(udp.Length) != len(b)-34 || udp.Checksum != 0 || g.VNI != 2 || g.CriticalOption {
			t.Fatalf("%v", p)
		}
		if named {
			if len(g.Options) != 1 || g.Options[0].Class != 0x014b || g.Options[0].Type != 0x81 ||
				!bytes.Equal(g.Options[0].Data, unhex("ac 12 00 02 7d 00 00 00")) {
				t.Errorf("options %+v", g.Options)
			}
		} else if len(g.Options) != 0 {
			t.Errorf("options %+v", g.Options)
		}
		at, a, port, ok := DecapsulateGeneve(b[ethernet:])
		if !ok || a != service || named && port != 32000 || !bytes.Equal(b[ethernet+at:], inner) {
			t.Errorf("at %d: %#x:%d, %v", at, a, port, ok)
		}
		if named {
			b[ethernet+20+8+8+2] = 0x82 // critical, and not known
			if _, _, _, ok := DecapsulateGeneve(b[ethernet:]); ok {
				t.Error("an unknown critical option is ignored")
			}
		}
	}
}

func FuzzFindOption(f *testing.F) {
	f.Add(taggedSYN[20:])
	f.Add([]byte{1, 0x94, 4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, options []byte) {
		if _, _, at, ok := FindOption(options, CiliumOrder); ok && (at+OptionLen > len(options) || options[at] != 0x9a || options[at+1] != 8) {
			t.Errorf("at %d of % x", at, options)
		}
	})
}

func FuzzDecapsulate(f *testing.F) {
	inner := frame(0, withOptions(nil, 20), 20)
	b := append(make([]byte, GeneveLen+GeneveOptionLen), inner...)
	EncapsulateGeneve(b, 1, 2, 3, vip, 4)
	f.Add(b[ethernet:])
	b = append(make([]byte, IPIPLen), inner...)
	EncapsulateIPIP(b, 1, 2)
	f.Add(b[ethernet:])
	f.Fuzz(func(t *testing.T, p []byte) {
		if at, ok := DecapsulateIPIP(p); ok && at+20 > len(p) {
			t.Errorf("IPIP at %d of %d", at, len(p))
		}
		if at, _, _, ok := DecapsulateGeneve(p); ok && at+34 > len(p) {
			t.Errorf("Geneve at %d of %d", at, len(p))
		}
	})
}
