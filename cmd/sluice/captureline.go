package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/pcapng"
)

// capturedPacket is a captured packet as JSON.
type capturedPacket struct {
	At        time.Time         `json:"at"`
	Packet    uint64            `json:"packet"` // the same wherever it is seen
	Interface string            `json:"interface"`
	Point     string            `json:"point"`
	Length    int               `json:"length"` // of the frame, in bytes
	Summary   string            `json:"summary"`
	Comment   map[string]string `json:"comment"` // its fields
}

// showCaptured prints a packet; other blocks are not shown.
func (a *app) showCaptured(in *pcapng.Reader, b *pcapng.Block) error {
	p := b.Packet
	if p == nil {
		return nil
	}
	iface, point, _ := strings.Cut(in.Interfaces[p.Interface].Name, " ")
	if a.json() {
		comment := map[string]string{}
		for field := range strings.SplitSeq(p.Comment, "; ") {
			if name, value, ok := strings.Cut(field, ": "); ok {
				comment[name] = value
			}
		}
		return a.printJSON(capturedPacket{p.At, p.ID, iface, point, p.Length, summary(p.Data), comment})
	}
	_, err := fmt.Fprintf(a.out, "%s %-8s %-4s %s | %s\n", p.At.Local().Format("15:04:05.000000"), iface, point, summary(p.Data), p.Comment)
	return err
}

// summary is a frame on a line, much as `tcpdump -n` has it.
func summary(frame []byte) string {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return summaryARP(arp)
	}
	ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !ok {
		eth, ok := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
		if !ok {
			return fmt.Sprintf("a frame of %d bytes, cut short", len(frame))
		}
		return fmt.Sprintf("%s > %s ethertype %#04x", eth.SrcMAC, eth.DstMAC, uint16(eth.EthernetType))
	}
	size := int(ip.Length) - int(ip.IHL)*4
	if ip.FragOffset > 0 {
		return fmt.Sprintf("IP %s > %s: %s fragment, id %d, offset %d, length %d", ip.SrcIP, ip.DstIP, ip.Protocol, ip.Id, int(ip.FragOffset)*8, size)
	}
	if l, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && len(l.Contents) >= 20 { // of a header that is cut gopacket makes zeros
		return summaryTCP(ip, l, size-int(l.DataOffset)*4)
	}
	if l, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); ok && len(l.Contents) == 8 {
		return fmt.Sprintf("IP %s.%d > %s.%d: UDP, length %d", ip.SrcIP, l.SrcPort, ip.DstIP, l.DstPort, int(l.Length)-8)
	}
	if l, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && len(l.Contents) == 8 {
		text := fmt.Sprintf("IP %s > %s: ICMP %s", ip.SrcIP, ip.DstIP, l.TypeCode)
		if t := l.TypeCode.Type(); t == layers.ICMPv4TypeEchoRequest || t == layers.ICMPv4TypeEchoReply {
			text += fmt.Sprintf(", id %d, seq %d", l.Id, l.Seq)
		}
		return text + fmt.Sprintf(", length %d", size)
	}
	return fmt.Sprintf("IP %s > %s: protocol %d, length %d", ip.SrcIP, ip.DstIP, uint8(ip.Protocol), size)
}

func summaryARP(l *layers.ARP) string {
	from, to := dotted(l.SourceProtAddress), dotted(l.DstProtAddress)
	if l.Operation == layers.ARPRequest {
		return fmt.Sprintf("ARP, request who-has %s tell %s", to, from)
	}
	return fmt.Sprintf("ARP, reply %s is-at %x", from, l.SourceHwAddress)
}

func dotted(b []byte) string {
	if len(b) != 4 {
		return "?"
	}
	return fmt.Sprintf("%d.%d.%d.%d", b[0], b[1], b[2], b[3])
}

func summaryTCP(ip *layers.IPv4, l *layers.TCP, size int) string {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{l.FIN, "F"}, {l.SYN, "S"}, {l.RST, "R"}, {l.PSH, "P"}, {l.ACK, "."}, {l.URG, "U"}, {l.ECE, "E"}, {l.CWR, "W"}} {
		if f.set {
			flags += f.name
		}
	}
	text := fmt.Sprintf("IP %s.%d > %s.%d: Flags [%s], seq %d", ip.SrcIP, l.SrcPort, ip.DstIP, l.DstPort, flags, l.Seq)
	if l.ACK {
		text += fmt.Sprintf(", ack %d", l.Ack)
	}
	return text + fmt.Sprintf(", win %d, length %d", l.Window, size)
}
