package daemon

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/xdp"
)

// balancer is what the publisher keeps for services: their table, made anew with
// every change of the configuration, of a probe's result or of an operator's mind,
// and what the steering program was told. It belongs to the control goroutine.
type balancer struct {
	ids    *dsr.Ids
	table  *dsr.Table
	sticky *dsr.Affinity // made when the first service wants it
	states map[backendKey]backendState
	file   drainFile    // of those that are drained
	kept   []backendKey // what is in it
	choice gateway.Choice
	silent map[dsr.BackendID]unanswered
	since  map[dsr.BackendID]gateway.BackendCounters // of ids that had another backend before: as they were then
	told   map[uint32]xdp.AddressKind                // service addresses that are no external ones
	paths  gateway.PathMTUs
}

// backendKey is a backend as the operator names it. It stays the same over reloads.
type backendKey struct {
	service string
	at      netip.AddrPort
}

// backendState is what is known of a backend beyond the configuration.
type backendState struct {
	drained bool // by an operator, until enabled
	dead    bool // by the probes
}

func (s backendState) state() dsr.State {
	switch {
	case s.dead:
		return dsr.Dead
	case s.drained:
		return dsr.Draining
	}
	return dsr.Active
}

// affinityClients is how many clients session-affinity is kept for, over all
// services: 1 MiB.
const affinityClients = 1 << 16

func newBalancer() *balancer {
	b := &balancer{ids: dsr.NewIds(), states: map[backendKey]backendState{}, told: map[uint32]xdp.AddressKind{}, silent: map[dsr.BackendID]unanswered{}, since: map[dsr.BackendID]gateway.BackendCounters{}}
	var key [16]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	b.choice = gateway.Choice{binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])}
	return b
}

// configure makes the table of a configuration; a backend keeps its state.
func (b *balancer) configure(c *config.Config) error {
	for i := range c.Services {
		if c.Services[i].SessionAffinity > 0 && b.sticky == nil {
			b.sticky = dsr.NewAffinity(affinityClients, b.choice[0])
		}
	}
	table, err := dsr.New(serviceConfigs(c, func(k backendKey) dsr.State { return b.states[k].state() }), b.ids, b.table, b.sticky)
	if err != nil {
		return err
	}
	b.table = table
	return nil
}

// forget drops the states of backends that a configuration has no more, and the
// probes' word about those that it does not have probed.
func (b *balancer) forget(c *config.Config) {
	probed := map[backendKey]bool{}
	for i := range c.Services {
		s := &c.Services[i]
		for _, backend := range s.Backends {
			probed[keyOf(s, backend)] = s.HealthCheck.Type != "none"
		}
	}
	for k, state := range b.states {
		if by, there := probed[k]; !there {
			delete(b.states, k)
		} else if !by {
			state.dead = false
			b.states[k] = state
		}
	}
}

func keyOf(s *config.Service, b config.Backend) backendKey {
	return backendKey{s.Name, netip.AddrPortFrom(b.Address, b.Port)}
}

// locate finds the service and backend of a flow that an earlier process left, by
// its tuples: see conntrack.Services.
func (b *balancer) locate(original, reply conntrack.Tuple) (service uint16, backend uint32, ok bool) {
	s := b.table.Find(original.Dst, original.DstPort, original.Proto)
	if s == nil {
		return 0, 0, false
	}
	x := s.BackendAt(reply.Src, reply.SrcPort)
	if x == nil {
		return 0, 0, false
	}
	return uint16(s.ID), uint32(x.ID), true
}

// addresses lists the addresses of the services, sorted.
func addresses(c *config.Config) (list []uint32) {
	for i := range c.Services {
		list = append(list, fib.U32(c.Services[i].Address))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// protocolNumber is the IP protocol number of a service's protocol.
func protocolNumber(p config.Protocol) uint8 {
	if p == "udp" {
		return packet.ProtoUDP
	}
	return packet.ProtoTCP
}

// steerServices tells the steering program of the services, whose addresses must
// be known there first.
func (p *publisher) steerServices() error {
	b := p.balancer
	wanted := map[uint32]bool{}
	for _, addr := range addresses(p.config) {
		wanted[addr] = true
		if p.externals[addr] != nil {
			delete(b.told, addr) // told with what NAT holds there
			continue
		}
		if kind := p.kind(addr); b.told[addr] != kind {
			if err := p.steering.SetAddress(addr, kind, -1); err != nil {
				return err
			}
			b.told[addr] = kind
		}
	}
	var list []xdp.ServicePort
	for i := range p.config.Services {
		s := &p.config.Services[i]
		for _, proto := range s.Protocols {
			list = append(list, xdp.ServicePort{Address: fib.U32(s.Address), Port: s.Port, Protocol: protocolNumber(proto)})
		}
	}
	if err := p.steering.SetServices(append(list, p.dispatches()...)); err != nil {
		return err
	}
	for addr := range b.told {
		if wanted[addr] {
			continue
		}
		delete(b.told, addr)
		if err := p.steering.DeleteAddress(addr); err != nil {
			return err
		}
	}
	return nil
}

// dispatches are the addresses that requests leave for backends with in outer headers.
func (p *publisher) dispatches() (list []xdp.ServicePort) {
	out := xdp.ServicePort{Dispatch: true}
	switch dispatch(p.config.DSR.Dispatch) {
	case dsr.IPIP:
		out.Protocol = packet.ProtoIPIP
	case dsr.Geneve:
		out.Protocol, out.Port = packet.ProtoUDP, dsr.GenevePort
	default:
		return nil
	}
	for addr, x := range p.externals {
		if out.Address = addr; x.snat {
			list = append(list, out)
		}
	}
	return list
}

// reserveServicePorts keeps the ports of services out of the search on the
// addresses that NAT uses as well: a mapping there would never get its answers.
func (p *publisher) reserveServicePorts() {
	for addr, x := range p.externals {
		var tcp, udp [1 << 16 / 64]uint64
		for i := range p.config.Services {
			s := &p.config.Services[i]
			if fib.U32(s.Address) != addr {
				continue
			}
			for _, proto := range s.Protocols {
				words := &tcp
				if proto == "udp" {
					words = &udp
				}
				words[s.Port/64] |= 1 << (s.Port % 64)
			}
		}
		x.Reserve(conntrack.ByService, packet.ProtoTCP, &tcp)
		x.Reserve(conntrack.ByService, packet.ProtoUDP, &udp)
	}
}

// balance is the snapshot's part for services.
func (p *publisher) balance() gateway.Balance {
	c := p.config
	if len(c.Services) == 0 {
		return gateway.Balance{}
	}
	out := gateway.Balance{Table: p.balancer.table, Backends: p.balancer.ids.Backends() + 1, Choice: p.balancer.choice}
	out.Dispatch, out.Order, out.Paths = dispatch(c.DSR.Dispatch), order(c.DSR.ByteOrder), &p.balancer.paths
	for i := range c.Interfaces {
		if iface := p.routes.Interface(fib.PortID(i)); iface != nil && p.externals[iface.Primary] != nil {
			out.Sources[i] = p.externals[iface.Primary].External
		}
	}
	for i := range c.Services {
		s := &c.Services[i]
		addr := fib.U32(s.Address)
		out.Strips = out.Strips || s.Mode != "snat"
		if s.Announce == "arp" && !p.routes.Local(addr) {
			out.Announced = append(out.Announced, addr)
		}
	}
	slices.SortFunc(out.Announced, cmp.Compare[uint32])
	out.Announced = slices.Compact(out.Announced)
	return out
}

// wantSources adds the addresses that packets to backends leave with: the primary
// one of every interface, whoever else uses it.
func (p *publisher) wantSources(wanted map[uint32]*external) {
	if len(p.config.Services) == 0 {
		return
	}
	for i := range p.config.Interfaces {
		port := fib.PortID(i)
		iface := p.routes.Interface(port)
		if iface == nil || iface.Primary == noAddress {
			continue
		}
		if wanted[iface.Primary] == nil {
			wanted[iface.Primary] = &external{}
		}
		w := wanted[iface.Primary]
		w.of, w.pool, w.snat = port, false, true
	}
}
