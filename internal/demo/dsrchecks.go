package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

// exchange is a request and its answer, and what the captures have of them.
type exchange struct {
	l       *dsrLab
	network string // tcp4 or udp4
	port    int    // of the service
	backend netip.AddrPort
	p       places
}

var trueClient = source{lab.Server1Address, "true source"}

func (l *dsrLab) exchange(network string, port int, backend string) *exchange {
	return &exchange{l: l, network: network, port: port, backend: netip.AddrPortFrom(netip.MustParseAddr(backend), portHTTP)}
}

// checks is the sequence, for the node's own server at length.
func (l *dsrLab) checks() []check {
	tcp := l.exchange("tcp4", dsrHostPort, lab.Client1Address)
	again := l.exchange("tcp4", dsrHostPort, lab.Client1Address)
	udp := l.exchange("udp4", dsrHostPort, lab.Client1Address)
	pod := l.exchange("tcp4", dsrPodPort, lab.PodAddress)
	podUDP := l.exchange("udp4", dsrPodPort, lab.PodAddress)
	snat := l.exchange("tcp4", snatPort, lab.Client1Address)
	return []check{
		{"TCP request, mode dsr", "client", "VIP", trueClient, tcp.run},
		{"1. SYN to the VIP", "client", "gateway", trueClient, tcp.arrives},
		{"2. SYN with the service as option", "gateway", "backend", trueClient, tcp.dispatched},
		{"3. reply straight from the node", "backend", "client", source{dsrVIP, "the VIP"}, tcp.direct},
		{"4. later segments are bare", "gateway", "backend", trueClient, tcp.bare},
		{"the gateway saw no reply", "", "", anyone, tcp.passedBy},
		{"second TCP request", "client", "VIP", trueClient, again.run},
		{"its SYN has the option, too", "gateway", "backend", trueClient, again.dispatched},
		{"UDP request", "client", "VIP", trueClient, udp.run},
		{"every datagram has the option", "gateway", "backend", trueClient, udp.dispatched},
		{"reply straight from the node", "backend", "client", source{dsrVIP, "the VIP"}, udp.direct},
		{"TCP request, server in a pod", "client", "VIP", trueClient, pod.run},
		{"SYN with the option", "gateway", "pod", trueClient, pod.dispatched},
		{"reply straight from its node", "pod", "client", source{dsrVIP, "the VIP"}, pod.direct},
		{"the gateway saw no reply", "", "", anyone, pod.passedBy},
		{"UDP request, server in a pod", "client", "VIP", trueClient, podUDP.run},
		{"reply straight from its node", "pod", "client", source{dsrVIP, "the VIP"}, podUDP.direct},
		{"for contrast: TCP, mode snat", "client", "VIP", source{lab.GatewayInside, "the gateway"}, snat.run},
		{"its reply passes the gateway", "gateway", "client", source{dsrVIP, "the VIP"}, snat.byGateway},
	}
}

// run makes the exchange. What the far end saw is what the server says.
func (x *exchange) run(ctx context.Context) (o outcome, err error) {
	var seen netip.AddrPort
	x.p, err = x.l.capture(func() (err error) {
		seen, err = x.l.asked(ctx, x.network, x.port)
		return err
	})
	if err != nil {
		return o, err
	}
	o.saw(seen.Addr())
	o.detail = fmt.Sprintf("%s: answered by way of %s", x.vip(), x.backend)
	return o, nil
}

func (x *exchange) protocol() layers.IPProtocol {
	if x.network == "udp4" {
		return layers.IPProtocolUDP
	}
	return layers.IPProtocolTCP
}

func (x *exchange) vip() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(dsrVIP), uint16(x.port))
}

// arrives: the client's first segment is a SYN to the VIP, without options.
func (x *exchange) arrives(context.Context) (o outcome, err error) {
	for _, s := range x.segments(x.p.client) {
		if !s.outgoing || s.to != x.vip() {
			continue
		}
		o.saw(s.from.Addr())
		o.detail = fmt.Sprintf("%s > %s, no options", s.from, s.to)
		if !s.syn || len(s.options) > 0 {
			return o, fmt.Errorf("the first segment is not a bare SYN: options % x", s.options)
		}
		return o, nil
	}
	return o, errNotSeen
}

// option is Cilium's, with the service's port and address least significant byte
// first, as its datapath writes them on a little-endian machine.
func (x *exchange) option() []byte {
	b := []byte{0x9a, 0x08}
	b = binary.LittleEndian.AppendUint16(b, x.vip().Port())
	a := x.vip().Addr().As4()
	return binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(a[:]))
}

// requests are what the gateway sent to the backend.
func (x *exchange) requests() []segment {
	return some(x.segments(x.p.requests), func(s segment) bool { return !s.outgoing && s.to == x.backend })
}

// dispatched: each SYN, and each datagram, has the option; the source is the
// client's.
func (x *exchange) dispatched(context.Context) (o outcome, err error) {
	first := some(x.requests(), func(s segment) bool { return s.syn || x.network == "udp4" })
	if len(first) == 0 {
		return o, errNotSeen
	}
	if x.network == "udp4" && len(first) < 2 {
		return o, errors.New("only the first datagram was captured")
	}
	for _, s := range first {
		o.saw(s.from.Addr())
		if !bytes.Equal(s.options, x.option()) {
			return o, fmt.Errorf("options % x, should be % x", s.options, x.option())
		}
	}
	o.detail = fmt.Sprintf("%d with % x; %s > %s", len(first), first[0].options, first[0].from, first[0].to)
	return o, nil
}

// bare: no segment after the SYN has an option.
func (x *exchange) bare(context.Context) (o outcome, err error) {
	later := some(x.requests(), func(s segment) bool { return !s.syn })
	if len(later) == 0 {
		return o, errNotSeen
	}
	for _, s := range later {
		o.saw(s.from.Addr())
		if len(s.options) > 0 {
			return o, fmt.Errorf("a later segment has options % x", s.options)
		}
	}
	o.detail = fmt.Sprintf("%d segments without options", len(later))
	return o, nil
}

// direct: the node sent the replies by its own leg, and what the client got came
// from that leg's MAC address and no other.
func (x *exchange) direct(context.Context) (o outcome, err error) {
	mac, err := x.l.top.Client1.MAC(lab.DirectNIC)
	if err != nil {
		return o, err
	}
	sent := some(x.segments(x.p.direct), func(s segment) bool { return !s.outgoing && s.from == x.vip() })
	got := some(x.segments(x.p.client), func(s segment) bool { return !s.outgoing })
	if len(sent) == 0 || len(got) == 0 {
		return o, errNotSeen
	}
	for _, s := range got {
		o.saw(s.from.Addr())
		if s.source != mac.String() || s.from != x.vip() {
			return o, fmt.Errorf("a reply came from %s by %s, should be %s by %s", s.from, s.source, x.vip(), mac)
		}
	}
	if first := got[0]; x.network == "tcp4" && !(first.syn && first.ack) {
		return o, errors.New("the first reply is not a SYN+ACK")
	}
	o.detail = fmt.Sprintf("%s > %s, from %s", got[0].from, got[0].to, mac)
	return o, nil
}

// passedBy: no reply reached the gateway on either side, and it sent none.
func (x *exchange) passedBy(context.Context) (o outcome, err error) {
	isReply := func(s segment) bool { return s.from == x.backend || s.from == x.vip() }
	inside, outside := x.segments(x.p.requests), x.segments(x.p.outside)
	o.detail = fmt.Sprintf("none among %d packets inside, %d outside", len(inside), len(outside))
	if len(inside) == 0 || len(outside) == 0 {
		return o, errNotSeen
	}
	return o, errors.Join(none(some(inside, isReply), "replies inside"), none(some(outside, isReply), "replies outside"))
}

// byGateway: the reply passed the gateway both times, and no packet of the exchange
// had an option.
func (x *exchange) byGateway(context.Context) (o outcome, err error) {
	back := some(x.segments(x.p.requests), func(s segment) bool { return s.outgoing && s.from == x.backend })
	sent := some(x.segments(x.p.outside), func(s segment) bool { return !s.outgoing && s.from == x.vip() })
	if len(back) == 0 || len(sent) == 0 {
		return o, errNotSeen
	}
	for _, s := range sent {
		o.saw(s.from.Addr())
	}
	o.detail = fmt.Sprintf("%s > %s, then %s > %s", back[0].from, back[0].to, sent[0].from, sent[0].to)
	return o, none(some(x.requests(), func(s segment) bool { return len(s.options) > 0 }), "requests with an option")
}
