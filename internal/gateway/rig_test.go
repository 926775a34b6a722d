package gateway

import (
	"cmp"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// The rig is a gateway without a kernel: inside 10.0.0.0/24 on port 0, outside
// 192.0.2.0/24 on port 1 with the external address 192.0.2.1, everything else
// behind 192.0.2.254, 10.9.0.0/16 excluded from masquerading.
const (
	insidePort  fib.PortID = 0
	outsidePort fib.PortID = 1
)

var (
	gatewayInside  = ip("10.0.0.1")
	client         = ip("10.0.0.5")
	client2        = ip("10.0.0.6")
	external       = ip("192.0.2.1")
	pooled         = ip("203.0.113.7")
	router         = ip("192.0.2.254")
	server         = ip("198.51.100.9")
	excluded       = ip("10.9.0.9")
	silent         = ip("192.0.2.77") // on the link, with no known address
	gatewayMACs    = [2][6]byte{{2, 0, 0, 0, 1, 0}, {2, 0, 0, 0, 1, 1}}
	clientMAC      = [6]byte{2, 0, 0, 0, 0, 5}
	routerMAC      = [6]byte{2, 0, 0, 0, 0, 254}
	startTick      = conntrack.Tick(1000)
	anyPolicyLines = []nat.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Line: 7}}
)

func ip(s string) uint32 { return fib.U32(netip.MustParseAddr(s)) }

// rig is a worker with two ports in memory.
type rig struct {
	t        testing.TB
	memory   *memory
	ports    [2]*port
	builder  *fib.Builder
	table    *conntrack.Table
	ext      *conntrack.External
	pointer  atomic.Pointer[Snapshot]
	resolve  chan Neighbour
	worker   *Worker
	now      conntrack.Tick
	maxFlows int
	mtu      uint16 // of both ports
	outMTU   uint16 // of the outside port, if not 0
	extra    []fib.Route
	workers  int
	exchange *fragment.Exchange
	trace    *Trace   // that is on, with
	capture  *Capture // this
	wakes    [2]int   // by worker: how often this one woke it
}

// rigOption changes the rig before the worker is made.
type rigOption func(r *rig, s *Snapshot)

func newRig(t testing.TB, options ...rigOption) *rig {
	t.Helper()
	r := &rig{t: t, memory: newMemory(2048), now: startTick, resolve: make(chan Neighbour, 64), maxFlows: 1024, mtu: 1500, workers: 1}
	r.builder = &fib.Builder{}
	r.interfaces(true)
	s := &Snapshot{
		Policy: nat.NewPolicy(nat.PolicyConfig{
			Enabled: true, Sources: anyPolicyLines,
			NativeRouting: []nat.Rule{{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Line: 9}},
		}),
		Routes: r.builder.Build(), Ports: nat.DefaultPorts, Hairpin: true, Generation: 1,
	}
	s.Roles[insidePort], s.Roles[outsidePort] = RoleInside, RoleOutside
	r.ext = conntrack.NewExternal(external, nil)
	s.Pools[outsidePort] = nat.NewPool(r.ext)
	for _, o := range options {
		o(r, s)
	}
	cfg := conntrack.Config{MaxFlows: r.maxFlows, Workers: r.workers, Timeouts: conntrack.DefaultTimeouts(), Seed: [2]uint64{1, 2}}
	table, err := conntrack.New(make([]byte, conntrack.Size(cfg)), cfg) // Go aligns large slices to a page
	if err != nil {
		t.Fatal(err)
	}
	r.table = table
	if err := table.AddExternal(r.ext); err != nil {
		t.Fatal(err)
	}
	r.pointer.Store(s)
	for i := range r.ports {
		r.ports[i] = &port{m: r.memory, room: -1}
	}
	r.worker = New(Config{
		Table: table, Ports: []Port{r.ports[0], r.ports[1]}, Memory: r.memory, Snapshot: &r.pointer, Resolve: r.resolve,
		Seed: [32]byte{1}, Workers: r.workers, Fragments: r.exchange, Wake: r.woke,
	})
	return r
}

// interfaces gives the builder the rig's world; outsideUp is the carrier.
func (r *rig) interfaces(outsideUp bool) {
	ifaces := []fib.Interface{
		{Port: insidePort, Name: "in0", Ifindex: 1, MAC: gatewayMACs[0], MTU: r.mtu, Up: true, Virtual: true, Primary: gatewayInside,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}},
		{Port: outsidePort, Name: "out0", Ifindex: 2, MAC: gatewayMACs[1], MTU: cmp.Or(r.outMTU, r.mtu), Up: outsideUp, Virtual: true, Primary: external,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
	}
	r.builder.SetInterfaces(ifaces)
	routes := fib.Connected(ifaces)
	if outsideUp {
		routes = append(routes, fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"),
			Paths: []fib.Path{{Ifindex: 2, Gateway: router}}})
	}
	r.builder.SetRoutes(append(routes, r.extra...))
	r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: client, State: fib.Resolved, MAC: clientMAC})
	r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: client2, State: fib.Resolved, MAC: clientMAC})
	r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: router, State: fib.Resolved, MAC: routerMAC})
}

// publish changes the snapshot as the daemon would.
func (r *rig) publish(change func(s *Snapshot)) {
	s := *r.pointer.Load()
	change(&s)
	if !s.DecidesLike(r.pointer.Load()) {
		s.Generation++
	}
	r.pointer.Store(&s)
}

// send lets frames arrive on a port and runs one step.
func (r *rig) send(on fib.PortID, frames ...[]byte) {
	r.t.Helper()
	for _, f := range frames {
		r.ports[on].rx = append(r.ports[on].rx, r.memory.take(r.t, f))
	}
	r.step()
}

func (r *rig) step() {
	r.t.Helper()
	r.worker.Step(r.now)
	r.balanced()
}

// balanced checks that every frame is free, waiting, or still to be received:
// none lost, none doubled.
func (r *rig) balanced() {
	r.t.Helper()
	waiting := r.worker.Waiting() + len(r.ports[0].rx) + len(r.ports[1].rx)
	if got := len(r.memory.out); got != waiting {
		r.t.Fatalf("frames: %d are not free, %d should be waiting", got, waiting)
	}
}

// drops returns the counter of one reason.
func (r *rig) drops(reason verdict.Reason) uint64 { return r.worker.counters.Drops[reason] }

// allDrops returns the counters that are not 0, by name.
func (r *rig) allDrops() map[string]uint64 {
	m := map[string]uint64{}
	for reason, n := range r.worker.counters.Drops {
		if n != 0 {
			m[verdict.Reason(reason).String()] = n
		}
	}
	return m
}

// one expects exactly one frame to have left by a port, with every checksum
// right, and returns it decoded.
func (r *rig) one(out fib.PortID) view {
	r.t.Helper()
	all := r.ports[out].sent()
	if len(all) != 1 {
		r.t.Fatalf("%d frames left by port %d, want 1; drops %v", len(all), out, r.allDrops())
	}
	return decode(r.t, all[0])
}

// forwarded takes what left by a port, but for ICMP errors of the gateway's own.
func (r *rig) forwarded(out fib.PortID) (frames [][]byte) {
	for _, f := range r.ports[out].sent() {
		if !ownError(f) {
			frames = append(frames, f)
		}
	}
	return frames
}

// ownError reports whether a frame is an ICMP error or a reset that the gateway
// itself sent: nobody else's leaves with an undiminished TTL.
func ownError(frame []byte) bool {
	var p packet.Packet
	return packet.Parse(frame, &p) == verdict.None && (p.Is(packet.FlagICMPError) || p.TCPFlags&packet.TCPRst != 0) && p.TTL == 64
}

// none expects nothing to have been forwarded, and the last packet to be counted under
// reason.
func (r *rig) none(reason verdict.Reason) {
	r.t.Helper()
	for i := range r.ports {
		if all := r.forwarded(fib.PortID(i)); len(all) != 0 {
			r.t.Fatalf("%d frames left by port %d: %v", len(all), i, decode(r.t, all[0]))
		}
	}
	if r.drops(reason) == 0 {
		r.t.Fatalf("not dropped as %v; drops %v", reason, r.allDrops())
	}
}

// view is a packet as gopacket, the independent oracle, sees it.
type view struct {
	eth    *layers.Ethernet
	ip     *layers.IPv4
	tcp    *layers.TCP
	udp    *layers.UDP
	icmp   *layers.ICMPv4
	packet packet.Packet
	raw    []byte
}

// decode parses a frame with gopacket and holds every checksum against a full
// computation.
func decode(t testing.TB, frame []byte) view {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	v := view{raw: frame}
	v.eth, _ = p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	v.ip, _ = p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	v.tcp, _ = p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	v.udp, _ = p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	v.icmp, _ = p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if r := packet.Parse(frame, &v.packet); r != verdict.None {
		t.Fatalf("a frame that left is %v", r)
	}
	q := &v.packet
	body := frame[q.L4:q.End]
	sum := uint32(0)
	switch {
	case q.Is(packet.FlagLaterFragment), q.Is(packet.FlagFragment) && q.Proto != packet.ProtoICMP, v.udp != nil && v.udp.Checksum == 0:
		return v
	case q.Proto == packet.ProtoTCP || q.Proto == packet.ProtoUDP:
		sum = uint32(packet.PseudoSum(q.Src, q.Dst, q.Proto, len(body)))
	case q.Proto != packet.ProtoICMP:
		return v
	}
	if packet.Fold(packet.Sum(body, sum)) != 0xffff {
		t.Fatalf("a frame left with a wrong transport checksum: %x", frame)
	}
	return v
}

// from builds frames that enter the rig.
type from struct {
	src, dst     uint32
	sport, dport uint16
	ttl          uint8
	options      []layers.IPv4Option
	payload      string
	df           bool
}

func (f from) ipv4(proto layers.IPProtocol) *layers.IPv4 {
	l := &layers.IPv4{Version: 4, TTL: f.ttl, Protocol: proto, Id: 9, Options: f.options,
		SrcIP: fib.Addr(f.src).AsSlice(), DstIP: fib.Addr(f.dst).AsSlice()}
	if l.TTL == 0 {
		l.TTL = 64
	}
	if f.df {
		l.Flags = layers.IPv4DontFragment
	}
	return l
}

func (f from) frame(t testing.TB, ip *layers.IPv4, rest ...gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 9, 9, 9, 9, 9}, DstMAC: gatewayMACs[0][:], EthernetType: layers.EthernetTypeIPv4}
	all := append([]gopacket.SerializableLayer{eth, ip}, rest...)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

func (f from) udp(t testing.TB) []byte {
	ip, l := f.ipv4(layers.IPProtocolUDP), &layers.UDP{SrcPort: layers.UDPPort(f.sport), DstPort: layers.UDPPort(f.dport)}
	_ = l.SetNetworkLayerForChecksum(ip)
	return f.frame(t, ip, l, gopacket.Payload(f.payload))
}

// clientISN and serverISN are the numbers with which the ends of a connection begin,
// told apart by who has the higher port.
const clientISN, serverISN uint32 = 100, 200

// tcp is a segment that fits the beginning of a connection: after the SYN, with the
// number behind it, and the acknowledgement of the other's.
func (f from) tcp(t testing.TB, flags uint8) []byte {
	seq, ack := clientISN, serverISN+1
	if f.sport < f.dport {
		seq, ack = serverISN, clientISN+1
	}
	if flags&packet.TCPSyn == 0 {
		seq++
	}
	return f.segment(t, flags, seq, ack)
}

func (f from) segment(t testing.TB, flags uint8, seq, ack uint32, options ...layers.TCPOption) []byte {
	if flags&packet.TCPAck == 0 {
		ack = 0
	}
	ip, l := f.ipv4(layers.IPProtocolTCP), &layers.TCP{
		SrcPort: layers.TCPPort(f.sport), DstPort: layers.TCPPort(f.dport), Seq: seq, Ack: ack, Window: 1000, Options: options,
		SYN: flags&packet.TCPSyn != 0, ACK: flags&packet.TCPAck != 0, FIN: flags&packet.TCPFin != 0, RST: flags&packet.TCPRst != 0,
	}
	_ = l.SetNetworkLayerForChecksum(ip)
	return f.frame(t, ip, l, gopacket.Payload(f.payload))
}

func (f from) echo(t testing.TB, typ uint8, id uint16) []byte {
	return f.frame(t, f.ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: id, Seq: 1}, gopacket.Payload(f.payload))
}

// quote builds an ICMP error about a packet, given as a frame.
func (f from) quote(t testing.TB, typ, code uint8, frame []byte, length int) []byte {
	body := frame[packet.EthernetLength:]
	return f.frame(t, f.ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code)}, gopacket.Payload(body[:min(length, len(body))]))
}

func payload(s string) gopacket.SerializableLayer { return gopacket.Payload(s) }
