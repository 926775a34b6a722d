package lab

import (
	"encoding/binary"
	"net/netip"
	"syscall"
)

// Offsets into an Ethernet frame without a VLAN tag; the kernel takes the tag
// out before packet sockets see it.
const (
	offEtherType = 12
	offIPv4      = 14
	offProtocol  = offIPv4 + 9
	offSource    = offIPv4 + 12
)

// suspicious is the classic BPF program that passes the frames which could
// break the checker's invariant: received ones, and of these IPv4 with a source
// inside the prefixes, ICMP errors, and whatever is neither IPv4 nor ARP nor
// IPv6, since only a decoder can tell what is in it.
func suspicious(sources []netip.Prefix) []syscall.SockFilter {
	const (
		load32  = syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS
		load16  = syscall.BPF_LD | syscall.BPF_H | syscall.BPF_ABS
		load8   = syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS
		load8X  = syscall.BPF_LD | syscall.BPF_B | syscall.BPF_IND
		header  = syscall.BPF_LDX | syscall.BPF_B | syscall.BPF_MSH // X = 4 * IHL
		and     = syscall.BPF_ALU | syscall.BPF_AND | syscall.BPF_K
		equal   = syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K
		give    = syscall.BPF_RET | syscall.BPF_K
		whole   = 0x40000
		pktType = 0xfffff000 + 4 // SKF_AD_OFF + SKF_AD_PKTTYPE
	)
	op := func(code uint16, k uint32) syscall.SockFilter { return syscall.SockFilter{Code: code, K: k} }
	// when gives the frame the verdict if the accumulator equals k.
	when := func(k, verdict uint32) []syscall.SockFilter {
		return []syscall.SockFilter{{Code: equal, Jf: 1, K: k}, op(give, verdict)}
	}
	var prog []syscall.SockFilter
	add := func(ops ...syscall.SockFilter) { prog = append(prog, ops...) }

	add(op(load32, pktType))
	add(when(syscall.PACKET_OUTGOING, 0)...)
	add(op(load16, offEtherType))
	add(when(syscall.ETH_P_ARP, 0)...)
	add(when(syscall.ETH_P_IPV6, 0)...)
	add(syscall.SockFilter{Code: equal, Jt: 1, K: syscall.ETH_P_IP}, op(give, whole))
	for _, p := range sources {
		network := p.Masked().Addr().As4()
		add(op(load32, offSource), op(and, ^uint32(0)<<(32-p.Bits())))
		add(when(binary.BigEndian.Uint32(network[:]), whole)...)
	}
	add(op(load8, offProtocol))
	add(syscall.SockFilter{Code: equal, Jt: 1, K: syscall.IPPROTO_ICMP}, op(give, 0))
	add(op(header, offIPv4), op(load8X, offIPv4))
	for kind := range icmpErrors {
		add(when(uint32(kind), whole)...)
	}
	add(op(give, 0))
	return prog
}

func attachFilter(fd int, prog []syscall.SockFilter) error {
	//lint:ignore SA1019 x/sys is for the packages that drive the kernel on the packet's way
	return syscall.AttachLsf(fd, prog)
}

// countMissed adds what the kernel dropped because the socket's buffer was
// full. Struct tpacket_stats is two 32-bit counters, packets and drops, and so
// is an ip_mreq: package syscall has a getter only for the latter's name.
func (c *Checker) countMissed(fd int) {
	const solPacket = 263
	stats, err := syscall.GetsockoptIPMreq(fd, solPacket, syscall.PACKET_STATISTICS)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Missed += uint64(binary.NativeEndian.Uint32(stats.Interface[:]))
}

// networkOrder is a 16-bit value as the kernel wants it in a sockaddr.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)})
}
