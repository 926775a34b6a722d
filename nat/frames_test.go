package nat

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// datagram describes an IPv4 packet that gopacket, the independent oracle,
// builds with all checksums computed from scratch.
type datagram struct {
	proto    uint8
	src, dst uint32
	sport    uint16 // TCP, UDP: the port; ICMP echo request: the identifier
	dport    uint16 // TCP, UDP: the port; ICMP echo reply: the identifier
	icmpType uint8  // 8 or 0
	ttl      uint8
	options  []layers.IPv4Option
	payload  []byte
	noSum    bool // UDP without checksum
}

func (d datagram) tuple() conntrack.Tuple {
	return conntrack.Tuple{Src: d.src, Dst: d.dst, SrcPort: d.sport, DstPort: d.dport, Proto: d.proto}
}

// translated is the datagram as its sender would have built it with the tuple t.
func (d datagram) translated(t conntrack.Tuple) datagram {
	d.src, d.dst, d.sport, d.dport = t.Src, t.Dst, t.SrcPort, t.DstPort
	return d
}

func ip(a uint32) net.IP { return address(a).AsSlice() }

// bytes serializes the datagram, beginning at its IPv4 header.
func (d datagram) bytes(t testing.TB) []byte {
	t.Helper()
	header := &layers.IPv4{
		Version: 4, TTL: d.ttl, Protocol: layers.IPProtocol(d.proto), Id: 0x1234, Flags: layers.IPv4DontFragment,
		SrcIP: ip(d.src), DstIP: ip(d.dst), Options: d.options,
	}
	var transport gopacket.SerializableLayer
	switch d.proto {
	case packet.ProtoTCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(d.sport), DstPort: layers.TCPPort(d.dport), Seq: 7, Ack: 9, ACK: true, Window: 1000}
		must(t, tcp.SetNetworkLayerForChecksum(header))
		transport = tcp
	case packet.ProtoUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(d.sport), DstPort: layers.UDPPort(d.dport)}
		must(t, udp.SetNetworkLayerForChecksum(header))
		transport = udp
	case packet.ProtoICMP:
		transport = &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(d.icmpType, 0), Id: d.sport | d.dport, Seq: 3}
	default:
		transport = gopacket.Payload("transport without ports")
	}
	b := serialize(t, header, transport, gopacket.Payload(d.payload))
	if d.proto == packet.ProtoUDP {
		sum := b[int(b[0]&15)*4+udpChecksum:]
		switch {
		case d.noSum:
			binary.BigEndian.PutUint16(sum, 0)
		case binary.BigEndian.Uint16(sum) == 0:
			binary.BigEndian.PutUint16(sum, 0xffff) // RFC 768, which gopacket leaves out
		}
	}
	return b
}

// frame puts the datagram behind an Ethernet header.
func (d datagram) frame(t testing.TB) []byte { return ethernet(d.bytes(t)) }

func ethernet(b []byte) []byte {
	return append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, b...)
}

func serialize(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...))
	return append([]byte(nil), buf.Bytes()...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t testing.TB, frame []byte) packet.Packet {
	t.Helper()
	var p packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		t.Fatalf("Parse(%x): %v", frame, r)
	}
	return p
}

// fixHeader recomputes the checksum of the IPv4 header at the beginning of b.
func fixHeader(b []byte) {
	n := int(b[0]&15) * 4
	binary.BigEndian.PutUint16(b[ipChecksum:], 0)
	binary.BigEndian.PutUint16(b[ipChecksum:], packet.Checksum(b[:n]))
}

// transportSum is the folded sum over pseudo-header and segment: 0xffff where
// the checksum is right, and something else, by which it is wrong, where not.
func transportSum(frame []byte, p *packet.Packet) uint16 {
	b := frame[p.L4:p.End]
	if p.Proto == packet.ProtoICMP {
		return packet.Fold(packet.Sum(b, 0))
	}
	return packet.Fold(packet.Sum(b, uint32(packet.PseudoSum(p.Src, p.Dst, p.Proto, len(b)))))
}
