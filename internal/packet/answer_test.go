package packet

import (
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/internal/verdict"
)

func serialized(t rapid.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func arrivingHeader(t *rapid.T, proto layers.IPProtocol) (*layers.Ethernet, *layers.IPv4) {
	h := &layers.IPv4{Version: 4, TTL: rapid.Uint8Range(1, 255).Draw(t, "ttl"), Protocol: proto, Id: 7, SrcIP: net.IP{198, 51, 100, 9}, DstIP: net.IP{192, 0, 2, 1}}
	for range rapid.IntRange(0, 10).Draw(t, "options") * 4 {
		h.Options = append(h.Options, layers.IPv4Option{OptionType: 1, OptionLength: 1})
	}
	return &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}, h
}

// reparsed holds that p is what Parse finds in the frame.
func reparsed(t *rapid.T, frame []byte, p Packet) {
	t.Helper()
	var again Packet
	if r := Parse(frame[:p.End], &again); r != verdict.None {
		t.Fatalf("the answer is %v", r)
	}
	if again != p {
		t.Fatalf("p is %+v; a parse finds %+v", p, again)
	}
}

// TestAnswerReset holds the reset against RFC 9293 3.10.7.1: what the sender of the
// segment accepts.
func TestAnswerReset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eth, h := arrivingHeader(t, layers.IPProtocolTCP)
		in := &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: rapid.Uint32().Draw(t, "seq"), Ack: rapid.Uint32().Draw(t, "ack")}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			in.SYN = true
		case 1:
			in.SYN, in.ACK = true, true
		case 2:
			in.FIN, in.ACK = true, true
		default:
			in.ACK = true
		}
		_ = in.SetNetworkLayerForChecksum(h)
		data := rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "data")
		frame := serialized(t, eth, h, in, gopacket.Payload(data))
		var p Packet
		if r := Parse(frame, &p); r != verdict.None {
			t.Fatal(r)
		}
		AnswerReset(frame, &p, 77)
		reparsed(t, frame, p)
		got := gopacket.NewPacket(frame[:p.End], layers.LayerTypeEthernet, gopacket.Default)
		ip, out := got.Layer(layers.LayerTypeIPv4).(*layers.IPv4), got.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ip.SrcIP.Equal(h.DstIP) || !ip.DstIP.Equal(h.SrcIP) || ip.Id != 77 || out.SrcPort != 80 || out.DstPort != 4000 || !out.RST || len(out.Payload) != 0 {
			t.Fatalf("%v", got)
		}
		if body := frame[p.L4:p.End]; Fold(Sum(body, uint32(PseudoSum(p.Src, p.Dst, ProtoTCP, len(body))))) != 0xffff {
			t.Fatal("the TCP checksum is wrong")
		}
		length := uint32(len(data))
		if in.SYN || in.FIN {
			length++
		}
		if in.ACK && (out.Seq != in.Ack || out.ACK) || !in.ACK && (out.Seq != 0 || !out.ACK || out.Ack != in.Seq+length) {
			t.Fatalf("sequence %d, acknowledges %d (%v), to %+v", out.Seq, out.Ack, out.ACK, in)
		}
	})
}
