package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// ipv4 is a frame that a gateway might send outside.
func ipv4(src, dst string, upper ...gopacket.SerializableLayer) []byte {
	return serialize(append([]gopacket.SerializableLayer{ethernet(layers.EthernetTypeIPv4), header(src, dst, upper)}, upper...)...)
}

func ethernet(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: t,
	}
}

func header(src, dst string, upper []gopacket.SerializableLayer) *layers.IPv4 {
	ip := &layers.IPv4{Version: 4, TTL: 63, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst), Protocol: layers.IPProtocolGRE}
	if len(upper) > 0 {
		switch upper[0].(type) {
		case *layers.ICMPv4:
			ip.Protocol = layers.IPProtocolICMPv4
		case *layers.UDP:
			ip.Protocol = layers.IPProtocolUDP
		}
	}
	return ip
}

func serialize(l ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func udp(src, dst string) []byte {
	u := &layers.UDP{SrcPort: 4000, DstPort: 53}
	u.SetNetworkLayerForChecksum(header(src, dst, []gopacket.SerializableLayer{u}))
	return ipv4(src, dst, u, gopacket.Payload("question"))
}

func vlan(frame []byte) []byte {
	tagged := append([]byte(nil), frame[:12]...)
	tagged = append(tagged, 0x81, 0x00, 0x00, 0x07)
	return append(tagged, frame[12:]...)
}

// qinq is tagged twice: the kernel takes out the outer tag only.
func qinq(frame []byte) []byte {
	tagged := append([]byte(nil), frame[:12]...)
	tagged = append(tagged, 0x88, 0xa8, 0x00, 0x08)
	return append(tagged, vlan(frame)[12:]...)
}

func unreachable(src, dst, quotedSrc, quotedDst string) []byte {
	quoted := udp(quotedSrc, quotedDst)[14:]
	return ipv4(src, dst, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quoted))
}

func laterFragment(src, dst string) []byte {
	f := udp(src, dst)
	binary.BigEndian.PutUint16(f[14+6:], 100)
	return f
}

// TestCheckerJudges sends one frame at a time out of the gateway's outside NIC
// and asks the checker for its verdict.
func TestCheckerJudges(t *testing.T) {
	RequireRoot(t)
	const in, out, excluded = Client1Address, Server1Address, ExcludedAddress
	for _, c := range []struct {
		name  string
		frame []byte
		want  string // part of the offender's line; "" = fine
	}{
		{"translated", udp(GatewayOutside, out), ""},
		{"inside source", udp(in, out), "10.20.30.11:4000 > 198.51.100.11:53 UDP"},
		{"inside source to the excluded network", udp(in, excluded), ""},
		{"the gateway's own inside address", udp(GatewayInside, out), "source is the inside address 10.20.30.1"},
		{"first address of the sources", udp("10.20.30.0", out), "10.20.30.0"},
		{"just outside the sources", udp("10.20.31.0", out), ""},
		{"a protocol without ports", ipv4(in, out), "GRE"},
		{"a later fragment", laterFragment(in, out), "10.20.30.11"},
		{"with a VLAN tag", vlan(udp(in, out)), "10.20.30.11"},
		{"with two VLAN tags", qinq(udp(in, out)), "10.20.30.11"},
		{"ICMP error, translated throughout", unreachable(GatewayOutside, out, out, GatewayOutside), ""},
		{"ICMP error that quotes the inside", unreachable(GatewayOutside, out, out, in), "quotes the inside address 10.20.30.11"},
		{"ICMP error to the excluded network", unreachable(in, excluded, excluded, in), ""},
		{"echo request", ipv4(GatewayOutside, out, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}), ""},
		{"IPv4 too short to have a source", append(udp(in, out)[:14], 0x45, 0), ""},
		{"ARP", serialize(ethernet(layers.EthernetTypeARP), gopacket.Payload(make([]byte, 28))), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			gw, sw := pair(t, VethOptions{})
			checker, err := Watch(sw, "eth0", MasqueradePolicy())
			if err != nil {
				t.Fatal(err)
			}
			send(t, gw, "eth0", c.frame)
			r := checker.Close()
			if r.Frames == 0 {
				t.Fatal("the checker counted no frame")
			}
			if c.want == "" && r.Err() != nil {
				t.Errorf("a lawful frame was called a leak: %v", r.Err())
			}
			if c.want != "" && (r.Leaks != 1 || !strings.Contains(r.Err().Error(), c.want)) {
				t.Errorf("%d leaks, %v; want one that says %q", r.Leaks, r.Err(), c.want)
			}
		})
	}
}

// TestCheckerIgnoresTheOtherWay sends an inside source towards the gateway:
// that is the outside's doing.
func TestCheckerIgnoresTheOtherWay(t *testing.T) {
	_, sw := pair(t, VethOptions{})
	checker, err := Watch(sw, "eth0", MasqueradePolicy())
	if err != nil {
		t.Fatal(err)
	}
	send(t, sw, "eth0", udp(Client1Address, Server1Address))
	if r := checker.Close(); r.Leaks != 0 || r.Inspected != 0 {
		t.Errorf("a frame towards the gateway was judged: %+v", r)
	}
}

// TestCheckerCountsEveryLeak floods more leaks than it lists.
func TestCheckerCountsEveryLeak(t *testing.T) {
	const n = 5000
	gw, sw := pair(t, VethOptions{})
	checker, err := Watch(sw, "eth0", MasqueradePolicy())
	if err != nil {
		t.Fatal(err)
	}
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = udp(Client1Address, Server1Address)
	}
	send(t, gw, "eth0", frames...)
	r := checker.Close()
	if r.Leaks+r.Missed != n || r.Frames < n || len(r.Offenders) != maxOffenders {
		t.Errorf("%d leaks and %d missed of %d, %d frames, %d listed", r.Leaks, r.Missed, n, r.Frames, len(r.Offenders))
	}
}

// TestMissedFramesVoidTheVerdict: what was not judged is not fine.
func TestMissedFramesVoidTheVerdict(t *testing.T) {
	if err := (Report{Frames: 10}).Err(); err != nil {
		t.Error(err)
	}
	if (Report{Frames: 10, Missed: 1}).Err() == nil {
		t.Error("a report with missed frames passes")
	}
}

// send puts frames on the wire from ifname in n.
func send(t *testing.T, n *Namespace, ifname string, frames ...[]byte) {
	t.Helper()
	link, err := n.link(ifname)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Do(func() error {
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		for _, f := range frames {
			if err := syscall.Sendto(fd, f, 0, &syscall.SockaddrLinklayer{Ifindex: link.Attrs().Index}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestKernelForwardingLeaks has the kernel forward where the gateway would:
// without masquerading, traffic to the excluded network is lawful, and traffic
// to a server is a leak that Close reports.
func TestKernelForwardingLeaks(t *testing.T) {
	RequireRoot(t)
	top, err := Up(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	if err := top.Gateway.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	exchange(t, top.Client1, top.Excluded, ExcludedAddress)
	if r := top.Checker.Report(); r.Err() != nil || r.Excluded == 0 {
		t.Fatalf("towards the excluded network: %+v", r)
	}
	exchange(t, top.Client2, top.Server2, Server2Address)
	if err := top.Close(); err == nil || !strings.Contains(err.Error(), Client2Address) {
		t.Errorf("forwarding without masquerading passed: %v", err)
	}
}

// exchange sends a datagram to a server and waits for the answer, which shows
// that the topology carries both ways.
func exchange(t *testing.T, client, server *Namespace, address string) {
	t.Helper()
	var ln, c net.PacketConn
	at := netip.AddrPortFrom(netip.MustParseAddr(address), 5353)
	if err := server.Do(func() (err error) { ln, err = net.ListenPacket("udp4", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		buf := make([]byte, 64)
		if n, from, err := ln.ReadFrom(buf); err == nil {
			ln.WriteTo(buf[:n], from)
		}
	}()
	if err := client.Do(func() (err error) { c, err = net.ListenPacket("udp4", ":0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(at)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, _, err := c.ReadFrom(buf); err != nil || string(buf[:n]) != "question" {
		t.Fatalf("%s to %s: %q, %v", client.Name(), address, buf[:n], err)
	}
}

// TestTopologySideBySide builds it twice in one process: nothing collides, and
// nothing stays.
func TestTopologySideBySide(t *testing.T) {
	a := Start(t, Options{InsideQueues: 2, OutsideQueues: 1})
	b := Start(t, Options{})
	exchange(t, a.Server1, a.Server2, Server2Address)
	exchange(t, b.Client1, b.Client2, Client2Address)
	link, err := a.Gateway.link(InsideNIC)
	if err != nil || link.Attrs().NumRxQueues != 2 {
		t.Errorf("inside NIC: %v, %v; want 2 queues", link, err)
	}
}
