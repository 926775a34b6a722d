package bench

import (
	"context"
	"fmt"

	"github.com/cilium/ebpf/asm"

	"sluice/dsr"
	"sluice/internal/lab"
	"sluice/xdp"
)

// The lanes of services: the client is outside and sends to serviceVIP, the server
// is the backend. With answers, an XDP program at the server sends every packet
// back to where it came from, and the client is where they are counted: each counts
// once and passes the gateway twice.
const (
	serviceVIP  = "203.0.113.80"
	servicePath = 7000 // the service's port; the backend's is discardPort
)

// served are the peers that balance a service.
var served = map[Peer]bool{PeerDSR: true, PeerSNAT: true, PeerDNAT: true, PeerFullNAT: true}

// expectService sets what the packets of a service look like.
func (l *lane) expectService() {
	e := &l.expect
	e.to, e.port = address(serviceVIP), servicePath
	switch l.peer {
	case PeerDSR:
		e.option = true
		l.sight.options = dsr.OptionLen
	case PeerSNAT, PeerFullNAT:
		e.answered, e.ttl = true, 62
		e.src, e.dst = e.to, address(clientAddress)
		l.sight = sight{answers: true, port: servicePath}
	}
}

// balance starts the gateway as the service's balancer.
func (s *site) balance(ctx context.Context, l *lane) error {
	mode := "snat"
	if l.peer == PeerDSR {
		mode = "dsr"
	}
	return s.run(ctx, l, fmt.Sprintf(`interfaces:
  - {name: %s, role: outside}
  - {name: %s, role: inside}
masquerade: {sources: [198.51.100.0/24]}
services:
  - name: discard
    address: %s
    port: %d
    protocols: [udp]
    mode: %s
    backends: [{address: %s, port: %d, agent: true}]
`, lab.InsideNIC, lab.OutsideNIC, serviceVIP, servicePath, mode, serverAddress, discardPort)+s.common(l))
}

// kernelService has the kernel do the same as far as it can: the destination's
// translation alone, or with answers the source's as well.
func (l *lane) kernelService() error {
	rules := fmt.Sprintf("add table ip nat; add chain ip nat in { type nat hook prerouting priority -100; }; "+
		"add rule ip nat in ip daddr %s udp dport %d dnat to %s:%d", serviceVIP, servicePath, serverAddress, discardPort)
	if l.peer == PeerFullNAT {
		rules += "; add chain ip nat out { type nat hook postrouting priority 100; }; add rule ip nat out oifname " + lab.OutsideNIC + " masquerade"
		p, err := attach(l.gateway, lab.OutsideNIC, attachPass)
		if err != nil {
			return err
		}
		l.helpers = append(l.helpers, p)
	}
	if out, err := l.gateway.Exec("nft", rules); err != nil {
		return fmt.Errorf("bench: nft: %w: %s", err, out)
	}
	return l.gateway.Sysctl("net/ipv4/ip_forward", "1")
}

// reflect has the server answer.
func (l *lane) reflect() error {
	p, err := attach(l.server, laneNIC, attachReflector)
	if err == nil {
		l.helpers = append(l.helpers, p)
	}
	return err
}

// attachPass attaches a program that gives the kernel every frame. A veth takes
// frames from its peer's XDP program only where it has one of its own
// (drivers/net/veth.c, veth_xdp_xmit).
func attachPass(nic *xdp.NIC) (*program, error) {
	p := new(program)
	return p, p.finish(nic, func() (asm.Instructions, error) {
		return asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}, nil
	})
}

// attachReflector attaches a program that sends the benchmark's packets back, with
// the ends swapped on all three layers, which changes no checksum.
func attachReflector(nic *xdp.NIC) (*program, error) {
	const xdpTX = 3
	p := new(program)
	return p, p.finish(nic, func() (asm.Instructions, error) {
		code := plainSight.seen()
		swap := func(a, b int16, size asm.Size) {
			code = append(code,
				asm.LoadMem(asm.R4, asm.R2, a, size), asm.LoadMem(asm.R5, asm.R2, b, size),
				asm.StoreMem(asm.R2, a, asm.R5, size), asm.StoreMem(asm.R2, b, asm.R4, size))
		}
		for at := int16(0); at < 6; at += 2 {
			swap(at, at+6, asm.Half)
		}
		swap(l3+12, l3+16, asm.Word)
		swap(l4, l4+2, asm.Half)
		return append(code, asm.Mov.Imm(asm.R0, xdpTX), asm.Return(),
			asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"), asm.Return()), nil
	})
}
