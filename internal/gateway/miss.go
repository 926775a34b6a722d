package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// miss decides about a packet that belongs to no flow: the flow it begins, or
// the reason to drop it. Only here are policy and addresses consulted.
func (w *Worker) miss(p *packet.Packet, key conntrack.Tuple) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	// An earlier packet of this burst may have begun the flow already.
	if flow, dir := w.flows.Find(key, w.now); flow != nil {
		return flow, dir, verdict.None
	}
	s := w.snapshot
	if r := martian(p); r != verdict.None {
		return nil, 0, r
	}
	if s.Routes.Local(p.Src) || w.table.External(p.Src) != nil {
		return nil, 0, verdict.OwnSource // 6274-4
	}
	inside := s.fromInside(w.in, p.Src)
	if x := w.table.External(p.Dst); x != nil {
		return w.toExternal(p, key, x, inside)
	}
	_, hop := s.Routes.Lookup(p.Dst, p.Src, w.in, pathHash(p.Src))
	if r := hopReason(&hop); r != verdict.None {
		return nil, 0, r
	}
	if p.Length() > int(hop.MTU) {
		return nil, 0, verdict.FragmentationNeeded
	}
	if inside {
		if s.leavesOutside(hop.Port, p.Dst) && s.Policy.Decide(p.Src, p.Dst).Masquerade {
			return w.masquerade(p, key, key, hop.Port, nil)
		}
		return w.create(p, &conntrack.NewFlow{Original: key, Reply: key.Reverse(), Kind: conntrack.Forward, OutPort: hop.Port})
	}
	if r := w.fromOutside(p); r != verdict.None {
		return nil, 0, r
	}
	return w.create(p, &conntrack.NewFlow{Original: key, Reply: key.Reverse(), Kind: conntrack.Forward, OutPort: hop.Port})
}

// martian refuses addresses that no packet on a wire may carry (RFC 1812 5.3.7,
// RFC 6890): sources 0/8, 127/8, 224/4, 240/4, destinations 0/8, 127/8, 240/4.
// Multicast and broadcast destinations are the kernel's.
func martian(p *packet.Packet) verdict.Reason {
	src, dst := p.Src>>24, p.Dst>>24
	switch {
	case p.Src == p.Dst:
		return verdict.LandAttack
	case src == 0 || src == 127 || src >= 224:
		return verdict.MartianSource
	case dst == 0 || dst == 127 || dst >= 224:
		return verdict.MartianDestination
	}
	return verdict.None
}

// fromOutside decides whether a new flow from outside may pass at all.
func (w *Worker) fromOutside(p *packet.Packet) verdict.Reason {
	s := w.snapshot
	// RFC 2827, RFC 3704: a source that we would reach on the inside does not
	// come from outside.
	if _, back := s.Routes.Lookup(p.Src, p.Dst, w.in, 0); back.Type == fib.Forward && s.Roles[back.Port] == RoleInside {
		return verdict.SpoofedSource
	}
	// The inside is open to those only that see its true addresses.
	if s.Policy.InSources(p.Dst) && s.Policy.Decide(p.Dst, p.Src).Masquerade {
		return verdict.OutsideToInside
	}
	return verdict.None
}

// toExternal decides about a packet for an address that flows are masqueraded
// to, and that belongs to none of them.
func (w *Worker) toExternal(p *packet.Packet, key conntrack.Tuple, x *conntrack.External, inside bool) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	m := w.flows.MappingAt(x, p.Proto, p.DstPort)
	switch {
	case m == nil && w.snapshot.Routes.Local(p.Dst):
		return nil, 0, verdict.HostOwned
	case m == nil:
		return nil, 0, verdict.NoMapping
	case !inside:
		return nil, 0, verdict.Filtered // RFC 4787 REQ-8, address and port dependent
	case !w.snapshot.Hairpin:
		return nil, 0, verdict.HairpinDisabled
	}
	// RFC 4787 REQ-9: between inside hosts, with the external source.
	addr, port := m.Inside()
	target := key
	target.Dst, target.DstPort = addr, port
	_, hop := w.snapshot.Routes.Lookup(addr, p.Src, w.in, pathHash(p.Src))
	if r := hopReason(&hop); r != verdict.None {
		return nil, 0, r
	}
	return w.masquerade(p, key, target, hop.Port, x)
}

// masquerade begins a flow whose source is translated. target is the key with
// the destination that the packet will leave with; x is the external address,
// or nil for the one that belongs to the way out.
func (w *Worker) masquerade(p *packet.Packet, key, target conntrack.Tuple, out fib.PortID, x *conntrack.External) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	if r := translatable(p); r != verdict.None {
		return nil, 0, r
	}
	m, r := w.mapping(p, out, x)
	if r != verdict.None {
		return nil, 0, r
	}
	reply := target.Reverse()
	reply.Dst, reply.DstPort = m.External()
	flow, dir, r := w.create(p, &conntrack.NewFlow{Original: key, Reply: reply, Kind: conntrack.Masquerade, Mapping: m, OutPort: out})
	return flow, dir, r
}

// mapping returns the mapping of the packet's source at x, or where x is nil at
// the address of the pool that the source is paired with (RFC 4787 REQ-2).
func (w *Worker) mapping(p *packet.Packet, out fib.PortID, x *conntrack.External) (*conntrack.Mapping, verdict.Reason) {
	if x == nil {
		return w.alloc.MapFrom(w.flows, w.snapshot.Pools[out], p.Proto, p.Src, p.SrcPort, w.now)
	}
	return w.alloc.Map(w.flows, x, p.Proto, p.Src, p.SrcPort, w.now)
}

// translatable refuses what cannot begin a masqueraded flow.
func translatable(p *packet.Packet) verdict.Reason {
	switch p.Proto {
	case packet.ProtoTCP:
		// RFC 5382: mid-stream segments begin nothing (tcp-pickup: off).
		if p.TCPFlags&(packet.TCPSyn|packet.TCPAck|packet.TCPRst) != packet.TCPSyn {
			return verdict.TCPWithoutFlow
		}
	case packet.ProtoUDP:
	case packet.ProtoICMP:
		if !p.Is(packet.FlagEcho) {
			return verdict.ICMPUnsupported
		}
		if p.ICMPType == packet.ICMPEchoReply {
			return verdict.ReplyWithoutFlow
		}
	default:
		return verdict.ProtocolUnsupported
	}
	return verdict.None
}

// create inserts a flow. Where another worker was faster with the same packet's
// twin, both use its flow, and the mapping taken for ours is given back.
func (w *Worker) create(p *packet.Packet, nf *conntrack.NewFlow) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	nf.InPort, nf.TCPFlags = w.in, p.TCPFlags
	flow, dir, existed, r := w.flows.Create(nf, w.now)
	if nf.Mapping != nil && (existed || r != verdict.None) {
		w.flows.Release(nf.Mapping)
	}
	return flow, dir, r
}
