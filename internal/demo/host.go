package demo

import (
	"context"
	"net"
	"net/netip"
	"strconv"

	"sluice/internal/lab"
)

// host is a namespace from which sockets are opened.
type host struct{ *lab.Namespace }

func (h host) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	var d net.Dialer
	err = h.Do(func() (err error) { c, err = d.DialContext(ctx, network, address); return err })
	return c, err
}

func (h host) listen(address string) (ln net.Listener, err error) {
	err = h.Do(func() (err error) { ln, err = net.Listen("tcp4", address); return err })
	return ln, err
}

// packets opens an unconnected socket: "udp4", or "ip4:icmp", which sees every
// ICMP message that reaches the host.
func (h host) packets(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() (err error) { c, err = net.ListenPacket(network, address); return err })
	return c, err
}

// at is an address with a port, as Dial takes it.
func at(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// remote is the IP address of a peer.
func remote(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.IPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap()
	}
	return netip.Addr{}
}
