package daemon

import (
	"fmt"
	"math/bits"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// forwards compiles port-forwards. primary is the address of an interface, 0 where
// it has none: what `auto` stands for on each that leads outside. Where an
// interface has an address that another entry names, the entry that comes first
// counts; refused has the lines of the others.
func forwards(c *config.Config, primary func(fib.PortID) uint32) (list []nat.PortForward, refused []int) {
	for i := range c.PortForwards {
		f, _, err := c.PortForwards[i].Read()
		if err != nil {
			continue // check refused it
		}
		add := func(external uint32, out uint8) {
			for _, x := range forwardsOf(&f, external, out, c.PortForwards[i].Line) {
				if clashes(list, &x) {
					refused = append(refused, x.Line)
				} else {
					list = append(list, x)
				}
			}
		}
		if !f.Auto {
			add(fib.U32(f.External), nat.AnyOut)
			continue
		}
		for port := range c.Interfaces {
			if addr := primary(fib.PortID(port)); c.Interfaces[port].Role != config.RoleInside && addr != noAddress {
				add(addr, fib.PortID(port))
			}
		}
	}
	return list, refused
}

// noAddress is the address of an interface that has none.
const noAddress uint32 = 0

// forwardsOf is one entry at one external address.
func forwardsOf(f *config.Forwarding, external uint32, out uint8, line int) (list []nat.PortForward) {
	x := nat.PortForward{
		External: external, Inside: fib.U32(f.Inside), First: f.Ports.First, Last: f.Ports.Last, To: f.To, Out: out, Line: line,
	}
	if f.OneToOne {
		x.First, x.Last, x.To = 0, 65535, 0
		return append(list, x)
	}
	if f.TCP {
		x.Proto = packet.ProtoTCP
		list = append(list, x)
	}
	if f.UDP {
		x.Proto = packet.ProtoUDP
		list = append(list, x)
	}
	return list
}

// clashes reports whether an external endpoint of x is in the list already.
func clashes(list []nat.PortForward, x *nat.PortForward) bool {
	for i := range list {
		f := &list[i]
		if f.External == x.External && (f.Proto == x.Proto || f.OneToOne() || x.OneToOne()) && f.First <= x.Last && x.First <= f.Last {
			return true
		}
	}
	return false
}

// forwardTable is the table of forwards as the interfaces stand now: the same as
// before, if it says the same.
func (p *publisher) forwardTable() *nat.Static {
	list, refused := forwards(p.config, p.primary)
	if len(refused) != p.refused {
		p.refused = len(refused)
		if len(refused) > 0 {
			p.log.Warn("port-forwards: entries for auto stand back behind others that name the interface's address", "lines", refused)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if next := nat.NewStatic(list); p.forwardsOf != p.config || !next.Equal(p.static) {
		return next
	}
	return p.static
}

// holdForwards makes the ports of the tables the forwards' own: they are steered to
// the workers, and no mapping gets one. On an address of the host's, identifiers of
// echo stay the host's.
func (p *publisher) holdForwards(tables ...*nat.Static) {
	for addr, x := range p.externals {
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP} {
			var ports [1 << 16 / 64]uint64
			for _, t := range tables {
				if proto != packet.ProtoICMP || !p.routes.Local(addr) {
					t.Ports(addr, proto, &ports)
				}
			}
			x.SetStatic(proto, &ports)
		}
	}
}

// settleForwards ends what was forwarded and is no longer, when every worker uses
// the new table.
func (p *publisher) settleForwards(next *nat.Static, first bool) {
	changed := next != p.static
	p.static, p.forwardsOf = next, p.config
	if !changed && !first {
		return
	}
	p.holdForwards(next)
	ended := p.table.EndWhere(func(f *conntrack.Snapshot) bool {
		return f.Kind == conntrack.PortForward && !next.Translates(f.Original, f.Reply)
	}, verdict.ForwardRemoved, p.now())
	if ended > 0 {
		p.log.Info("port-forwards changed, flows ended", "flows", ended, "reason", verdict.ForwardRemoved)
	}
}

// shadowed words the forwarded ports that sockets of the host have as well: their
// packets are the host's.
func (p *publisher) shadowed(addr uint32, proto uint8, host *[1 << 16 / 64]uint64) []control.Degradation {
	var ports [1 << 16 / 64]uint64
	p.static.Ports(addr, proto, &ports)
	n, first := 0, 0
	for i := range ports {
		if both := ports[i] & host[i]; both != 0 {
			if n == 0 {
				first = i*64 + bits.TrailingZeros64(both)
			}
			n += bits.OnesCount64(both)
		}
	}
	f, _, _ := p.static.Inward(addr, proto, uint16(first))
	if n == 0 || f == nil || f.OneToOne() && !p.routes.Local(addr) {
		return nil
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf("; so it is with %d more", n-1)
	}
	return []control.Degradation{{
		What: fmt.Sprintf("%s %d of %s is forwarded (port-forwards, line %d), and a socket of the host has it as well, which gets the packets%s",
			control.Protocol(proto), first, fib.Addr(addr), f.Line, more),
		Remedy: "stop the service of the host, have it listen on another address, or forward another port",
	}}
}

// otherProtocols is the gateway's word for masquerade.other-protocols.
func otherProtocols(o config.OtherProto) gateway.OtherProtocols {
	switch o {
	case config.OtherDrop:
		return gateway.OtherDrop
	case config.OtherPass:
		return gateway.OtherPass
	}
	return gateway.OtherAddressOnly
}
