package attack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// each is how many packets an attack sends.
const each = 5000

// raw sends packets with anybody's source from a host.
type raw struct {
	r  *rig
	fd int
}

func (r *rig) raw(host *lab.Namespace) *raw {
	r.Helper()
	f := &raw{r: r}
	if err := host.Do(func() (err error) {
		f.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
		return err
	}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { syscall.Close(f.fd) })
	return f
}

func ipv4(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Id: uint16(1 + rand.IntN(65535)), Protocol: proto, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
}

func (f *raw) send(ip *layers.IPv4, rest ...gopacket.SerializableLayer) {
	f.r.Helper()
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, append([]gopacket.SerializableLayer{ip}, rest...)...)
	if err == nil {
		err = syscall.Sendto(f.fd, b.Bytes(), 0, &syscall.SockaddrInet4{Addr: [4]byte(ip.DstIP.To4())})
	}
	if err != nil {
		f.r.Fatal(err)
	}
}

func udp(ip *layers.IPv4, src, dst uint16) *layers.UDP {
	l := &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
	_ = l.SetNetworkLayerForChecksum(ip)
	return l
}

// floodInside: the host gets its limit of flows and no more, the operator sees which
// it is, and others open new connections meanwhile.
func (r *rig) floodInside(*many) {
	r.Helper()
	f := r.raw(r.Client1)
	for i := range 2 * each {
		ip := ipv4(lab.Client1Address, lab.Server2Address, layers.IPProtocolUDP)
		f.send(ip, udp(ip, uint16(1024+i), uint16(1+rand.IntN(65535))))
		if i%each == each/2 { // another host is not concerned
			if err := r.Client2.Do(func() error {
				c, err := net.DialTimeout("tcp4", lab.Server1Address+port, patience)
				if err == nil {
					err = c.Close()
				}
				return err
			}); err != nil {
				r.Fatal(err)
			}
		}
	}
	r.eventually("the flood is seen", func() error {
		if n := r.dropped("source-limit"); n == 0 {
			return fmt.Errorf("no packet was dropped as source-limit")
		}
		p, err := r.client.Pools(context.Background(), 3)
		if err != nil {
			return err
		}
		if len(p.Sources) == 0 || p.Sources[0].Address.String() != lab.Client1Address || p.Sources[0].Flows != sourceLimit {
			return fmt.Errorf("top sources %+v", p.Sources)
		}
		return nil
	})
}

// forgeErrors: unreachables about connections, by somebody who does not know their
// numbers (RFC 5927).
func (r *rig) forgeErrors(m *many) {
	r.Helper()
	f := r.raw(r.Server2)
	before := r.dropped("icmp-error-implausible")
	for i := range each {
		known := m.external[i%len(m.external)]
		quoted := ipv4(known.Addr().String(), lab.Server1Address, layers.IPProtocolTCP)
		tcp := &layers.TCP{SrcPort: layers.TCPPort(known.Port()), DstPort: 7007, Seq: rand.Uint32(), ACK: true, Window: 100}
		_ = tcp.SetNetworkLayerForChecksum(quoted)
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, quoted, tcp); err != nil {
			r.Fatal(err)
		}
		f.send(ipv4(lab.Server2Address, known.Addr().String(), layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 2)}, gopacket.Payload(b.Bytes()))
	}
	r.eventually("forged errors are refused", func() error {
		if n := r.dropped("icmp-error-implausible") - before; n < each*9/10 {
			return fmt.Errorf("%d of %d", n, each)
		}
		return nil
	})
}

// forgeResets: of both directions (RFC 5961, RFC 7857 2.2).
func (r *rig) forgeResets(m *many) {
	r.Helper()
	outside, inside := r.raw(r.Server2), r.raw(r.Client2)
	before := r.status().Router.TCPOutOfWindow
	reset := func(f *raw, src, dst netip.AddrPort) {
		ip := ipv4(src.Addr().String(), dst.Addr().String(), layers.IPProtocolTCP)
		tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: rand.Uint32(), RST: true}
		_ = tcp.SetNetworkLayerForChecksum(ip)
		f.send(ip, tcp)
	}
	server := netip.MustParseAddrPort(lab.Server1Address + port)
	for i := range each {
		reset(outside, server, m.external[i%len(m.external)])
		reset(inside, m.inside(i%len(m.conns)), server)
	}
	r.eventually("forged resets are seen", func() error {
		if n := r.status().Router.TCPOutOfWindow - before; n < 2*each*9/10 {
			return fmt.Errorf("%d of %d", n, 2*each)
		}
		return nil
	})
}

// floodFragments: to the external address, each of another datagram.
func (r *rig) floodFragments(*many) {
	r.Helper()
	f := r.raw(r.Server2)
	for i := range each {
		ip := ipv4(fmt.Sprintf("198.51.%d.%d", 101+i/250, 1+i%250), lab.GatewayOutside, layers.IPProtocolUDP)
		ip.FragOffset, ip.Id = 100, uint16(i)
		f.send(ip, gopacket.Payload("a fragment"))
	}
}

func (r *rig) status() control.Status {
	r.Helper()
	s, err := r.client.Status(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// established holds that at least n connections are.
func (r *rig) established(n int) {
	r.Helper()
	r.eventually("the gateway has the connections", func() error {
		c, err := r.client.CountFlows(context.Background(), control.Filter{Proto: "tcp", State: "established"})
		if err == nil && c.Count < n {
			err = fmt.Errorf("%d of %d", c.Count, n)
		}
		return err
	})
}

// memory is what the gateway's process has in memory, in bytes.
func (r *rig) memory() (bytes uint64) {
	r.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.daemon.Process.Pid))
	if err != nil {
		r.Fatal(err)
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		r.Fatal(err)
	}
	return resident * uint64(os.Getpagesize())
}

// fromOutside: a host outside traces the way to one that has an external address of
// its own, and learns the MTU of the way to it.
func (r *rig) fromOutside() {
	r.Helper()
	var icmp net.PacketConn
	if err := r.Server1.Do(func() (err error) {
		icmp, err = net.ListenPacket("ip4:icmp", lab.Server1Address)
		return err
	}); err != nil {
		r.Fatal(err)
	}
	defer icmp.Close()
	f := r.raw(r.Server1)
	probe := func(ttl uint8, size int) {
		ip := ipv4(lab.Server1Address, oneToOne, layers.IPProtocolUDP)
		ip.TTL, ip.Flags = ttl, layers.IPv4DontFragment
		f.send(ip, udp(ip, 40000, 33434), gopacket.Payload(make([]byte, size)))
	}
	r.expectError(icmp, func() { probe(1, 10) }, lab.GatewayOutside, 11, 0, 0)
	r.expectError(icmp, func() { probe(2, 10) }, oneToOne, 3, 3, 0)
	inside, err := r.Gateway.Netlink().LinkByName(lab.InsideNIC)
	if err != nil {
		r.Fatal(err)
	}
	const mtu = 1300
	if err := r.Gateway.Netlink().LinkSetMTU(inside, mtu); err != nil {
		r.Fatal(err)
	}
	r.expectError(icmp, func() { probe(64, 1350) }, lab.GatewayOutside, 3, 4, mtu)
}

// expectError sends a probe, again and again, until the error about it comes. It
// quotes the packet as the host outside knows it.
func (r *rig) expectError(icmp net.PacketConn, probe func(), from string, typ, code uint8, mtu uint16) {
	r.Helper()
	b := make([]byte, 2000)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		probe()
		if err := icmp.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			r.Fatal(err)
		}
		for {
			n, sender, err := icmp.ReadFrom(b)
			if err != nil {
				if !strings.Contains(err.Error(), "timeout") {
					r.Fatal(err)
				}
				break
			}
			var m layers.ICMPv4
			var quoted layers.IPv4
			if m.DecodeFromBytes(b[:n], gopacket.NilDecodeFeedback) != nil || quoted.DecodeFromBytes(m.Payload, gopacket.NilDecodeFeedback) != nil ||
				sender.String() != from || m.TypeCode != layers.CreateICMPv4TypeCode(typ, code) {
				continue
			}
			if m.Seq != mtu || quoted.SrcIP.String() != lab.Server1Address || quoted.DstIP.String() != oneToOne {
				r.Errorf("%v from %s: MTU %d, about %v > %v", m.TypeCode, from, m.Seq, quoted.SrcIP, quoted.DstIP)
			}
			return
		}
	}
	r.Errorf("no %d/%d from %s", typ, code, from)
}
