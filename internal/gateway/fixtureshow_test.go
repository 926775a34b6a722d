package gateway

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// show says what gopacket sees in a frame that left, in a fixture's words. A
// checksum that is wrong, of the four that an ICMP error has, is said to be.
func show(frame []byte) string {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !ok {
		return "no IPv4 packet"
	}
	if got, want := len(ip.Contents)+len(ip.Payload), int(ip.Length); got != want {
		return fmt.Sprintf("%d bytes of a packet of %d", got, want)
	}
	return showPacket(ip, true)
}

// showPacket shows a packet, and a quoted one as far as it is there.
func showPacket(ip *layers.IPv4, whole bool) string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	src, dst := ip.SrcIP.String(), ip.DstIP.String()
	body := ip.Payload
	fragment := ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0
	kind := fmt.Sprint(uint8(ip.Protocol))
	var rest []string
	payload := body
	sum := ""
	switch {
	case ip.FragOffset != 0:
	case ip.Protocol == layers.IPProtocolUDP && len(body) >= 8, ip.Protocol == layers.IPProtocolTCP && len(body) >= 8:
		src, dst = fmt.Sprintf("%s:%d", src, int(body[0])<<8|int(body[1])), fmt.Sprintf("%s:%d", dst, int(body[2])<<8|int(body[3]))
		if kind = "udp"; ip.Protocol == layers.IPProtocolUDP {
			payload, sum = body[8:], showSum(ip, body[6:8])
			break
		}
		kind = "tcp"
		rest, payload = showTCP(body)
		if len(body) >= 20 {
			sum = showSum(ip, body[16:18])
		}
	case ip.Protocol == layers.IPProtocolICMPv4 && len(body) >= 8:
		kind, rest, payload = showICMP(body)
		if !fragment && whole && onesSum(body) != 0xffff {
			sum = "sum=wrong"
		}
	case ip.Protocol == layers.IPProtocolUDPLite && len(body) >= 8:
		kind, sum = "udplite", showSum(ip, body[6:8])
		src, dst = fmt.Sprintf("%s:%d", src, int(body[0])<<8|int(body[1])), fmt.Sprintf("%s:%d", dst, int(body[2])<<8|int(body[3]))
		payload = body[8:]
	}
	if n := int(ip.Length) - int(ip.IHL)*4; fragment || len(body) < n {
		sum = "" // it covers what is not here
	}
	say("%s %s > %s", kind, src, dst)
	if len(rest) > 0 && (kind == "tcp" || kind == "echo" || kind == "icmp") {
		say("%s", rest[0])
		rest = rest[1:]
	}
	showHeader(ip, say)
	if sum != "" {
		say("%s", sum)
	}
	words = append(words, rest...)
	showPayload(payload, kind == "icmp", say)
	return strings.Join(words, " ")
}

func showHeader(ip *layers.IPv4, say func(string, ...any)) {
	if onesSum(ip.Contents) != 0xffff {
		say("header-sum=wrong")
	}
	if ip.TTL != 64 {
		say("ttl=%d", ip.TTL)
	}
	if ip.Flags&layers.IPv4DontFragment != 0 {
		say("df")
	}
	if more := ip.Flags&layers.IPv4MoreFragments != 0; more {
		say("fragment=%d+", ip.FragOffset*8)
	} else if ip.FragOffset != 0 {
		say("fragment=%d", ip.FragOffset*8)
	}
	if len(ip.Contents) > 20 {
		say("options=%s", hex.EncodeToString(ip.Contents[20:]))
	}
}

func showPayload(payload []byte, error bool, say func(string, ...any)) {
	if error { // what it quotes
		var quoted layers.IPv4
		if err := quoted.DecodeFromBytes(payload, gopacket.NilDecodeFeedback); err != nil {
			say("{ %v }", err)
			return
		}
		if n := len(payload); n < int(quoted.Length) {
			say("quote=%d", n)
		}
		say("{ %s }", showPacket(&quoted, len(payload) >= int(quoted.Length)))
		return
	}
	text := string(payload)
	switch {
	case text == "":
	case len(text) <= 40 && strings.Trim(text, " !#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz") == "":
		say("%q", text)
	default:
		say("bytes=%d", len(text))
	}
}

// showSum says whether a checksum with a pseudo-header is none or wrong.
func showSum(ip *layers.IPv4, field []byte) string {
	if ip.Protocol == layers.IPProtocolUDP && field[0] == 0 && field[1] == 0 {
		return "sum=0"
	}
	n := len(ip.Payload)
	pseudo := append(append([]byte{}, ip.SrcIP.To4()...), ip.DstIP.To4()...)
	pseudo = append(pseudo, 0, byte(ip.Protocol), byte(n>>8), byte(n))
	if onesSum(append(pseudo, ip.Payload...)) != 0xffff {
		return "sum=wrong"
	}
	return ""
}

func showTCP(b []byte) (rest []string, payload []byte) {
	if len(b) < 20 {
		return []string{"-"}, nil
	}
	flags := ""
	for i, letter := range "FSRPAU" {
		if b[13]&(1<<i) != 0 {
			flags += string(letter)
		}
	}
	rest = []string{flags}
	end := min(len(b), int(b[12]>>4)*4)
	if end >= 24 && b[20] == 2 {
		rest = append(rest, fmt.Sprintf("mss=%d", int(b[22])<<8|int(b[23])))
	}
	return rest, b[end:]
}

func showICMP(b []byte) (kind string, rest []string, payload []byte) {
	id := int(b[4])<<8 | int(b[5])
	switch b[0] {
	case 0, 8:
		return "echo", []string{map[byte]string{0: "reply", 8: "request"}[b[0]], fmt.Sprintf("id=%d", id)}, b[8:]
	case 3, 4, 5, 11, 12:
		rest = []string{fmt.Sprintf("%d/%d", b[0], b[1])}
		if mtu := int(b[6])<<8 | int(b[7]); mtu != 0 {
			rest = append(rest, fmt.Sprintf("mtu=%d", mtu))
		}
		return "icmp", rest, b[8:]
	}
	return "1", nil, b
}
