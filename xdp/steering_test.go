package xdp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// edit returns frame changed by f.
func edit(frame []byte, f func([]byte)) []byte {
	frame = slices.Clone(frame)
	f(frame)
	return frame
}

func ethernet(dst net.HardwareAddr, t layers.EthernetType, rest ...gopacket.SerializableLayer) []byte {
	l := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: peerMAC, DstMAC: dst, EthernetType: t}}
	return serialize(append(l, rest...)...)
}

// arp is an ARP message of the peer about target.
func arp(operation uint16, target netip.Addr) []byte {
	return serialize(
		&layers.Ethernet{SrcMAC: peerMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: operation, SourceHwAddress: peerMAC, SourceProtAddress: peerAddress.AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice(),
		})
}

// TestSteeringDecision: each step of the decision, in its order.
func TestSteeringDecision(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))

	inside := netip.MustParseAddr("10.1.2.3")
	unlisted := netip.MustParseAddr("10.9.1.1")
	listed := netip.MustParseAddr("10.9.9.1")
	elsewhere := netip.MustParseAddr("8.8.8.8")
	later := withFragment(7, 185, false)
	first := withFragment(7, 0, true)
	toPool := tcp(at(poolAddress, heldTCP))
	outbound := func(src netip.AddrPort) gopacket.Payload { return quote(udpDatagram(src, at(peerAddress, 53))) }
	outboundTCP := func(src netip.AddrPort, o ...func(*layers.IPv4)) gopacket.Payload {
		return quote(tcpSegment(src, at(peerAddress, 443), layers.TCP{ACK: true}, o...))
	}
	echo := func(src netip.Addr, icmpType uint8) gopacket.Payload {
		return quote(frame(ip(src, peerAddress, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(icmpType, 0), Id: heldEcho}))
	}

	for _, c := range []struct {
		name    string
		frame   []byte
		verdict uint32
		reason  string
	}{
		{"ARP request for a pool address", arp(1, poolAddress), verdictRedirect, "worker-arp"},
		{"ARP reply from a pool address's user", arp(2, poolAddress), verdictPass, "kernel-not-ipv4"},
		{"ARP request for a shared address", arp(1, sharedAddress), verdictPass, "kernel-not-ipv4"},
		{"ARP request for somebody else", arp(1, peerAddress), verdictPass, "kernel-not-ipv4"},
		{"ARP request, cut short", arp(1, poolAddress)[:41], verdictPass, "kernel-not-ipv4"},
		{"ARP", ethernet(gatewayMAC, layers.EthernetTypeARP, payload), verdictPass, "kernel-not-ipv4"},
		{"IPv6", ethernet(gatewayMAC, layers.EthernetTypeIPv6, payload), verdictPass, "kernel-not-ipv4"},
		{"VLAN tag around a held port", ethernet(gatewayMAC, layers.EthernetTypeDot1Q,
			&layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, gopacket.Payload(toPool[14:])), verdictPass, "kernel-not-ipv4"},
		{"802.1ad tag", ethernet(gatewayMAC, layers.EthernetTypeQinQ, payload), verdictPass, "kernel-not-ipv4"},
		{"another station", edit(toPool, func(b []byte) { b[5]++ }), verdictPass, "kernel-other-mac"},
		{"another vendor", edit(toPool, func(b []byte) { b[0] = 4 }), verdictPass, "kernel-other-mac"},
		{"link broadcast", edit(toPool, func(b []byte) { copy(b, "\xff\xff\xff\xff\xff\xff") }), verdictPass, "kernel-multicast"},
		{"link multicast", edit(toPool, func(b []byte) { b[0] |= 1 }), verdictPass, "kernel-multicast"},
		{"VRRP", udp(at(netip.MustParseAddr("224.0.0.18"), 1)), verdictPass, "kernel-multicast"},
		{"last multicast address", udp(at(netip.MustParseAddr("239.255.255.255"), 1)), verdictPass, "kernel-multicast"},
		{"DHCP answer", udp(at(netip.MustParseAddr("255.255.255.255"), 68)), verdictPass, "kernel-multicast"},
		{"class E is no group", udp(at(netip.MustParseAddr("240.0.0.1"), 1)), verdictPass, "kernel-no-route"},

		{"host address", tcp(at(hostAddress, heldTCP)), verdictPass, "kernel-host-address"},
		{"host address, fragment", udp(at(hostAddress, 1), later), verdictPass, "kernel-host-address"},

		{"shared, TCP held", tcp(at(sharedAddress, heldTCP)), verdictRedirect, "worker-held-port"},
		{"shared, SYN held", tcpSegment(at(peerAddress, 1), at(sharedAddress, heldTCP), layers.TCP{SYN: true}), verdictRedirect, "worker-held-port"},
		{"shared, UDP held", udp(at(sharedAddress, heldUDP)), verdictRedirect, "worker-held-port"},
		{"shared, UDP held, options", udp(at(sharedAddress, heldUDP), withOptions), verdictRedirect, "worker-held-port"},
		{"shared, echo reply held", icmp(sharedAddress, 0, heldEcho), verdictRedirect, "worker-held-port"},
		{"shared, TCP held, first fragment", tcp(at(sharedAddress, heldTCP), withFragment(99, 0, true)), verdictRedirect, "worker-held-port"},
		{"shared, UDP not held", udp(at(sharedAddress, heldTCP)), verdictPass, "kernel-host-address"},
		{"shared, TCP not held", tcp(at(sharedAddress, heldUDP)), verdictPass, "kernel-host-address"},
		{"shared, next port", tcp(at(sharedAddress, heldTCP+1)), verdictPass, "kernel-host-address"},
		{"shared, port 64 words away", tcp(at(sharedAddress, heldTCP^64)), verdictPass, "kernel-host-address"},
		{"shared, echo request with a held identifier", icmp(sharedAddress, 8, heldEcho), verdictPass, "kernel-host-address"},
		{"shared, echo reply not held", icmp(sharedAddress, 0, heldEcho+1), verdictPass, "kernel-host-address"},
		{"shared, GRE", frame(ip(peerAddress, sharedAddress, layers.IPProtocolGRE), payload), verdictPass, "kernel-host-address"},
		{"shared, first fragment not held", udp(at(sharedAddress, 1), first), verdictPass, "kernel-fragment"},
		{"shared, later fragment before its first", udp(at(sharedAddress, heldUDP), withFragment(8, 185, false)), verdictRedirect, "worker-fragment"},
		{"shared, later fragment of the host's", udp(at(sharedAddress, heldUDP), withFragment(7, 185, true)), verdictPass, "kernel-fragment"},

		{"pool, held", tcp(at(poolAddress, heldTCP)), verdictRedirect, "worker-held-port"},
		{"pool, not held", tcp(at(poolAddress, 22)), verdictRedirect, "worker-pool-address"},
		{"pool, echo request", icmp(poolAddress, 8, 1), verdictRedirect, "worker-pool-address"},
		{"pool, GRE", frame(ip(peerAddress, poolAddress, layers.IPProtocolGRE), payload), verdictRedirect, "worker-pool-address"},
		{"pool, first fragment held", udp(at(poolAddress, heldUDP), first), verdictRedirect, "worker-held-port"},
		{"pool, first fragment not held", udp(at(poolAddress, 1), first), verdictRedirect, "worker-pool-address"},
		{"pool, later fragment", udp(at(poolAddress, 1), later), verdictRedirect, "worker-fragment"},
		{"pool without bitmap", tcp(at(bareAddress, heldTCP)), verdictRedirect, "worker-pool-address"},

		{"unreachable about UDP", icmp(sharedAddress, 3, 0, outbound(at(sharedAddress, heldUDP))), verdictRedirect, "worker-icmp-error"},
		{"time exceeded about TCP", icmp(sharedAddress, 11, 0, outboundTCP(at(sharedAddress, heldTCP))), verdictRedirect, "worker-icmp-error"},
		{"parameter problem, quoted options", icmp(sharedAddress, 12, 0, outboundTCP(at(sharedAddress, heldTCP), withOptions)), verdictRedirect, "worker-icmp-error"},
		{"source quench", icmp(sharedAddress, 4, 0, outbound(at(sharedAddress, heldUDP))), verdictRedirect, "worker-icmp-error"},
		{"error about an echo request", icmp(sharedAddress, 3, 0, echo(sharedAddress, 8)), verdictRedirect, "worker-icmp-error"},
		{"error about an echo reply", icmp(sharedAddress, 3, 0, echo(sharedAddress, 0)), verdictPass, "kernel-host-address"},
		{"error on a pool address", icmp(poolAddress, 3, 0, outbound(at(poolAddress, heldUDP))), verdictRedirect, "worker-icmp-error"},
		{"error about a port not held", icmp(sharedAddress, 3, 0, outbound(at(sharedAddress, 53))), verdictPass, "kernel-host-address"},
		{"error about a packet of another", icmp(sharedAddress, 3, 0, outbound(at(peerAddress, heldUDP))), verdictPass, "kernel-host-address"},
		{"error to another than it quotes", icmp(sharedAddress, 3, 0, outbound(at(poolAddress, heldUDP))), verdictPass, "kernel-host-address"},
		{"error about a later fragment", icmp(sharedAddress, 3, 0, outboundTCP(at(sharedAddress, heldTCP), later)), verdictPass, "kernel-host-address"},
		{"redirect is the host's", icmp(sharedAddress, 5, 0, outbound(at(sharedAddress, heldUDP))), verdictPass, "kernel-host-address"},
		{"error with a cut quote", icmp(sharedAddress, 3, 0, outbound(at(sharedAddress, heldUDP))[:27]), verdictPass, "kernel-host-address"},
		{"error with a quoted IHL of 4", icmp(sharedAddress, 3, 0, gopacket.Payload(edit(outbound(at(sharedAddress, heldUDP)), func(b []byte) { b[0] = 0x44 }))), verdictPass, "kernel-host-address"},
		{"error that quotes IPv6", icmp(sharedAddress, 3, 0, gopacket.Payload(edit(outbound(at(sharedAddress, heldUDP)), func(b []byte) { b[0] = 0x65 }))), verdictPass, "kernel-host-address"},
		{"error passing through", icmp(inside, 3, 0, outbound(at(inside, 1))), verdictRedirect, "worker-routed"},

		{"routed", tcp(at(inside, 80)), verdictRedirect, "worker-routed"},
		{"routed, fragment", tcp(at(inside, 80), later), verdictRedirect, "worker-routed"},
		{"routed to an unlisted interface", tcp(at(unlisted, 80)), verdictPass, "kernel-routed"},
		{"the longest prefix decides", tcp(at(listed, 80)), verdictRedirect, "worker-routed"},
		{"no route", tcp(at(elsewhere, 80)), verdictPass, "kernel-no-route"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.beat(0, 0)
			if v, r := w.run(c.frame); v != c.verdict || r != c.reason {
				t.Errorf("verdict %d, %s; want %d, %s", v, r, c.verdict, c.reason)
			}
		})
	}
}

// TestSteeringMalformed: where the destination can be read it decides, so that
// a worker drops the packet by name; nothing else is read past the frame.
func TestSteeringMalformed(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)

	header := func(b byte) func([]byte) { return func(f []byte) { f[14] = b } }
	inside := netip.MustParseAddr("10.1.2.3")
	for _, c := range []struct {
		name                 string
		change               func([]byte)
		shared, pool, routed string
	}{
		{"IHL 4", header(0x44), "kernel-host-address", "worker-pool-address", "worker-routed"},
		{"IHL 0", header(0x40), "kernel-host-address", "worker-pool-address", "worker-routed"},
		{"IHL beyond the frame", header(0x4f), "kernel-host-address", "worker-pool-address", "worker-routed"},
		{"version 6", header(0x65), "kernel-host-address", "worker-pool-address", "worker-routed"},
		{"total length 0", func(f []byte) { f[16], f[17] = 0, 0 }, "worker-held-port", "worker-held-port", "worker-routed"},
	} {
		w.expect(c.name+", shared", edit(tcp(at(sharedAddress, heldTCP)), c.change), verdictPass+2*b2u(c.shared[0] == 'w'), c.shared)
		w.expect(c.name+", pool", edit(tcp(at(poolAddress, heldTCP)), c.change), verdictRedirect, c.pool)
		w.expect(c.name+", routed", edit(tcp(at(inside, 80)), c.change), verdictRedirect, c.routed)
	}

	// Every length of each kind of packet. The kernel refuses to run the
	// program on less than an Ethernet header.
	quoted := quote(udpDatagram(at(sharedAddress, heldUDP), at(peerAddress, 53)))
	for _, c := range []struct {
		name   string
		whole  []byte
		needed int // from this length on it can be recognised
		reason string
	}{
		{"TCP", tcp(at(sharedAddress, heldTCP)), 14 + 20 + 20, "worker-held-port"},
		{"UDP", udp(at(sharedAddress, heldUDP)), 14 + 20 + 8, "worker-held-port"},
		{"UDP with options", udp(at(sharedAddress, heldUDP), withOptions), 14 + 60 + 8, "worker-held-port"},
		{"echo reply", icmp(sharedAddress, 0, heldEcho), 14 + 20 + 8, "worker-held-port"},
		{"ICMP error", icmp(sharedAddress, 3, 0, quoted), 14 + 20 + 8 + 20 + 8, "worker-icmp-error"},
	} {
		for n := 14; n <= len(c.whole); n++ {
			switch {
			case n < 14+20:
				w.expect(c.name, c.whole[:n:n], verdictPass, "kernel-truncated")
			case n < c.needed:
				w.expect(c.name, c.whole[:n:n], verdictPass, "kernel-host-address")
			default:
				w.expect(c.name, c.whole[:n:n], verdictRedirect, c.reason)
			}
		}
	}
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// TestSteeringEveryPort: the bit of a port is that port's, of all 65536 and of
// each protocol.
func TestSteeringEveryPort(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	words := w.HeldPorts(0)
	frames := [][]byte{
		tcp(at(sharedAddress, 0)), udp(at(sharedAddress, 0)), icmp(sharedAddress, 0, 0),
	}
	offsets := []int{14 + 20 + 2, 14 + 20 + 2, 14 + 20 + 4}
	for protocol, f := range frames {
		for _, port := range []int{0, 1, 63, 64, 65, 255, 256, 1023, 1024, 32767, 32768, 65471, 65472, 65534, 65535} {
			clear(words)
			binary.BigEndian.PutUint16(f[offsets[protocol]:], uint16(port))
			w.expect("nothing held", f, verdictPass, "kernel-host-address")
			w.hold(0, protocol, port)
			w.expect("held", f, verdictRedirect, "worker-held-port")
			for i := range words {
				words[i] = ^words[i]
			}
			w.expect("all others held", f, verdictPass, "kernel-host-address")
		}
	}
}

// TestSteeringFragments: later fragments to a shared address follow the first
// one, and the host's own reach the host.
func TestSteeringFragments(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	held, host := at(sharedAddress, heldUDP), at(sharedAddress, 53)
	first := func(dst netip.AddrPort, id uint16) []byte { return udp(dst, withFragment(id, 0, true)) }
	later := func(id uint16) []byte { return udp(held, withFragment(id, 185, false)) }

	w.expect("before the first", later(1), verdictRedirect, "worker-fragment")
	w.expect("first", first(held, 1), verdictRedirect, "worker-held-port")
	w.expect("later", later(1), verdictRedirect, "worker-fragment")
	w.expect("later again", later(1), verdictRedirect, "worker-fragment")
	w.expect("another datagram", later(2), verdictRedirect, "worker-fragment")
	w.expect("the host's, for which others wait", first(host, 2), verdictRedirect, "worker-fragment")
	w.expect("later of that", later(2), verdictPass, "kernel-fragment")
	w.expect("identification used again", first(host, 2), verdictPass, "kernel-fragment")
	w.expect("another source", udpDatagram(at(netip.MustParseAddr("1.1.1.2"), 53), held, withFragment(1, 185, false)), verdictRedirect, "worker-fragment")
	w.expect("another protocol", tcp(at(sharedAddress, heldTCP), withFragment(1, 185, false)), verdictRedirect, "worker-fragment")
	w.expect("identification used again, for the host", first(host, 1), verdictPass, "kernel-fragment")
	w.expect("later of that", later(1), verdictPass, "kernel-fragment")

	w.expect("first", first(held, 3), verdictRedirect, "worker-held-port")
	w.beat(0, time.Minute)
	w.expect("a fragment for a held port never reaches the host", later(3), verdictDrop, "failure-dropped")
	w.expect("one before its first does no harm there", later(4), verdictPass, "failure-passed")
	w.expect("nor does the host's first one that others wait for", first(host, 4), verdictPass, "failure-passed")
}

// TestSteeringFailure: dead, hung and missing workers.
func TestSteeringFailure(t *testing.T) {
	routed, held, pool := tcp(at(netip.MustParseAddr("10.1.2.3"), 80)), tcp(at(sharedAddress, heldTCP)), tcp(at(poolAddress, 22))
	for _, c := range []struct {
		name    string
		failure Failure
		verdict uint32
		reason  string
	}{
		{"drop", FailDrop, verdictDrop, "failure-dropped"},
		{"pass", FailPass, verdictPass, "failure-passed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, SteeringConfig{OnFailure: c.failure, StaleAfter: 200 * time.Millisecond})
			failed := func(what string) {
				t.Helper()
				w.expect(what+", routed", routed, c.verdict, c.reason)
				w.expect(what+", pool", pool, c.verdict, c.reason)
				w.expect(what+", held port", held, verdictDrop, "failure-dropped")
				w.expect(what+", error about it", icmp(sharedAddress, 3, 0, quote(tcpSegment(at(sharedAddress, heldTCP), at(peerAddress, 443), layers.TCP{}))), verdictDrop, "failure-dropped")
				w.expect(what+", host", tcp(at(sharedAddress, 22)), verdictPass, "kernel-host-address")
			}
			fd := w.plug(0, 0)
			failed("never started")
			w.beat(0, 0)
			w.expect("running", routed, verdictRedirect, "worker-routed")
			w.beat(0, -time.Second)
			w.expect("a clock slightly ahead", routed, verdictRedirect, "worker-routed")
			w.beat(0, time.Second)
			failed("hung")
			w.beat(0, 0)
			w.expect("running again", held, verdictRedirect, "worker-held-port")
			unix.Close(fd) // the slot empties itself
			failed("dead")
		})
	}
}

// TestSetOnFailure: the verdict changes while the program runs.
func TestSetOnFailure(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	routed := tcp(at(netip.MustParseAddr("10.1.2.3"), 80))
	for range 2 {
		w.expect("drop", routed, verdictDrop, "failure-dropped")
		if err := w.SetOnFailure(FailPass); err != nil {
			t.Fatal(err)
		}
		w.expect("pass", routed, verdictPass, "failure-passed")
		if err := w.SetOnFailure(FailDrop); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSteeringUpdates: changes of MAC, addresses and routes take effect.
func TestSteeringUpdates(t *testing.T) {
	w := newWorld(t, SteeringConfig{MaxAddresses: 5, MaxRoutes: 4})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	routed := tcp(at(netip.MustParseAddr("10.1.2.3"), 80))

	must(w.SetMAC(0, [6]byte(peerMAC)))
	w.expect("old MAC", routed, verdictPass, "kernel-other-mac")
	w.expect("new MAC", edit(routed, func(b []byte) { copy(b, peerMAC) }), verdictRedirect, "worker-routed")
	must(w.SetMAC(0, [6]byte(gatewayMAC)))

	must(w.SetAddress(hostOrder(poolAddress), AddrHost, -1))
	w.expect("pool became the host's", tcp(at(poolAddress, heldTCP)), verdictPass, "kernel-host-address")
	must(w.DeleteAddress(hostOrder(poolAddress)))
	must(w.DeleteAddress(hostOrder(poolAddress)))
	w.expect("no address", tcp(at(poolAddress, heldTCP)), verdictPass, "kernel-no-route")
	if err := w.SetAddress(hostOrder(poolAddress), AddrPool, 1<<20); err == nil {
		t.Error("a bitmap that does not exist was taken")
	}

	must(w.SetRoutes([]SteeringRoute{{netip.MustParsePrefix("10.1.2.3/8"), false}, {netip.MustParsePrefix("0.0.0.0/0"), true}}))
	w.expect("changed route", routed, verdictPass, "kernel-routed")
	w.expect("removed route", tcp(at(netip.MustParseAddr("10.9.9.9"), 80)), verdictPass, "kernel-routed")
	w.expect("default route", tcp(at(netip.MustParseAddr("8.8.8.8"), 80)), verdictRedirect, "worker-routed")
	must(w.SetRoutes(nil))
	w.expect("no routes", routed, verdictPass, "kernel-no-route")
	if err := w.SetRoutes([]SteeringRoute{{netip.MustParsePrefix("2001:db8::/32"), true}}); err == nil {
		t.Error("an IPv6 prefix was taken")
	}

	var many []SteeringRoute
	for i := range 9 {
		many = append(many, SteeringRoute{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16), true})
	}
	if err := w.SetRoutes(many); err == nil {
		t.Error("9 routes fit in a map of 4")
	}
	must(w.SetRoutes(steeringRoutes))
	w.expect("after the refusal", routed, verdictRedirect, "worker-routed")
}
