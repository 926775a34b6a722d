package filter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

func ip(s string) uint32 { return number(netip.MustParseAddr(s)) }

// connection is a masqueraded TCP connection's request: from 10.0.0.5:40000,
// as 192.0.2.1:2000, to 198.51.100.9:443.
var connection = View{
	Arrives: conntrack.Tuple{Src: ip("10.0.0.5"), Dst: ip("198.51.100.9"), SrcPort: 40000, DstPort: 443, Proto: packet.ProtoTCP},
	Leaves:  conntrack.Tuple{Src: ip("192.0.2.1"), Dst: ip("198.51.100.9"), SrcPort: 2000, DstPort: 443, Proto: packet.ProtoTCP},
	TCP:     true, TCPFlags: packet.TCPSyn,
}

func TestMatch(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                  true,
		"  ":                                true,
		"host 10.0.0.5":                     true,
		"10.0.0.5":                          true,
		"src host 10.0.0.5":                 true,
		"src 10.0.0.5":                      true,
		"dst host 10.0.0.5":                 false,
		"host 192.0.2.1":                    true,
		"src 192.0.2.1":                     true,
		"not host 192.0.2.1":                false,
		"not host 10.0.0.5":                 false,
		"!(host 10.0.0.6)":                  true,
		"net 10.0.0.0/8":                    true,
		"dst net 10.0.0.0/8":                false,
		"net 0.0.0.0/0":                     true,
		"port 443":                          true,
		"src port 443":                      false,
		"dst port 443":                      true,
		"src port 2000":                     true,
		"portrange 39999-40000":             true,
		"src portrange 40001-50000":         false,
		"tcp":                               true,
		"udp":                               false,
		"icmp":                              false,
		"proto 6":                           true,
		"tcp port 443":                      true,
		"udp port 443":                      false,
		"tcp src port 443":                  false,
		"udp or tcp and port 80":            false, // from the left: (udp or tcp) and port 80
		"port 80 and udp or tcp":            true,  // from the left: (port 80 and udp) or tcp
		"tcp or udp and port 80":            false,
		"tcp or (udp and port 80)":          true,
		"not udp and port 443":              true, // (not udp) and port 443
		"host 10.0.0.5 && ! port 22":        true,
		"host 1.1.1.1||host 10.0.0.5":       true,
		"dropped":                           false,
		"not dropped":                       true,
		"reason no-mapping":                 false,
		"not not tcp":                       true,
		"src 10.0.0.5 and dst 198.51.100.9": true,
		"tcp[tcpflags] == tcp-syn":          true,
		"tcp[tcpflags]&tcp-syn!=0":          true,
		"tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn and port 443": true,
		"tcp[13] & 0x12 == 0x12":                                   false,
		"tcp[tcpflags] & (tcp-rst|tcp-fin) != 0":                   false,
		"not tcp[tcpflags] & tcp-rst != 0":                         true,
		"tcp[tcpflags] != 2 or udp":                                false,
		"src host 10.0.0.5 and dst port 444":                       false,
	} {
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := f.Match(&connection); got != want {
			t.Errorf("%q is %v", text, got)
		}
		if late := strings.Contains(text, "dropped") || strings.Contains(text, "reason"); f.Late() != late {
			t.Errorf("%q: late is %v", text, f.Late())
		}
	}
}

func TestMatchOutcome(t *testing.T) {
	dropped := View{NotIPv4: true, Reason: verdict.BadVersion}
	for text, want := range map[string]bool{
		"dropped": true, "reason bad-version": true, "reason no-mapping": false, "net 0.0.0.0/0": false, "tcp[tcpflags] != 0": false, "not tcp": true, "proto 0": false,
	} {
		f, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(&dropped); got != want {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// TestPortsOfOthers: an echo's identifier is no port, as in tcpdump.
func TestPortsOfOthers(t *testing.T) {
	echo := View{Arrives: conntrack.Tuple{Src: 1, Dst: 2, SrcPort: 77, Proto: packet.ProtoICMP}}
	echo.Leaves = echo.Arrives
	if f, _ := Parse("port 77"); f.Match(&echo) {
		t.Error("an identifier was taken for a port")
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"host":                          `position 5: found the end, expected an IPv4 address`,
		"host 10.0.0":                   `position 6: found "10.0.0", expected an IPv4 address`,
		"host ::1":                      `position 6: found "::1", expected an IPv4 address`,
		"hots 10.0.0.1":                 `position 1: found "hots", expected an address, host,`,
		"tcp and":                       `position 8: found the end, expected an address, host,`,
		"tcp 80":                        `position 5: found "80", expected and, or, or the end`,
		"tcp src host 1.2.3.4":          `position 9: found "host", expected port or portrange`,
		"port https":                    `position 6: found "https", expected a port, 0 to 65535`,
		"port 65536":                    `position 6: found "65536", expected a port`,
		"port 1-2":                      `position 6: found "1-2", expected a port`,
		"portrange 5":                   `position 11: found "5", expected two ports`,
		"portrange 9-5":                 `position 11: found "9-5", expected two ports`,
		"net 10.0.0.1/8":                `position 5: found "10.0.0.1/8", expected a prefix without host bits: 10.0.0.0/8`,
		"net 10":                        `position 5: found "10", expected an IPv4 prefix`,
		"(tcp":                          `position 5: found the end, expected and, or, or )`,
		"tcp)":                          `position 4: found ")", expected and, or, or the end`,
		"()":                            `position 2: found ")", expected an address`,
		"reason no-such":                `position 8: found "no-such", expected a drop reason`,
		"reason none":                   `position 8: found "none", expected a drop reason`,
		"proto tcp":                     `position 7: found "tcp", expected the number`,
		"src udp":                       `position 5: found "udp", expected an address, host, net, port or portrange`,
		"tcp[tcpflags]":                 `position 14: found the end, expected &, == or !=`,
		"tcp[tcpflags] & tcp-sny != 0":  `position 17: found "tcp-sny", expected tcp-syn, `,
		"tcp[tcpflags] & (tcp-syn != 0": `position 26: found "!=", expected | or )`,
		"tcp[tcpflags] & 256 != 0":      `position 17: found "256", expected tcp-syn, `,
		"tcp[tcpflags] & tcp-syn > 0":   `position 25: found ">", expected &, == or !=`,
		"tcp[tcpflags] == ":             `position 18: found the end, expected tcp-syn, `,
		"tcp & udp":                     `position 5: found "&", expected and, or, or the end`,
		strings.Repeat("!", 1100):       `position 1025: found "!", expected the end: a filter has at most 1024 bytes`,
	} {
		_, err := Parse(text)
		if e, ok := errors.AsType[*Error](err); !ok || !strings.HasPrefix(err.Error(), "filter, "+want) {
			t.Errorf("%q: %v, %+v; want %s", text, err, e, want)
		}
	}
}

// A slow twin of the language: trees that are written as text, and evaluated
// over what gopacket says of a packet.
type (
	oracle func(gopacket.Packet) bool
	clause struct {
		text string
		says oracle
	}
)

// flowOf is a packet's addresses and ports in gopacket's words, either side.
func sideOf(p gopacket.Packet, side string, want func(addr net.IP, port int) bool) bool {
	l := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	from, to := -1, -1
	switch l4 := p.TransportLayer().(type) {
	case *layers.TCP:
		from, to = int(l4.SrcPort), int(l4.DstPort)
	case *layers.UDP:
		from, to = int(l4.SrcPort), int(l4.DstPort)
	}
	return side != "dst " && want(l.SrcIP, from) || side != "src " && want(l.DstIP, to)
}

func drawClause(t *rapid.T, depth int) clause {
	side := rapid.SampledFrom([]string{"", "src ", "dst "}).Draw(t, "side")
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth == 0 {
		kind %= 4
	}
	switch kind {
	case 0:
		a := drawAddr(t)
		return clause{side + "host " + a.String(), func(p gopacket.Packet) bool {
			return sideOf(p, side, func(ip net.IP, _ int) bool { return ip.Equal(a) })
		}}
	case 1:
		_, n, _ := net.ParseCIDR(fmt.Sprintf("%s/%d", drawAddr(t), rapid.IntRange(0, 32).Draw(t, "bits")))
		return clause{side + "net " + n.String(), func(p gopacket.Packet) bool {
			return sideOf(p, side, func(ip net.IP, _ int) bool { return n.Contains(ip) })
		}}
	case 2:
		low := rapid.IntRange(0, 5).Draw(t, "low")
		high := low + rapid.IntRange(0, 3).Draw(t, "more")
		text := fmt.Sprintf("%sportrange %d-%d", side, low, high)
		if low == high {
			text = fmt.Sprintf("%sport %d", side, low)
		}
		return clause{text, func(p gopacket.Packet) bool {
			return sideOf(p, side, func(_ net.IP, port int) bool { return low <= port && port <= high })
		}}
	case 3:
		name := rapid.SampledFrom([]string{"tcp", "udp", "icmp"}).Draw(t, "proto")
		number := map[string]layers.IPProtocol{"tcp": 6, "udp": 17, "icmp": 1}[name]
		return clause{name, func(p gopacket.Packet) bool { return p.Layer(layers.LayerTypeIPv4).(*layers.IPv4).Protocol == number }}
	case 4:
		c := drawClause(t, depth-1)
		return clause{"not (" + c.text + ")", func(p gopacket.Packet) bool { return !c.says(p) }}
	}
	a, b := drawClause(t, depth-1), drawClause(t, depth-1)
	if kind == 5 {
		return clause{"(" + a.text + ") and (" + b.text + ")", func(p gopacket.Packet) bool { return a.says(p) && b.says(p) }}
	}
	return clause{"((" + a.text + ")||(" + b.text + "))", func(p gopacket.Packet) bool { return a.says(p) || b.says(p) }}
}

func drawAddr(t *rapid.T) net.IP {
	return net.IPv4(10, 0, 0, byte(rapid.IntRange(1, 4).Draw(t, "host")))
}

// TestAgainstGopacket: any filter says of any packet what its tree says over
// gopacket's reading of it.
func TestAgainstGopacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawClause(t, 3)
		f, err := Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		ip := &layers.IPv4{Version: 4, TTL: 9, SrcIP: drawAddr(t), DstIP: drawAddr(t)}
		from, to := rapid.Uint16Range(0, 8).Draw(t, "from"), rapid.Uint16Range(0, 8).Draw(t, "to")
		var l4 gopacket.SerializableLayer
		switch ip.Protocol = rapid.SampledFrom([]layers.IPProtocol{1, 6, 17}).Draw(t, "protocol"); ip.Protocol {
		case 1:
			l4 = &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: from}
		case 6:
			l4 = &layers.TCP{SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), SYN: true, DataOffset: 5}
		case 17:
			l4 = &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
		}
		eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
		b := gopacket.NewSerializeBuffer()
		_ = gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, eth, ip, l4)
		// The header sum, since Parse holds it.
		frame := b.Bytes()
		sum := ^packet.Fold(packet.Sum(frame[14:34], 0))
		frame[24], frame[25] = byte(sum>>8), byte(sum)
		var p packet.Packet
		if r := packet.Parse(frame, &p); r != verdict.None {
			t.Fatal(r)
		}
		v := View{Arrives: conntrack.Tuple{Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto}}
		v.Leaves = v.Arrives
		if got, want := f.Match(&v), c.says(gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)); got != want {
			t.Fatalf("%q is %v of %+v", c.text, got, v.Arrives)
		}
	})
}

func TestMatchDoesNotAllocate(t *testing.T) {
	f, err := Parse("(host 10.9.9.9 or net 10.1.0.0/16) and not port 22 or reason no-mapping")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { f.Match(&connection) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: no text panics; an error points into the text; what is accepted can
// be evaluated.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "tcp port 80 or (src net 10.0.0.0/8 and not host 10.0.0.1)", "reason no-mapping", "((", "! ! dropped", "port 1-", "tcp[tcpflags]&(tcp-syn|2)!=0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := Parse(text)
		if err == nil {
			parsed.Match(&connection)
			return
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Position < 1 || e.Position > len(text)+1 || e.Expected == "" || !strings.HasPrefix(text[e.Position-1:], e.Found) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
