package nat

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// synFrame is a SYN with options, all checksums right.
func synFrame(options, payload []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, packet.TCPOptionEnd)
	}
	total := packet.IPv4MinLength + packet.TCPMinLength + len(options) + len(payload)
	frame := make([]byte, packet.EthernetLength+packet.IPv4MinLength+packet.TCPMinLength)
	frame[12], frame[13] = 8, 0
	h := frame[packet.EthernetLength:]
	h[0], h[8], h[9] = 0x45, 64, packet.ProtoTCP
	binary.BigEndian.PutUint16(h[2:], uint16(total))
	copy(h[12:], []byte{10, 0, 0, 5, 192, 0, 2, 1})
	binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h[:packet.IPv4MinLength], 0)))
	s := h[packet.IPv4MinLength:]
	s[1], s[3], s[12], s[13] = 1, 2, byte((packet.TCPMinLength+len(options))/4)<<4, packet.TCPSyn
	frame = append(append(frame, options...), payload...)
	s = frame[packet.EthernetLength+packet.IPv4MinLength:]
	binary.BigEndian.PutUint16(s[tcpChecksum:], ^packet.Fold(packet.Sum(s, uint32(packet.PseudoSum(0x0a000005, 0xc0000201, packet.ProtoTCP, len(s))))))
	return frame
}

// sumsUp reports whether the TCP checksum is right.
func sumsUp(frame []byte) bool {
	s := frame[packet.EthernetLength+packet.IPv4MinLength:]
	return packet.Fold(packet.Sum(s, uint32(packet.PseudoSum(0x0a000005, 0xc0000201, packet.ProtoTCP, len(s))))) == 0xffff
}

func TestClampMSS(t *testing.T) {
	for _, c := range []struct {
		name          string
		options, want []byte
	}{
		{"lowered", []byte{2, 4, 0x22, 0xb8}, []byte{2, 4, 5, 0x50}},
		{"not raised", []byte{2, 4, 2, 0}, []byte{2, 4, 2, 0}},
		{"at an odd byte", []byte{1, 2, 4, 0x22, 0xb8, 1, 1, 1}, []byte{1, 2, 4, 5, 0x50, 1, 1, 1}},
		{"two of them", []byte{2, 4, 9, 9, 1, 2, 4, 8, 8, 1, 1, 0}, []byte{2, 4, 5, 0x50, 1, 2, 4, 5, 0x50, 1, 1, 0}},
		{"none", []byte{1, 1, 4, 2}, []byte{1, 1, 4, 2}},
		{"behind the end", []byte{0, 0, 0, 0, 2, 4, 9, 9}, []byte{0, 0, 0, 0, 2, 4, 9, 9}},
		{"of another length", []byte{2, 6, 9, 9, 9, 9, 1, 1}, []byte{2, 6, 9, 9, 9, 9, 1, 1}},
		{"broken behind it", []byte{2, 4, 9, 9, 1, 1, 5, 77}, []byte{2, 4, 9, 9, 1, 1, 5, 77}},
		{"a length of 0", []byte{2, 0, 9, 9}, []byte{2, 0, 9, 9}},
		{"cut by the header", []byte{1, 1, 2, 4}, []byte{1, 1, 2, 4}},
	} {
		frame := synFrame(bytes.Clone(c.options), []byte("data"))
		var p packet.Packet
		if r := packet.Parse(frame, &p); r != verdict.None {
			t.Fatalf("%s: %v", c.name, r)
		}
		lowered := ClampMSS(frame, &p, 0x550)
		got := frame[p.L4+packet.TCPMinLength : p.End-4]
		if !bytes.Equal(got, c.want) || lowered == bytes.Equal(c.want, c.options) || !sumsUp(frame) {
			t.Errorf("%s: %v, lowered %v, sum right %v; want %v", c.name, got, lowered, sumsUp(frame), c.want)
		}
	}
}

// TestClampMSSAnyOptions: whatever the options are, nothing but MSS values changes,
// those go to the limit, and a right checksum stays right.
func TestClampMSSAnyOptions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var options []byte
		for range rapid.IntRange(0, 6).Draw(rt, "options") {
			options = append(options, rapid.SampledFrom([][]byte{
				{1}, {2, 4, 0x10, 0}, {2, 4, 1, 0}, {3, 3, 7}, {4, 2}, {5, 3, 9}, {0}, {2, 0}, {9}, {2, 40},
			}).Draw(rt, "option")...)
		}
		frame := synFrame(options, rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(rt, "payload"))
		before := bytes.Clone(frame)
		var p packet.Packet
		if r := packet.Parse(frame, &p); r != verdict.None {
			rt.Fatal(r)
		}
		const limit = 0x0321
		lowered := ClampMSS(frame, &p, limit)
		if !sumsUp(frame) {
			rt.Fatalf("checksum wrong after % x became % x", before, frame)
		}
		changed := 0
		sum := int(p.L4) + tcpChecksum
		for i := 0; i < len(frame); i++ {
			if frame[i] == before[i] || i == sum || i == sum+1 {
				continue
			}
			if binary.BigEndian.Uint16(frame[i:]) != limit || binary.BigEndian.Uint16(before[i:]) != 0x1000 || before[i-1] != 4 || before[i-2] != 2 {
				rt.Fatalf("byte %d changed: % x became % x", i, before, frame)
			}
			changed++
			i++
		}
		if lowered != (changed > 0) {
			rt.Fatalf("lowered %v, %d changed", lowered, changed)
		}
	})
}
