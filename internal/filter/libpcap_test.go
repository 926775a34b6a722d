package filter

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"

	"sluice/internal/lab"
)

// TestAgainstLibpcap: of a packet that nothing is done with, a filter says what
// libpcap's program for the same text says. tcpdump compiles, the machine is
// golang.org/x/net/bpf's. Without tcpdump TestAgainstGopacket and the tables hold
// the language.
func TestAgainstLibpcap(t *testing.T) {
	tcpdump := lab.RequireProgram(t, "tcpdump", "tcpdump")
	texts := append([]string{}, libpcapTexts...)
	drawn := rapid.Custom(func(t *rapid.T) string { return drawText(t, 3) })
	for i := range 40 {
		texts = append(texts, drawn.Example(i))
	}
	frames := rapid.SliceOfN(rapid.Custom(drawFrame), 200, 200).Example(7)
	for _, text := range texts {
		vm := compile(t, tcpdump, text)
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for _, frame := range frames {
			var p packet.Packet
			if r := packet.Parse(frame, &p); r != verdict.None {
				t.Fatal(r)
			}
			want, err := vm.Run(frame)
			if err != nil {
				t.Fatal(err)
			}
			v := viewOf(&p)
			if got := f.Match(&v); got != (want > 0) {
				t.Fatalf("%q is %v of %+v, libpcap says %v", text, got, v, want > 0)
			}
		}
	}
}

// libpcapTexts are words and bindings in which the two could differ.
var libpcapTexts = []string{
	"tcp or udp and port 1", "port 1 and udp or tcp", "not tcp and port 2", "not udp or icmp", "! host 10.0.0.1 && dst port 3 || icmp",
	"src 10.0.0.2", "dst net 10.0.0.2/31", "net 0.0.0.0/0", "portrange 2-4", "udp dst portrange 1-3", "tcp src port 2", "proto 1",
	"port 1 or 2", "tcp src port 1 or 2 or 3", "src host 10.0.0.1 or 10.0.0.2", "dst 10.0.0.1 or 10.0.0.3 and port 2 or 4", "port 1 and not 2",
	"tcp[tcpflags] == tcp-syn", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", "tcp[tcpflags] & tcp-rst != 0", "not tcp[tcpflags] & tcp-ack != 0",
	"tcp[13] = 18", "tcp[13] & 0x3f != 2 and port 1", "tcp[tcpflags] & (tcp-ece|tcp-cwr) != 0", "tcp[tcpflags] & (tcp-fin|tcp-push|tcp-urg) = 0",
}

// viewOf is what a filter is asked of a packet by itself.
func viewOf(p *packet.Packet) View {
	v := View{Arrives: conntrack.Tuple{Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto}}
	v.Leaves = v.Arrives
	v.TCP, v.TCPFlags = p.Proto == packet.ProtoTCP, p.TCPFlags
	return v
}

// compile has libpcap compile a filter for Ethernet. What both languages have is
// drawn, so that it must; unoptimised, since the optimiser refuses what can never be true.
func compile(t *testing.T, tcpdump, text string) *bpf.VM {
	t.Helper()
	out, err := exec.Command(tcpdump, "-O", "-y", "EN10MB", "-ddd", text).Output()
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	var raw []bpf.RawInstruction
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n")[1:] {
		var i bpf.RawInstruction
		if _, err := fmt.Sscan(line, &i.Op, &i.Jt, &i.Jf, &i.K); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		raw = append(raw, i)
	}
	program, ok := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(program)
	if !ok || err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return vm
}

// drawText draws a filter that both languages have.
func drawText(t *rapid.T, depth int) string {
	side := rapid.SampledFrom([]string{"", "src ", "dst "}).Draw(t, "side")
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth == 0 {
		kind %= 5
	}
	low := rapid.IntRange(0, 5).Draw(t, "low")
	switch kind {
	case 0:
		return side + "host " + drawAddr(t).String()
	case 1:
		return fmt.Sprintf("%s%sportrange %d-%d", rapid.SampledFrom([]string{"", "tcp ", "udp "}).Draw(t, "of"), side, low, low+2)
	case 2:
		return fmt.Sprintf("%sport %d", side, low)
	case 3:
		return rapid.SampledFrom([]string{"tcp", "udp", "icmp"}).Draw(t, "protocol")
	case 4:
		return fmt.Sprintf("tcp[tcpflags] & %d %s %d", rapid.IntRange(0, 255).Draw(t, "mask"), rapid.SampledFrom([]string{"==", "!="}).Draw(t, "relation"), low)
	case 5:
		return "not (" + drawText(t, depth-1) + ")"
	case 6:
		return "(" + drawText(t, depth-1) + ")"
	}
	return drawText(t, depth-1) + rapid.SampledFrom([]string{" and ", " or ", " && ", "||"}).Draw(t, "joined") + drawText(t, depth-1)
}

func drawFrame(t *rapid.T) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 9, SrcIP: drawAddr(t).To4(), DstIP: drawAddr(t).To4()}
	from, to := rapid.Uint16Range(0, 7).Draw(t, "from"), rapid.Uint16Range(0, 7).Draw(t, "to")
	var l4 gopacket.SerializableLayer
	switch ip.Protocol = rapid.SampledFrom([]layers.IPProtocol{1, 6, 17}).Draw(t, "protocol"); ip.Protocol {
	case 1:
		l4 = &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: from}
	case 6:
		flags := rapid.SampledFrom([]uint8{ // that Parse takes
			packet.TCPSyn, packet.TCPSyn | packet.TCPAck, packet.TCPAck, packet.TCPAck | packet.TCPPsh, packet.TCPAck | packet.TCPUrg,
			packet.TCPFin | packet.TCPAck, packet.TCPRst, packet.TCPRst | packet.TCPAck, packet.TCPSyn | 0xc0, packet.TCPAck | 0x40,
		}).Draw(t, "flags")
		l4 = &layers.TCP{
			SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), DataOffset: 5, SYN: flags&packet.TCPSyn != 0, ACK: flags&packet.TCPAck != 0,
			FIN: flags&packet.TCPFin != 0, RST: flags&packet.TCPRst != 0, PSH: flags&packet.TCPPsh != 0, URG: flags&packet.TCPUrg != 0,
			ECE: flags&0x40 != 0, CWR: flags&0x80 != 0,
		}
	case 17:
		l4 = &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
	}
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, eth, ip, l4); err != nil {
		t.Fatal(err)
	}
	frame := b.Bytes()
	sum := ^packet.Fold(packet.Sum(frame[14:34], 0))
	frame[24], frame[25] = byte(sum>>8), byte(sum)
	return frame
}
