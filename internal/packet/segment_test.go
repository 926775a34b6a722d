package packet

import (
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/verdict"
)

// segmentFrame is a TCP segment in a frame: 20 bytes of IPv4 in front of it.
func segmentFrame(segment []byte) []byte {
	frame := make([]byte, EthernetLength+IPv4MinLength, EthernetLength+IPv4MinLength+len(segment))
	frame[12], frame[13] = 8, 0
	h := frame[EthernetLength:]
	h[0], h[8], h[9] = 0x45, 64, ProtoTCP
	h[2], h[3] = byte((IPv4MinLength+len(segment))>>8), byte(IPv4MinLength+len(segment))
	h[12], h[16], h[19] = 10, 192, 1
	sum := ^Fold(Sum(h, 0))
	h[10], h[11] = byte(sum>>8), byte(sum)
	return append(frame, segment...)
}

// segmentWith is a SYN with options, which are padded with End.
func segmentWith(flags byte, options []byte, payload int) []byte {
	for len(options)%4 != 0 {
		options = append(options, TCPOptionEnd)
	}
	s := make([]byte, TCPMinLength, TCPMinLength+len(options)+payload)
	s[1], s[3] = 1, 2
	copy(s[4:], []byte{0xff, 0xff, 0xff, 0xfe, 1, 2, 3, 4})
	s[12], s[13], s[14], s[15] = byte((TCPMinLength+len(options))/4)<<4, flags, 0x12, 0x34
	s = append(s, options...)
	return append(s, make([]byte, payload)...)
}

func TestSegment(t *testing.T) {
	for _, c := range []struct {
		name    string
		flags   byte
		options []byte
		payload int
		length  uint16
		scale   uint8
	}{
		{"a SYN without options", TCPSyn, nil, 0, 1, NoWindowScale},
		{"a SYN with data", TCPSyn, nil, 10, 11, NoWindowScale},
		{"a FIN with data", TCPFin | TCPAck, nil, 10, 11, 0},
		{"data", TCPAck, nil, 10, 10, 0},
		{"RFC 7323 2.2: a scale", TCPSyn, []byte{1, 3, 3, 7}, 0, 1, 7},
		{"RFC 7323 2.3: above 14", TCPSyn, []byte{3, 3, 15}, 0, 1, 14},
		{"behind others", TCPSyn | TCPAck, []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 9}, 0, 1, 9},
		{"behind the end", TCPSyn, []byte{0, 3, 3, 7}, 0, 1, NoWindowScale},
		{"of another length", TCPSyn, []byte{3, 4, 7, 7}, 0, 1, NoWindowScale},
		{"a length of 0", TCPSyn, []byte{2, 0, 3, 3, 7}, 0, 1, MaxWindowScale},
		{"a length beyond the header", TCPSyn, []byte{1, 1, 2, 9}, 0, 1, MaxWindowScale},
		{"a kind without a length", TCPSyn, []byte{1, 1, 1, 3}, 0, 1, MaxWindowScale},
		{"not of a SYN", TCPAck, []byte{3, 3, 7, 1}, 0, 0, 0},
	} {
		var p Packet
		if r := Parse(segmentFrame(segmentWith(c.flags, c.options, c.payload)), &p); r != verdict.None {
			t.Errorf("%s: %v", c.name, r)
			continue
		}
		if p.Seq != 0xfffffffe || p.Ack != 0x01020304 || p.Window != 0x1234 || p.SegmentLength != c.length || p.WindowScale != c.scale {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

// FuzzSegment: any segment is read without a panic, and a well-formed one as
// gopacket reads it.
func FuzzSegment(f *testing.F) {
	f.Add(segmentWith(TCPSyn, []byte{2, 4, 5, 180, 1, 3, 3, 7}, 5))
	f.Add(segmentWith(TCPSyn|TCPAck, []byte{3, 3, 7, 2}, 0))
	f.Add(segmentWith(TCPFin|TCPAck, []byte{2, 0}, 3))
	f.Fuzz(func(t *testing.T, segment []byte) {
		var p Packet
		if len(segment) > 1000 || Parse(segmentFrame(segment), &p) != verdict.None {
			return
		}
		var tcp layers.TCP
		if tcp.DecodeFromBytes(segment, gopacket.NilDecodeFeedback) != nil {
			return
		}
		length := len(tcp.Payload)
		if tcp.SYN {
			length++
		}
		if tcp.FIN {
			length++
		}
		if p.Seq != tcp.Seq || p.Ack != tcp.Ack || p.Window != tcp.Window || int(p.SegmentLength) != length {
			t.Fatalf("%+v, gopacket %+v", p, tcp)
		}
		if !tcp.SYN {
			return
		}
		want := uint8(NoWindowScale)
		for _, o := range tcp.Options {
			if o.OptionType == layers.TCPOptionKindWindowScale && o.OptionLength == 3 {
				want = min(o.OptionData[0], MaxWindowScale)
				break
			}
		}
		if p.WindowScale != want {
			t.Fatalf("scale %d, gopacket %d of %v", p.WindowScale, want, tcp.Options)
		}
	})
}
