package bench

import (
	"encoding/binary"
	"fmt"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// kind is a sort of traffic in memory. Each is measured in turns with the one
// that it is held against, over the same table.
type kind struct {
	name      string
	proto     uint8
	service   *dsr.ServiceConfig // nil: masqueraded
	fragments bool               // every datagram in two
	against   int                // index in kinds
	flowsOf   int                // index of the kind whose flows it uses, its own mostly
}

// The services. Backends are where the inside hosts are; 64,512 flows is what
// mode snat has ports for, since one address of ours is the source of them all.
const (
	servicePort = 443
	backendPort = 8443
	backends    = 16
	snatVIP     = 0xc0000214 // 192.0.2.20
	dsrVIP      = 0xc0000215
	firstServer = 0x0aff0001 // 10.255.0.1
)

func service(name string, vip uint32, proto uint8, mode dsr.Mode) *dsr.ServiceConfig {
	c := &dsr.ServiceConfig{Name: name, VIP: vip, Port: servicePort, Proto: proto, Mode: mode, Reject: true, Reset: true}
	for i := range uint32(backends) {
		c.Backends = append(c.Backends, dsr.BackendConfig{Address: firstServer + i, Port: backendPort, Weight: 1, Agent: true})
	}
	return c
}

// kinds are in the order of the report.
var kinds = [...]kind{
	{name: "masquerade, UDP", proto: packet.ProtoUDP},
	{name: "masquerade, TCP", proto: packet.ProtoTCP, flowsOf: 1},
	{name: "masquerade, UDP in two fragments", proto: packet.ProtoUDP, fragments: true},
	{name: "service-snat, UDP", proto: packet.ProtoUDP, service: service("snat", snatVIP, packet.ProtoUDP, dsr.SNAT), flowsOf: 3},
	{name: "service-snat, TCP", proto: packet.ProtoTCP, service: service("snat", snatVIP, packet.ProtoTCP, dsr.SNAT), against: 1, flowsOf: 4},
	{name: "service-dsr, UDP, option on each", proto: packet.ProtoUDP, service: service("dsr", dsrVIP, packet.ProtoUDP, dsr.DSR), flowsOf: 5},
	{name: "service-dsr, TCP, bare segments", proto: packet.ProtoTCP, service: service("dsr", dsrVIP, packet.ProtoTCP, dsr.DSR), against: 1, flowsOf: 6},
}

// direct reports whether only the clients' packets pass the gateway.
func (k *kind) direct() bool { return k.service != nil && k.service.Mode == dsr.DSR }

// opens reports whether its flows are of its own making.
func (k *kind) opens(i int) bool { return k.flowsOf == i }

// serve gives the rig the services of all kinds.
func (r *rig) serve() error {
	ids := dsr.NewIds()
	var list []dsr.ServiceConfig
	for i := range kinds {
		if s := kinds[i].service; s != nil {
			list = append(list, *s)
		}
	}
	table, err := dsr.New(list, ids, nil, nil)
	if err != nil {
		return err
	}
	next := *r.snapshot.Load()
	next.Generation++
	next.Balance = gateway.Balance{Table: table, Backends: ids.Backends() + 1, Strips: true, Choice: gateway.Choice{1, 2}}
	for i := range r.ports {
		x := conntrack.NewExternal(next.Routes.Interface(fib.PortID(i)).Primary, nil)
		if err := r.table.AddExternal(x); err != nil {
			return err
		}
		next.Balance.Sources[i] = x
	}
	r.snapshot.Store(&next)
	return nil
}

// talk is a flow of a kind: what arrives of either direction, and how far a TCP
// connection is.
type talk struct {
	ways [2]endpoints // as they arrive; the second is empty for DSR
	port [2]int       // by which they do
	to   uint32       // the backend, of a service
	seq  [2]uint32    // the next of each side
	id   uint16       // IPv4's identification, of datagrams in fragments
}

// talks makes flows of a kind; those of different numbers have different endpoints.
// Clients of a service in mode dsr are inside and outside in turn, so that there
// is something to receive on both ports, as for the other kinds.
func (k *kind) talks(first, n int) []talk {
	list := make([]talk, n)
	for i, f := range makeFlows(first, n) {
		t := &list[i]
		t.ways[0], t.port = f.endpoints, [2]int{0, 1}
		if k.service == nil {
			continue
		}
		t.ways[0].dst, t.ways[0].dport = k.service.VIP, servicePort
		if !k.direct() || i%2 == 1 {
			t.ways[0].src += 0xc6120000 - 0x0a000000
			t.port = [2]int{1, 0}
		}
	}
	return list
}

// The payload: what is left of frameLength for TCP, and for UDP in two fragments
// 16 bytes in the first and as many in the second.
const (
	segmentLength  = totalLength - packet.IPv4MinLength
	segmentData    = segmentLength - packet.TCPMinLength
	fragmentData   = 16
	firstFragment  = packet.IPv4MinLength + packet.UDPLength + fragmentData
	secondFragment = packet.IPv4MinLength + fragmentData
)

// header writes the Ethernet and IPv4 headers of a packet that arrives.
func (k *kind) header(b []byte, v *endpoints, port, total int) {
	clear(b[:frameLength])
	to := &insideMAC
	if port == 1 {
		to = &outsideMAC
	}
	copy(b, to[:])
	copy(b[6:], strangeMAC[:])
	binary.BigEndian.PutUint16(b[12:], packet.EtherTypeIPv4)
	h := b[l3:l4]
	h[0], h[6], h[8], h[9] = 0x45, 0x40, 64, k.proto // DF
	binary.BigEndian.PutUint16(h[2:], uint16(total))
	binary.BigEndian.PutUint32(h[12:], v.src)
	binary.BigEndian.PutUint32(h[16:], v.dst)
	binary.BigEndian.PutUint16(b[l4:], v.sport)
	binary.BigEndian.PutUint16(b[l4+2:], v.dport)
}

// finishHeader puts IPv4's checksum in.
func finishHeader(b []byte) { binary.BigEndian.PutUint16(b[l3+10:], packet.Checksum(b[l3:l4])) }

// transportSum is the complemented sum of a transport's bytes and pseudo-header.
func (k *kind) transportSum(v *endpoints, b []byte, length int) uint16 {
	sum := ^packet.Fold(packet.Sum(b, uint32(packet.PseudoSum(v.src, v.dst, k.proto, length))))
	if sum == 0 && k.proto == packet.ProtoUDP {
		sum = 0xffff // RFC 768
	}
	return sum
}

// datagram writes a UDP packet of a direction.
func (k *kind) datagram(b []byte, t *talk, direction int) {
	v := &t.ways[direction]
	k.header(b, v, t.port[direction], totalLength)
	u := b[l4:frameLength]
	binary.BigEndian.PutUint16(u[4:], udpLength)
	copy(u[packet.UDPLength:], "sluice benchmark..")
	binary.BigEndian.PutUint16(u[6:], k.transportSum(v, u, udpLength))
	finishHeader(b)
}

// segment writes a TCP segment with flags and a little data, unless it is a SYN,
// and moves the sequence number on.
func (k *kind) segment(b []byte, t *talk, direction int, flags byte) {
	v, data := &t.ways[direction], uint32(segmentData)
	if flags&packet.TCPSyn != 0 {
		data = 0
	}
	length := packet.TCPMinLength + int(data)
	k.header(b, v, t.port[direction], packet.IPv4MinLength+length)
	u := b[l4 : l4+length]
	binary.BigEndian.PutUint32(u[4:], t.seq[direction])
	if flags&packet.TCPAck != 0 {
		binary.BigEndian.PutUint32(u[8:], t.seq[1-direction])
	}
	u[12], u[13] = 5<<4, flags
	binary.BigEndian.PutUint16(u[14:], 0xffff) // window
	copy(u[packet.TCPMinLength:], "sluice")
	binary.BigEndian.PutUint16(u[16:], k.transportSum(v, u, length))
	finishHeader(b)
	if t.seq[direction] += data; data == 0 {
		t.seq[direction]++
	}
}

// fragment writes one of the two fragments of a datagram. The first one counts
// the identification up.
func (k *kind) fragment(b []byte, t *talk, direction int, later bool) {
	v := &t.ways[direction]
	const length = packet.UDPLength + 2*fragmentData
	var u [length]byte
	binary.BigEndian.PutUint16(u[0:], v.sport)
	binary.BigEndian.PutUint16(u[2:], v.dport)
	binary.BigEndian.PutUint16(u[4:], length)
	copy(u[packet.UDPLength:], "sluice benchmark, two fragments.")
	binary.BigEndian.PutUint16(u[6:], k.transportSum(v, u[:], length))
	if later {
		const units = (packet.UDPLength + fragmentData) / 8
		k.header(b, v, t.port[direction], secondFragment)
		binary.BigEndian.PutUint16(b[l3+6:], units)
		copy(b[l4:], u[8*units:])
	} else {
		const moreFragments = 0x2000
		t.id++
		k.header(b, v, t.port[direction], firstFragment)
		binary.BigEndian.PutUint16(b[l3+6:], moreFragments)
		copy(b[l4:], u[:packet.UDPLength+fragmentData])
	}
	binary.BigEndian.PutUint16(b[l3+4:], t.id)
	finishHeader(b)
}

// write writes a packet of a flow that is open.
func (k *kind) write(b []byte, t *talk, direction int, later bool) {
	switch {
	case k.fragments:
		k.fragment(b, t, direction, later)
	case k.proto == packet.ProtoTCP:
		k.segment(b, t, direction, packet.TCPAck|packet.TCPPsh)
	default:
		k.datagram(b, t, direction)
	}
}

// first writes the first packet of a flow.
func (k *kind) first(b []byte, t *talk) {
	if k.proto == packet.ProtoTCP {
		k.segment(b, t, 0, packet.TCPSyn)
		return
	}
	k.datagram(b, t, 0)
}

// answer writes the first packet of the other side, if that passes here.
func (k *kind) answer(b []byte, t *talk) {
	if k.proto == packet.ProtoTCP {
		k.segment(b, t, 1, packet.TCPSyn|packet.TCPAck)
		return
	}
	k.datagram(b, t, 1)
}

// translated is what a packet of the direction has to look like when it leaves.
func (k *kind) translated(t *talk, direction int) endpoints {
	if k.direct() {
		return endpoints{t.ways[0].src, t.to, t.ways[0].sport, backendPort}
	}
	v := t.ways[1-direction]
	return endpoints{v.dst, v.src, v.dport, v.sport}
}

// wrong says what is wrong with a frame that left, "" if nothing: both checksums in
// full, the addresses, the time to live, and the option where there has to be one. A
// later fragment has neither ports nor a checksum of its own: sum is that of the
// first one, which is returned, and both together must come out right.
func (k *kind) wrong(frame []byte, t *talk, direction int, option bool, sum uint32) (string, uint32) {
	var p packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		return fmt.Sprintf("it is %v", r), 0
	}
	want, later := k.translated(t, direction), p.Is(packet.FlagLaterFragment)
	got := endpoints{p.Src, p.Dst, p.SrcPort, p.DstPort}
	if later {
		got.sport, got.dport = want.sport, want.dport
	}
	if got != want || p.TTL != 63 || p.Proto != k.proto {
		return fmt.Sprintf("%+v with TTL %d, not %+v", got, p.TTL, want), 0
	}
	body := frame[p.L4:p.End]
	if !later {
		length := len(body)
		if k.fragments {
			length += fragmentData
		}
		sum = uint32(packet.PseudoSum(p.Src, p.Dst, p.Proto, length))
	}
	sum = packet.Sum(body, sum)
	if (later || !k.fragments) && packet.Fold(sum) != 0xffff {
		return "its transport checksum is wrong", 0
	}
	options := frame[int(p.L3)+packet.IPv4MinLength : p.L4]
	vip, port, _, told := dsr.FindOption(options, dsr.CiliumOrder)
	switch {
	case !option && len(options) > 0:
		return "it has an option", 0
	case option && (len(options) != dsr.OptionLen || !told || vip != k.service.VIP || port != servicePort):
		return fmt.Sprintf("its options are % x", options), 0
	}
	return "", sum
}
