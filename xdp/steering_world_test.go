package xdp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// verdictRedirect is XDP_REDIRECT.
const verdictRedirect = 4

// Addresses and what NAT holds on them, in every steering test.
var (
	gatewayMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	peerMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 2}

	hostAddress   = netip.MustParseAddr("192.0.2.1")
	sharedAddress = netip.MustParseAddr("198.51.100.1")
	poolAddress   = netip.MustParseAddr("203.0.113.5")
	bareAddress   = netip.MustParseAddr("203.0.113.6") // pool, without a bitmap
	peerAddress   = netip.MustParseAddr("1.1.1.1")

	steeringRoutes = []SteeringRoute{
		{netip.MustParsePrefix("10.0.0.0/8"), true},
		{netip.MustParsePrefix("10.9.0.0/16"), false},
		{netip.MustParsePrefix("10.9.9.0/24"), true},
	}
)

const (
	heldTCP  = 40000
	heldUDP  = 40001
	heldEcho = 40002
)

// world is a loaded steering program with an address of each kind, in a
// namespace of its own that has the shared and the host address on lo.
type world struct {
	*Steering
	t  testing.TB
	ns *lab.Namespace
}

func newWorld(t testing.TB, config SteeringConfig) *world {
	t.Helper()
	lab.RequireRoot(t)
	ns, err := lab.NewNamespace("steer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	for _, a := range []netip.Addr{hostAddress, sharedAddress} {
		if err := ns.AddAddress("lo", a.String()+"/32"); err != nil {
			t.Fatal(err)
		}
	}
	if config.Ports == nil {
		config.Ports = []SteeringPort{{NIC: &NIC{Name: "test0", MAC: [6]byte(gatewayMAC)}, Queues: 1}}
	}
	if config.Workers == 0 {
		config.Workers = 1
	}
	s, err := LoadSteering(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Steering: s, t: t, ns: ns}
	w.fill()
	return w
}

// fill sets addresses, held ports and routes.
func (w *world) fill() {
	w.t.Helper()
	for _, a := range []struct {
		addr netip.Addr
		kind AddressKind
		held int
	}{
		{hostAddress, AddrHost, -1},
		{sharedAddress, AddrShared, 0},
		{poolAddress, AddrPool, 1},
		{bareAddress, AddrPool, -1},
	} {
		if err := w.SetAddress(hostOrder(a.addr), a.kind, a.held); err != nil {
			w.t.Fatal(err)
		}
	}
	for i := range 2 {
		w.hold(i, 0, heldTCP)
		w.hold(i, 1, heldUDP)
		w.hold(i, 2, heldEcho)
	}
	if err := w.SetRoutes(steeringRoutes); err != nil {
		w.t.Fatal(err)
	}
}

func hostOrder(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// hold sets the bit of a port as the allocator does: protocol 0 is TCP, 1 UDP,
// 2 echo identifiers.
func (w *world) hold(bitmap, protocol, port int) {
	atomic.OrUint64(&w.HeldPorts(bitmap)[protocol*heldWordsPerProtocol+port/64], 1<<(port%64))
}

// beat marks a worker as running now, or some time ago.
func (w *world) beat(worker int, age time.Duration) {
	w.t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		w.t.Fatal(err)
	}
	atomic.StoreUint64(w.Heartbeat(worker), uint64(now.Nano()-int64(age)))
}

// plug puts a socket into a slot. The map takes one that is not bound, too, so
// that a redirect can be seen without a NIC.
func (w *world) plug(port, queue int) (fd int) {
	w.t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.SetSocket(port, queue, fd); err != nil {
		w.t.Fatal(err)
	}
	return fd
}

// run has the first port's program decide for a frame, and returns the verdict
// and the one reason that was counted.
func (w *world) run(frame []byte) (verdict uint32, reason string) {
	w.t.Helper()
	return w.runOn(0, &ebpf.RunOptions{Data: frame})
}

func (w *world) runOn(port int, o *ebpf.RunOptions) (verdict uint32, reason string) {
	w.t.Helper()
	before := w.counters()
	err := w.ns.Do(func() (err error) {
		verdict, err = w.programs[port].Run(o)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for i, c := range w.counters() {
		switch c.Packets - before[i].Packets {
		case 0:
		case 1:
			if reason != "" {
				w.t.Fatalf("counted as %s and as %s", reason, c.Name)
			}
			reason = c.Name
		default:
			w.t.Fatalf("%s rose by %d", c.Name, c.Packets-before[i].Packets)
		}
	}
	return verdict, reason
}

func (w *world) counters() []Counter {
	w.t.Helper()
	c, err := w.Counters()
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) expect(name string, frame []byte, verdict uint32, reason string) {
	w.t.Helper()
	if v, r := w.run(frame); v != verdict || r != reason {
		w.t.Errorf("%s: verdict %d, %s; want %d, %s", name, v, r, verdict, reason)
	}
}

// frame builds an Ethernet frame to the gateway; options change the headers
// after everything but the checksums is set.
func frame(l ...gopacket.SerializableLayer) []byte {
	eth := &layers.Ethernet{SrcMAC: peerMAC, DstMAC: gatewayMAC, EthernetType: layers.EthernetTypeIPv4}
	return serialize(append([]gopacket.SerializableLayer{eth}, l...)...)
}

func serialize(l ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func ip(src, dst netip.Addr, protocol layers.IPProtocol, options ...func(*layers.IPv4)) *layers.IPv4 {
	h := &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	for _, o := range options {
		o(h)
	}
	return h
}

func withFragment(id uint16, offset uint16, more bool) func(*layers.IPv4) {
	return func(h *layers.IPv4) {
		h.Id, h.FragOffset = id, offset
		if more {
			h.Flags = layers.IPv4MoreFragments
		}
	}
}

// withOptions adds 40 bytes of no-operation: the longest header.
func withOptions(h *layers.IPv4) {
	for range 40 {
		h.Options = append(h.Options, layers.IPv4Option{OptionType: 1, OptionLength: 1})
	}
}

var payload = gopacket.Payload("payload")

func tcp(dst netip.AddrPort, options ...func(*layers.IPv4)) []byte {
	return tcpSegment(netip.AddrPortFrom(peerAddress, 443), dst, layers.TCP{ACK: true}, options...)
}

func tcpSegment(src, dst netip.AddrPort, flags layers.TCP, options ...func(*layers.IPv4)) []byte {
	h := ip(src.Addr(), dst.Addr(), layers.IPProtocolTCP, options...)
	flags.SrcPort, flags.DstPort = layers.TCPPort(src.Port()), layers.TCPPort(dst.Port())
	must(flags.SetNetworkLayerForChecksum(h))
	return frame(h, &flags, payload)
}

func udp(dst netip.AddrPort, options ...func(*layers.IPv4)) []byte {
	return udpDatagram(netip.AddrPortFrom(peerAddress, 53), dst, options...)
}

func udpDatagram(src, dst netip.AddrPort, options ...func(*layers.IPv4)) []byte {
	h := ip(src.Addr(), dst.Addr(), layers.IPProtocolUDP, options...)
	u := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	must(u.SetNetworkLayerForChecksum(h))
	return frame(h, u, payload)
}

func icmp(dst netip.Addr, icmpType uint8, id uint16, rest ...gopacket.SerializableLayer) []byte {
	m := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(icmpType, 0), Id: id}
	return frame(append([]gopacket.SerializableLayer{ip(peerAddress, dst, layers.IPProtocolICMPv4), m}, rest...)...)
}

// quote is what an ICMP error says about a packet: its header and 8 bytes.
func quote(frame []byte) gopacket.Payload {
	packet := frame[14:]
	return gopacket.Payload(packet[:int(packet[0]&15)*4+8])
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
