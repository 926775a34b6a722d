package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/internal/fib"
)

// Ports are sets of ports: port p is bit p%64 of word p/64.
type Ports struct{ TCP, UDP [1024]uint64 }

func (p *Ports) add(protocol uint8, port uint16) {
	set := &p.TCP
	if protocol == syscall.IPPROTO_UDP {
		set = &p.UDP
	}
	set[port/64] |= 1 << (port % 64)
}

// HostPorts has, for every local address, the ports that sockets of the host
// are bound to there. Those of sockets bound to no address stand under 0.
type HostPorts map[uint32]*Ports

// At returns the ports in use at addr: those bound to it and those bound to
// every address.
func (h HostPorts) At(addr uint32) *Ports {
	var at Ports
	for _, a := range []uint32{0, addr} {
		p := h[a]
		if p == nil {
			continue
		}
		for i := range at.TCP {
			at.TCP[i] |= p.TCP[i]
			at.UDP[i] |= p.UDP[i]
		}
	}
	return &at
}

func (h HostPorts) add(addr uint32, protocol uint8, port uint16) {
	if h[addr] == nil {
		h[addr] = new(Ports)
	}
	h[addr].add(protocol, port)
}

// HostPorts asks the kernel which ports the host's own TCP and UDP sockets use,
// in any state: listening, connected or waiting.
func (m *Mirror) HostPorts() (HostPorts, error) {
	ports := make(HostPorts)
	for _, protocol := range []uint8{syscall.IPPROTO_TCP, syscall.IPPROTO_UDP} {
		// A socket of IPv6 that is bound to :: takes IPv4 as well.
		for _, family := range []uint8{syscall.AF_INET, syscall.AF_INET6} {
			if err := m.hostPorts(ports, family, protocol); err != nil {
				return nil, err
			}
		}
	}
	return ports, nil
}

func (m *Mirror) hostPorts(ports HostPorts, family, protocol uint8) error {
	// struct inet_diag_req_v2: family, protocol, 2 bytes, states, then an empty
	// socket id. All states.
	request := make([]byte, 56)
	request[0], request[1] = family, protocol
	binary.NativeEndian.PutUint32(request[4:], ^uint32(0))
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, syscall.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{syscall.NETLINK_INET_DIAG: m.diag}
	req.AddRawData(request)
	err := req.ExecuteIter(syscall.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		// struct inet_diag_msg: family, state, 2 bytes, then the socket id:
		// ports and addresses in network order.
		if len(msg) < 24 {
			return true
		}
		port := binary.BigEndian.Uint16(msg[4:])
		if addr, ok := localAddr(msg[0], msg[8:24]); ok && port != 0 {
			ports.add(addr, protocol, port)
		}
		return true
	})
	// Sockets that come and go meanwhile do no harm.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		if errors.Is(err, syscall.ENOENT) && family == syscall.AF_INET6 {
			return nil // a kernel without IPv6
		}
		return fmt.Errorf("route: list the host's sockets (are the kernel modules tcp_diag and udp_diag there?): %w", err)
	}
	return nil
}

// localAddr returns the IPv4 address that a socket is bound to, 0 for all.
func localAddr(family uint8, b []byte) (addr uint32, ok bool) {
	if family == syscall.AF_INET {
		return binary.BigEndian.Uint32(b), true
	}
	switch a := netip.AddrFrom16([16]byte(b)); {
	case a.IsUnspecified():
		return 0, true
	case a.Is4In6():
		return fib.U32(a.Unmap()), true
	}
	return 0, false
}
