package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

// places are where an exchange is captured.
type places struct {
	client   []lab.Recorded // the client's NIC
	requests []lab.Recorded // the switch's port of the gateway, inside; received: what the gateway sent
	outside  []lab.Recorded // likewise, outside
	direct   []lab.Recorded // the switch's port of the backend node's own leg outside; received: what it sent
}

// capture records all places while an exchange runs. Its answer has passed every
// place by the time that the client has it, so nothing has to be waited for.
func (l *dsrLab) capture(exchange func() error) (p places, err error) {
	type tap struct {
		ns     *lab.Namespace
		ifname string
		into   *[]lab.Recorded
	}
	var open []*lab.Recorder
	taps := []tap{
		{l.top.Server1, lab.HostNIC, &p.client}, {l.top.InsideSwitch, lab.GatewayPort, &p.requests},
		{l.top.OutsideSwitch, lab.GatewayPort, &p.outside}, {l.top.OutsideSwitch, lab.DirectPort, &p.direct},
	}
	for _, t := range taps {
		r, e := lab.Record(t.ns, t.ifname)
		if err = e; err != nil {
			break
		}
		open = append(open, r)
	}
	if err == nil {
		err = exchange()
	}
	for i, r := range open {
		*taps[i].into = r.Close()
	}
	return p, err
}

// segment is what the checks need of a TCP segment or a UDP datagram.
type segment struct {
	from, to netip.AddrPort
	source   string // MAC address
	options  []byte // of the IPv4 header
	syn, ack bool
	outgoing bool
}

// segments decodes the frames of the exchange's protocol with gopacket, which shares
// no code with the gateway. The other protocol's may be of the exchange before, whose
// connection is still closing.
func (x *exchange) segments(frames []lab.Recorded) (list []segment) {
	for _, f := range frames {
		p := gopacket.NewPacket(f.Frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		eth, _ := p.LinkLayer().(*layers.Ethernet)
		ip, ok := p.NetworkLayer().(*layers.IPv4)
		if !ok || eth == nil || len(ip.Contents) < 20 || ip.Protocol != x.protocol() {
			continue
		}
		s := segment{source: eth.SrcMAC.String(), options: ip.Contents[20:], outgoing: f.Outgoing}
		var from, to uint16
		switch t := p.TransportLayer().(type) {
		case *layers.TCP:
			from, to, s.syn, s.ack = uint16(t.SrcPort), uint16(t.DstPort), t.SYN, t.ACK
		case *layers.UDP:
			from, to = uint16(t.SrcPort), uint16(t.DstPort)
		default:
			continue
		}
		src, _ := netip.AddrFromSlice(ip.SrcIP)
		dst, _ := netip.AddrFromSlice(ip.DstIP)
		s.from, s.to = netip.AddrPortFrom(src.Unmap(), from), netip.AddrPortFrom(dst.Unmap(), to)
		list = append(list, s)
	}
	return list
}

// some are the segments with the property.
func some(list []segment, has func(segment) bool) (found []segment) {
	for _, s := range list {
		if has(s) {
			found = append(found, s)
		}
	}
	return found
}

// asked sends a line by TCP, or two datagrams, to a service and says whom the server
// saw.
func (l *dsrLab) asked(ctx context.Context, network string, port int) (seen netip.AddrPort, err error) {
	c, err := host{l.top.Server1}.dial(ctx, network, at(dsrVIP, port))
	if err != nil {
		return seen, err
	}
	defer c.Close()
	if network == "tcp4" {
		return askedTCP(ctx, c)
	}
	for range 2 { // the second is of a flow that is known
		if seen, err = askedUDP(c); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

func askedUDP(c net.Conn) (seen netip.AddrPort, err error) {
	buf := make([]byte, 2048)
	for range 5 { // UDP may be lost
		if _, err = c.Write([]byte("question")); err != nil {
			return seen, err
		}
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		var n int
		if n, err = c.Read(buf); err == nil {
			line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
			return netip.ParseAddrPort(string(line))
		}
	}
	return seen, err
}

func askedTCP(ctx context.Context, c net.Conn) (seen netip.AddrPort, err error) {
	if end, ok := ctx.Deadline(); ok {
		c.SetDeadline(end)
	}
	if _, err := fmt.Fprintln(c, "question"); err != nil {
		return seen, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return seen, fmt.Errorf("the server did not answer: %w", err)
	}
	who, ok := strings.CutPrefix(strings.TrimSpace(line), "question ")
	if !ok {
		return seen, fmt.Errorf("the server answered %q", line)
	}
	return netip.ParseAddrPort(who)
}

// none is an error unless no segment was found.
func none(list []segment, what string) error {
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("%d %s, the first from %s to %s", len(list), what, list[0].from, list[0].to)
}

var errNotSeen = errors.New("no such packet was captured")
