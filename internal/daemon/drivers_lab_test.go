package daemon

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/lab"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// TestDriversForwardAlike sends the same random packets, and the same answers to
// what came out, through a worker on each driver: what leaves is the same, byte
// for byte, and so is every counter of drops.
func TestDriversForwardAlike(t *testing.T) {
	const packets = 1500
	run := func(driver config.Driver) (seen []string) {
		t.Run(string(driver), func(t *testing.T) { seen = newBetween(t, driver).transcript(packets) })
		return seen
	}
	native, asavie := run(config.DriverNative), run(config.DriverAsavie)
	if diff := cmp.Diff(native, asavie); diff != "" {
		t.Errorf("native (-) and asavie (+) differ:\n%.4000s", diff)
	}
	if len(native) < packets/2 {
		t.Errorf("only %d packets left: the comparison proves little", len(native))
	}
}

// between is a worker on a driver, between an inside and an outside host whose
// only presence is a packet socket. Everything in it is the same every time.
type between struct {
	*testing.T
	worker   *gateway.Worker
	steering *xdp.Steering
	clock    xdp.Clock
	now      conntrack.Tick
	hosts    [2]*packetSocket // by port of the gateway
	left     [2]uint64        // frames that left by each port
	random   *rand.Rand
}

// The MAC and IPv4 addresses, by port of the gateway.
var (
	betweenMACs = [2]net.HardwareAddr{{2, 0, 0, 0, 1, 0}, {2, 0, 0, 0, 1, 1}}
	hostMACs    = [2]net.HardwareAddr{{2, 0, 0, 0, 2, 0}, {2, 0, 0, 0, 2, 1}}
	networks    = [2]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("192.0.2.1/24")}
	nextHop     = netip.MustParseAddr("192.0.2.254")
)

const insideHosts, outsideHosts = "10.0.0.%d", "198.51.100.%d"

func newBetween(t *testing.T, driver config.Driver) *between {
	lab.RequireRoot(t)
	b := &between{T: t, now: 1000, random: rand.New(rand.NewPCG(1, 2))}
	gw := b.namespace("gateway")
	var plan xdp.WorkerPlan
	for i, name := range []string{"inside", "outside"} {
		host := b.namespace(name)
		b.must(lab.Veth(gw, name, host, lab.HostNIC, lab.VethOptions{MACA: betweenMACs[i], MACB: hostMACs[i]}))
		b.hosts[i] = newPacketSocket(b, host)
		b.must(gw.Do(func() error {
			nic, err := xdp.Probe(name)
			plan = append(plan, xdp.QueuePlan{NIC: nic, RX: []int{0}})
			return err
		}))
	}
	var (
		umem  *xdp.UMEM
		ports []port
	)
	b.must(gw.Do(func() (err error) {
		umem, ports, err = openPorts(driver, plan, xdp.PortsConfig{Spare: spareFrames}, nil)
		return err
	}))
	t.Cleanup(func() { b.must(closePorts(umem, ports)) })
	b.steer(gw, plan, ports)
	b.makeWorker(umem, ports)
	return b
}

func (b *between) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *between) namespace(name string) *lab.Namespace {
	b.Helper()
	n, err := lab.NewNamespace(name)
	b.must(err)
	b.Cleanup(func() { n.Close() })
	return n
}

// steer has the steering program give the worker every routed packet.
func (b *between) steer(gw *lab.Namespace, plan xdp.WorkerPlan, ports []port) {
	b.Helper()
	cfg := xdp.SteeringConfig{Workers: 1, HeldAddresses: 1}
	for _, q := range plan {
		cfg.Ports = append(cfg.Ports, xdp.SteeringPort{NIC: q.NIC, Queues: 1})
	}
	b.must(gw.Do(func() (err error) {
		if b.steering, err = xdp.LoadSteering(cfg); err != nil {
			return err
		}
		b.Cleanup(func() { b.must(b.steering.Close()) })
		if err := b.steering.SetRoutes([]xdp.SteeringRoute{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), ToWorker: true}}); err != nil {
			return err
		}
		for i, p := range ports {
			if err := b.steering.SetSocket(i, 0, p.sockets()[0].FD()); err != nil {
				return err
			}
			b.Cleanup(func() { b.must(b.steering.Detach(i)) })
			if err := b.steering.Attach(i); err != nil {
				return err
			}
		}
		b.clock, err = xdp.NewClock()
		return err
	}))
}

// makeWorker makes the worker, with seeds that are the same every time.
func (b *between) makeWorker(umem *xdp.UMEM, ports []port) {
	b.Helper()
	var (
		routes fib.Builder
		ifaces []fib.Interface
	)
	for i, network := range networks {
		ifaces = append(ifaces, fib.Interface{
			Port: fib.PortID(i), Name: []string{"inside", "outside"}[i], Ifindex: int32(i + 1), MAC: [6]byte(betweenMACs[i]), MTU: 1500, Up: true,
			Virtual: true, Primary: fib.U32(network.Addr()), Addresses: []netip.Prefix{network},
		})
	}
	routes.SetInterfaces(ifaces)
	routes.SetRoutes(append(fib.Connected(ifaces), fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"),
		Paths: []fib.Path{{Ifindex: 2, Gateway: fib.U32(nextHop)}}}))
	routes.SetNeighbour(fib.Neighbour{Port: 1, Addr: fib.U32(nextHop), State: fib.Resolved, MAC: [6]byte(hostMACs[1])})
	for i := range 8 {
		a := netip.MustParseAddr(fmt.Sprintf(insideHosts, 10+i))
		routes.SetNeighbour(fib.Neighbour{Port: 0, Addr: fib.U32(a), State: fib.Resolved, MAC: [6]byte(hostMACs[0])})
	}
	cfg := conntrack.Config{MaxFlows: 4096, Workers: 1, Timeouts: conntrack.DefaultTimeouts(), Seed: [2]uint64{1, 2}}
	table, err := conntrack.New(make([]byte, conntrack.Size(cfg)), cfg)
	b.must(err)
	external := conntrack.NewExternal(fib.U32(networks[1].Addr()), nil)
	b.must(table.AddExternal(external))
	s := &gateway.Snapshot{
		Policy: nat.NewPolicy(nat.PolicyConfig{Enabled: true, Sources: []nat.Rule{{Prefix: networks[0].Masked(), Line: 1}}}),
		Routes: routes.Build(), Ports: nat.DefaultPorts, Hairpin: true, Generation: 1,
	}
	s.Roles[0], s.Roles[1] = gateway.RoleInside, gateway.RoleOutside
	s.Pools[1] = nat.NewPool(external)
	var pointer atomic.Pointer[gateway.Snapshot]
	pointer.Store(s)
	w := gateway.Config{Workers: 1, Table: table, Memory: umem, Snapshot: &pointer, Resolve: make(chan gateway.Neighbour, 64), Seed: [32]byte{1}}
	for _, p := range ports {
		w.Ports = append(w.Ports, p)
	}
	b.worker = gateway.New(w)
}

// transcript sends packets, one after the other, and answers to some of what
// comes out, and returns what came out and, at the end, what was dropped.
func (b *between) transcript(packets int) (lines []string) {
	b.Helper()
	record := func(out []frame) {
		for _, f := range out {
			lines = append(lines, f.String())
		}
	}
	for range packets {
		out := b.send(0, b.packet())
		record(out)
		if len(out) > 0 && out[0].port == 1 && b.random.IntN(2) == 0 {
			record(b.send(1, b.answer(out[0].bytes)))
		}
	}
	for r, n := range b.worker.Counters().Drops {
		if n > 0 {
			lines = append(lines, fmt.Sprintf("%d dropped as %s", n, verdict.Reason(r)))
		}
	}
	return lines
}

// frame is what left by a port of the gateway.
type frame struct {
	port  int
	bytes []byte
}

func (f frame) String() string { return fmt.Sprintf("%d %s", f.port, hex.EncodeToString(f.bytes)) }

// send has a frame arrive on a port, waits until the worker is done with it, and
// returns what left.
func (b *between) send(to int, bytes []byte) (out []frame) {
	b.Helper()
	before := b.worker.Counters().Packets
	b.heartbeat()
	b.hosts[to].send(b, bytes)
	for deadline := time.Now().Add(5 * time.Second); b.worker.Counters().Packets == before; {
		if time.Now().After(deadline) {
			b.Fatalf("the worker did not get %x", bytes)
		}
		b.heartbeat()
		b.worker.Step(b.now)
		b.worker.Idle(b.now, 0) // publishes the counters
	}
	c := b.worker.Counters()
	for i, host := range b.hosts {
		for ; b.left[i] < c.Ports[i].TxPackets; b.left[i]++ {
			out = append(out, frame{i, host.receive(b)})
		}
	}
	return out
}

// heartbeat says that the worker is alive.
func (b *between) heartbeat() { atomic.StoreUint64(b.steering.Heartbeat(0), uint64(b.clock.Now())) }

// packet is a random packet from inside: of TCP, UDP or ICMP, to outside or to
// another inside host, of any length, sometimes fragmented, with options, at the
// end of its life, or damaged.
func (b *between) packet() []byte {
	r := b.random
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Id: uint16(r.Uint32()), TOS: uint8(r.IntN(256)),
		SrcIP: net.ParseIP(fmt.Sprintf(insideHosts, 10+r.IntN(8))), DstIP: net.ParseIP(fmt.Sprintf(outsideHosts, 1+r.IntN(4))),
	}
	switch r.IntN(16) {
	case 0:
		ip.TTL = uint8(r.IntN(3))
	case 1:
		ip.DstIP = net.ParseIP(fmt.Sprintf(insideHosts, 10+r.IntN(8)))
	case 2:
		ip.Flags = layers.IPv4MoreFragments
	case 3:
		ip.FragOffset = uint16(1 + r.IntN(100))
	case 4:
		ip.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}, {OptionType: 0}} // record route
	case 5:
		ip.Flags = layers.IPv4DontFragment
	}
	out := serialise(b, 0, ip, b.transport(ip), gopacket.Payload(b.payload()))
	if r.IntN(20) == 0 {
		out[len(out)-1-r.IntN(len(out)-34)] ^= 0x55 // behind the IPv4 header: the receiver's to notice
	}
	return out
}

func (b *between) payload() []byte {
	p := make([]byte, b.random.IntN(1400))
	for i := range p {
		p[i] = byte(b.random.Uint32())
	}
	return p
}

// transport is a random transport header, of few enough flows for them to have
// several packets each.
func (b *between) transport(ip *layers.IPv4) gopacket.SerializableLayer {
	r := b.random
	source, destination := 40000+r.IntN(30), 80+r.IntN(3)
	switch r.IntN(3) {
	case 0:
		ip.Protocol = layers.IPProtocolTCP
		tcp := &layers.TCP{SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination), Seq: r.Uint32(), Ack: r.Uint32(), Window: 1000}
		tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST = r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(8) == 0, r.IntN(16) == 0
		b.must(tcp.SetNetworkLayerForChecksum(ip))
		return tcp
	case 1:
		ip.Protocol = layers.IPProtocolUDP
		udp := &layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(destination)}
		b.must(udp.SetNetworkLayerForChecksum(ip))
		return udp
	}
	ip.Protocol = layers.IPProtocolICMPv4
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: uint16(source), Seq: uint16(r.Uint32())}
}

// serialise makes a frame that arrives on a port.
func serialise(b *between, on int, ip *layers.IPv4, rest ...gopacket.SerializableLayer) []byte {
	b.Helper()
	eth := &layers.Ethernet{SrcMAC: hostMACs[on], DstMAC: betweenMACs[on], EthernetType: layers.EthernetTypeIPv4}
	buf := gopacket.NewSerializeBuffer()
	b.must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append([]gopacket.SerializableLayer{eth, ip}, rest...)...))
	return slices.Clone(buf.Bytes())
}

// answer turns a frame that left outside round: the same with source and
// destination exchanged, or an ICMP error that quotes it.
func (b *between) answer(bytes []byte) []byte {
	p := gopacket.NewPacket(bytes, layers.LayerTypeEthernet, gopacket.Default)
	ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	back := &layers.IPv4{Version: 4, TTL: 60, Id: ip.Id, Protocol: ip.Protocol, SrcIP: ip.DstIP, DstIP: ip.SrcIP}
	payload := gopacket.Payload(b.payload())
	if b.random.IntN(4) == 0 {
		back.Protocol = layers.IPProtocolICMPv4
		quoted := bytes[14:min(14+20+8, len(bytes))]
		return serialise(b, 1, back, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, 1)}, gopacket.Payload(quoted))
	}
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		tcp := &layers.TCP{SrcPort: l.DstPort, DstPort: l.SrcPort, SYN: l.SYN, ACK: true, Window: 1000}
		b.must(tcp.SetNetworkLayerForChecksum(back))
		return serialise(b, 1, back, tcp, payload)
	case *layers.UDP:
		udp := &layers.UDP{SrcPort: l.DstPort, DstPort: l.SrcPort}
		b.must(udp.SetNetworkLayerForChecksum(back))
		return serialise(b, 1, back, udp, payload)
	}
	if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		return serialise(b, 1, back, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0), Id: icmp.Id, Seq: icmp.Seq}, payload)
	}
	return serialise(b, 1, back, payload) // to a fragment, or what cannot be decoded
}

// packetSocket is a host's end of a cable, as raw frames.
type packetSocket struct{ fd, ifindex int }

// onlyIPv4 is ETH_P_IP in network byte order: no ARP, no IPv6, and nothing that
// the host itself sends.
const onlyIPv4 = syscall.ETH_P_IP >> 8

func newPacketSocket(b *between, n *lab.Namespace) *packetSocket {
	b.Helper()
	s := &packetSocket{}
	b.must(n.Do(func() (err error) {
		nic, err := net.InterfaceByName(lab.HostNIC)
		if err != nil {
			return err
		}
		s.ifindex = nic.Index
		s.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, onlyIPv4)
		return err
	}))
	b.Cleanup(func() { syscall.Close(s.fd) })
	b.must(syscall.Bind(s.fd, &syscall.SockaddrLinklayer{Protocol: onlyIPv4, Ifindex: s.ifindex}))
	timeout := syscall.NsecToTimeval(int64(5 * time.Second))
	b.must(syscall.SetsockoptTimeval(s.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout))
	return s
}

func (s *packetSocket) send(b *between, bytes []byte) {
	b.Helper()
	b.must(syscall.Sendto(s.fd, bytes, 0, &syscall.SockaddrLinklayer{Ifindex: s.ifindex}))
}

// receive waits for a frame from the gateway.
func (s *packetSocket) receive(b *between) []byte {
	b.Helper()
	buf := make([]byte, 2048)
	n, _, err := syscall.Recvfrom(s.fd, buf, 0)
	b.must(err)
	return buf[:n]
}
