package xdp

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// TestSteeringHostSockets: on a shared address the host's own sockets go before
// NAT, for exactly their packets. All ports are held, so that only the sockets
// decide.
func TestSteeringHostSockets(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	for _, bitmap := range []int{0, 1} {
		words := w.HeldPorts(bitmap)
		for i := range words {
			words[i] = ^uint64(0)
		}
	}
	const port = 8080
	server, stranger := at(sharedAddress, port), at(peerAddress, 555)
	syn, ack := layers.TCP{SYN: true}, layers.TCP{ACK: true}

	w.expect("nothing listens: SYN", tcpSegment(stranger, server, syn), verdictRedirect, "worker-held-port")
	listener := listen(w, server)
	w.expect("listener: SYN", tcpSegment(stranger, server, syn), verdictPass, "kernel-host-socket")
	w.expect("listener: first fragment of a SYN", tcpSegment(stranger, server, syn, withFragment(5, 0, true)), verdictPass, "kernel-host-socket")
	w.expect("listener: no connection", tcpSegment(stranger, server, ack), verdictRedirect, "worker-held-port")
	w.expect("listener: SYN and ACK answer a SYN of NAT's", tcpSegment(stranger, server, layers.TCP{SYN: true, ACK: true}), verdictRedirect, "worker-held-port")
	w.expect("listener on another port", tcpSegment(stranger, at(sharedAddress, port+1), syn), verdictRedirect, "worker-held-port")
	w.expect("listener: same port of UDP", udpDatagram(stranger, server), verdictRedirect, "worker-held-port")

	client, accepted := dial(w, server, listener)
	from := client.LocalAddr().(*net.TCPAddr).AddrPort()
	w.expect("connection", tcpSegment(from, server, ack), verdictPass, "kernel-host-socket")
	w.expect("connection, seen by the client", tcpSegment(server, from, ack), verdictPass, "kernel-host-socket")
	w.expect("connection of another", tcpSegment(at(from.Addr(), from.Port()^1), server, ack), verdictRedirect, "worker-held-port")
	w.expect("ICMP error about the connection", icmp(sharedAddress, 3, 0, quote(tcpSegment(server, from, ack))), verdictPass, "kernel-host-socket")
	w.expect("ICMP error about NAT's", icmp(sharedAddress, 3, 0, quote(tcpSegment(server, stranger, ack))), verdictRedirect, "worker-icmp-error")

	accepted.Close()
	awaitEnd(t, client)
	client.Close()
	w.expect("TIME-WAIT", tcpSegment(from, server, ack), verdictPass, "kernel-host-socket")
	listener.Close()
	w.expect("listener gone", tcpSegment(stranger, server, syn), verdictRedirect, "worker-held-port")

	name := at(sharedAddress, 5353)
	w.expect("UDP, no socket", udpDatagram(stranger, name), verdictRedirect, "worker-held-port")
	bound := bindUDP(w, name)
	w.expect("UDP socket", udpDatagram(stranger, name), verdictPass, "kernel-host-socket")
	w.expect("UDP, ICMP error", icmp(sharedAddress, 3, 0, quote(udpDatagram(name, stranger))), verdictPass, "kernel-host-socket")
	bound.Close()
	bound = bindUDP(w, at(netip.IPv4Unspecified(), 5353))
	w.expect("UDP socket on any address", udpDatagram(stranger, name), verdictPass, "kernel-host-socket")
	w.expect("a pool address is never the host's", udpDatagram(stranger, at(poolAddress, 5353)), verdictRedirect, "worker-held-port")
	bound.Close()
}

// TestSteeringConnectedUDP: a connected UDP socket receives from its peer only,
// so the port is NAT's for all others.
func TestSteeringConnectedUDP(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	local, remote := at(sharedAddress, heldUDP), at(hostAddress, 9)
	var conn net.Conn
	w.inside(func() (err error) {
		conn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(remote))
		return err
	})
	defer conn.Close()
	w.expect("from its peer", udpDatagram(remote, local), verdictPass, "kernel-host-socket")
	w.expect("from another", udpDatagram(at(peerAddress, 9), local), verdictRedirect, "worker-held-port")
}

// inside runs f in the world's namespace.
func (w *world) inside(f func() error) {
	w.t.Helper()
	if err := w.ns.Do(f); err != nil {
		w.t.Fatal(err)
	}
}

func listen(w *world, a netip.AddrPort) (l *net.TCPListener) {
	w.t.Helper()
	w.inside(func() (err error) {
		l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(a))
		return err
	})
	w.t.Cleanup(func() { l.Close() })
	return l
}

func dial(w *world, a netip.AddrPort, l *net.TCPListener) (client, server *net.TCPConn) {
	w.t.Helper()
	w.inside(func() (err error) {
		client, err = net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(a))
		return err
	})
	w.t.Cleanup(func() { client.Close() })
	server, err := l.AcceptTCP()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { server.Close() })
	return client, server
}

func bindUDP(w *world, a netip.AddrPort) (c *net.UDPConn) {
	w.t.Helper()
	w.inside(func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(a))
		return err
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// awaitEnd waits for the peer's FIN.
func awaitEnd(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("the connection did not end: %v", err)
	}
}
