package xdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// punting is a gateway whose one interface has the steering program, with the
// host's address on it, and a peer with a packet socket that sees its answers.
type punting struct {
	*gateway
	t      testing.TB
	punter *Punter
	steer  *Steering
}

var puntAddress = netip.MustParseAddr("192.0.2.1")

func newPunting(t *testing.T) *punting {
	p := &punting{gateway: newGateway(t, 1), t: t}
	if err := p.AddAddress("gw0", puntAddress.String()+"/24"); err != nil {
		t.Fatal(err)
	}
	if err := p.AddRoute("0.0.0.0/0", "192.0.2.9"); err != nil {
		t.Fatal(err)
	}
	p.steer = p.steering(t, SteeringConfig{Workers: 1, Ports: []SteeringPort{{NIC: p.nic, Queues: 1}}})
	in(t, p.Namespace, func() (err error) {
		if p.punter, err = NewPunter(); err != nil {
			return err
		}
		return p.steer.Attach(0)
	})
	t.Cleanup(func() { p.punter.Close() })
	return p
}

// punt gives frames to the gateway's kernel, none of which the steering program
// may see.
func (p *punting) punt(frames ...[]byte) {
	p.t.Helper()
	before, err := p.steer.Counters()
	if err != nil {
		p.t.Fatal(err)
	}
	in(p.t, p.Namespace, func() error {
		for _, f := range frames {
			if err := p.punter.Punt(p.nic.Ifindex, f); err != nil {
				return err
			}
		}
		return nil
	})
	after, err := p.steer.Counters()
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range after {
		// Of what is not IPv4: the gateway resolves its peer meanwhile.
		if after[i] != before[i] && after[i].Name != "kernel-not-ipv4" {
			p.t.Errorf("a punted frame came back to the steering program: %s rose by %d", after[i].Name, after[i].Packets-before[i].Packets)
		}
	}
}

func (p *punting) listen(port int) *net.UDPConn {
	p.t.Helper()
	var c *net.UDPConn
	in(p.t, p.Namespace, func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	})
	p.t.Cleanup(func() { c.Close() })
	return c
}

func expectDatagram(t *testing.T, c *net.UDPConn, want []byte) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := c.ReadFromUDPAddrPort(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if from != netip.AddrPortFrom(peerAddress, 53) || !bytes.Equal(buffer[:n], want) {
		t.Errorf("%d bytes from %v, want %d", n, from, len(want))
	}
}

// TestPuntedDatagram: a frame of any length reaches the host's socket as it was.
func TestPuntedDatagram(t *testing.T) {
	p := newPunting(t)
	c := p.listen(7000)
	for _, n := range []int{0, 1, 100, 1400, MaxPunt - 42} {
		body := bytes.Repeat([]byte{byte(n), 7}, n/2+1)[:n]
		p.punt(puntedUDP(puntAddress, 7000, body))
		expectDatagram(t, c, body)
	}
}

// TestPuntedFragments: the kernel reassembles what came in several frames, in
// whatever order.
func TestPuntedFragments(t *testing.T) {
	p := newPunting(t)
	c := p.listen(7000)
	body := make([]byte, 4000)
	for i := range body {
		body[i] = byte(i * 7)
	}
	train := fragments(puntedUDP(puntAddress, 7000, body), 1480)
	if len(train) != 3 {
		t.Fatalf("%d fragments", len(train))
	}
	p.punt(train[2], train[0], train[1])
	expectDatagram(t, c, body)
}

// TestPuntedEcho: the host answers a ping through the interface that it came in
// by.
func TestPuntedEcho(t *testing.T) {
	p := newPunting(t)
	fd := listenPackets(t, p.peer, "peer0")
	if err := p.peer.AddAddress("peer0", "192.0.2.9/24"); err != nil { // answers ARP
		t.Fatal(err)
	}
	p.punt(icmp(puntAddress, layers.ICMPv4TypeEchoRequest, 4321, payload))
	deadline := time.Now().Add(3 * time.Second)
	for buffer := make([]byte, 2048); time.Now().Before(deadline); {
		n, err := unix.Read(fd, buffer)
		if err != nil {
			t.Fatal("no echo reply: ", err)
		}
		got := gopacket.NewPacket(buffer[:n], layers.LayerTypeEthernet, gopacket.Default)
		m, ok := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if ok && m.TypeCode.Type() == layers.ICMPv4TypeEchoReply && m.Id == 4321 {
			return
		}
	}
	t.Fatal("no echo reply")
}

// TestPuntRefusals: errors say what is wrong, and nothing else happens.
func TestPuntRefusals(t *testing.T) {
	p := newPunting(t)
	in(t, p.Namespace, func() error {
		if err := p.punter.Punt(p.nic.Ifindex, make([]byte, MaxPunt+1)); err == nil {
			t.Error("a frame that is too long was taken")
		}
		if err := p.punter.Punt(4242, puntedUDP(puntAddress, 1, nil)); !errors.Is(err, unix.ENODEV) {
			t.Errorf("a device that does not exist: %v", err)
		}
		return nil
	})
}

// BenchmarkPunt is the price of a frame.
func BenchmarkPunt(b *testing.B) {
	a, peer := namespace(b, "gw"), namespace(b, "peer")
	cable(b, a, "gw0", peer, "peer0", lab.VethOptions{})
	nic := probe(b, a, "gw0")
	in(b, a, func() error {
		p, err := NewPunter()
		if err != nil {
			return err
		}
		defer p.Close()
		f := puntedUDP(puntAddress, 7000, make([]byte, 1400))
		for b.Loop() {
			if err := p.Punt(nic.Ifindex, f); err != nil {
				return err
			}
		}
		return nil
	})
}

func puntedUDP(dst netip.Addr, port uint16, body []byte) []byte {
	h := ip(peerAddress, dst, layers.IPProtocolUDP)
	h.Id = 77
	u := &layers.UDP{SrcPort: 53, DstPort: layers.UDPPort(port)}
	must(u.SetNetworkLayerForChecksum(h))
	return frame(h, u, gopacket.Payload(body))
}

// fragments cuts a frame's packet into fragments that carry size bytes each.
func fragments(whole []byte, size int) (train [][]byte) {
	body := whole[34:]
	for at := 0; at < len(body); at += size {
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(whole[23]), Id: binary.BigEndian.Uint16(whole[18:]),
			SrcIP: net.IP(whole[26:30]), DstIP: net.IP(whole[30:34]), FragOffset: uint16(at / 8)}
		if at+size < len(body) {
			h.Flags = layers.IPv4MoreFragments
		}
		train = append(train, frame(h, gopacket.Payload(body[at:min(at+size, len(body))])))
	}
	return train
}

// listenPackets opens a packet socket on an interface; reads end after a while.
func listenPackets(t *testing.T, n *lab.Namespace, ifname string) (fd int) {
	t.Helper()
	in(t, n, func() (err error) {
		device, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return os.NewSyscallError("socket", err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index})
	})
	return fd
}
