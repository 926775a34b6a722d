package gateway

import (
	"encoding/binary"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// informs reports whether a packet of a DSR flow tells the backend's node the
// service address: the first one to a newly chosen backend, every SYN, and every
// packet of a protocol that has none. The segments after it are bare, so that
// bulk data keeps the path's MTU. Of a datagram in fragments the first one has the
// ports.
func informs(p *packet.Packet, first bool) bool {
	return !p.Is(packet.FlagLaterFragment) && (first || p.Proto != packet.ProtoTCP || p.TCPFlags&packet.TCPSyn != 0)
}

// overhead is how many bytes longer a packet gets on its way to the backend of a
// DSR flow.
func (s *Snapshot) overhead(p *packet.Packet, first bool) int {
	dispatch := s.Balance.Dispatch
	// A header that is full leaves bare; the flow's first packet was not, or it
	// would not be a DSR flow.
	if !informs(p, first) || dispatch == dsr.Option && int(p.L4-p.L3) > packet.IPv4MaxLength-dsr.OptionLen {
		return dispatch.Bare()
	}
	return dispatch.Overhead()
}

// extra is overhead for a packet of any flow.
func (w *Worker) extra(flow *conntrack.Flow, dir conntrack.Direction, p *packet.Packet) int {
	return w.snapshot.longer(flow.Kind(), dir, p, flow.Packets(conntrack.Original) == 0)
}

// forwardService is the rest of forward for a service's flow.
func (w *Worker) forwardService(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow, dir conntrack.Direction, hop *fib.Hop) verdict.Reason {
	extra := w.extra(flow, dir, p)
	var narrow fib.Hop
	if s := w.snapshot; extra > 0 && s.Balance.Dispatch != dsr.Option {
		if mtu := s.Balance.Paths.limit(flow.Translated(dir).Dst, hop.MTU, w.now); mtu < hop.MTU {
			narrow = *hop
			narrow.MTU = mtu
			hop = &narrow
		}
	}
	if p.Length()+extra > int(hop.MTU) && p.Is(packet.FlagDontFragment) {
		return w.tooBig(hop.MTU - uint16(extra))
	}
	src := p.Src
	if r := w.ready(hop, src); r != verdict.None {
		return r
	}
	if dir == conntrack.Original && w.snapshot.Balance.Sticky() && !flow.SeenAt(w.now) {
		w.stick(flow, p)
	}
	w.account(p, flow, dir)
	w.countService(flow, dir, p)
	if p.TCPFlags&packet.TCPSyn != 0 {
		w.clamp(frame, p, hop)
	}
	if extra > 0 {
		w.sendDispatched(d, frame, p, flow, hop, extra)
		return verdict.None
	}
	nat.Forward(frame, p, flow.Answer(dir))
	d.Len = uint32(p.End)
	if src != p.Src && divisible(p) {
		w.identify(frame, p)
	}
	w.send(d, frame, p, src, hop)
	return verdict.None
}

// sendDispatched sends a packet of a DSR flow that tells the backend's node the
// service's address, in extra bytes.
func (w *Worker) sendDispatched(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow, hop *fib.Hop, extra int) {
	src := p.Src
	if w.snapshot.Balance.Dispatch != dsr.Option && p.Length()+extra > int(hop.MTU) {
		w.sendDivided(d, frame, p, flow, hop, extra)
		return
	}
	d, frame = w.dispatch(d, frame, p, flow, hop, extra)
	w.send(d, frame, p, src, hop)
}

// dispatch translates a packet of a DSR flow and puts what its backend's node has
// to know, extra bytes, in front of its payload or of the whole packet. The frame
// grows into the room in front of it, and p follows.
func (w *Worker) dispatch(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow, hop *fib.Hop, extra int) (xdp.Desc, []byte) {
	s := w.snapshot
	d.Len = uint32(p.End)
	grow := func() []byte {
		d.Addr -= uint64(extra)
		d.Len += uint32(extra)
		return w.frame(d)
	}
	vip := flow.Tuple(conntrack.Original)
	if s.Balance.Dispatch == dsr.Option {
		nat.Forward(frame, p, flow.Answer(conntrack.Original))
		frame = grow()
		dsr.Insert(frame, vip.Dst, vip.DstPort, s.Balance.Order)
		p.L4 += dsr.OptionLen
		p.End += dsr.OptionLen
		p.Flags |= packet.FlagOptions
		return d, frame
	}
	src, to := s.Routes.Interface(hop.Port).Primary, flow.Translated(conntrack.Original)
	if s.Balance.Dispatch == dsr.IPIP {
		// As Cilium does, the packet inside keeps the time to live that it came with.
		frame = grow()
		dsr.EncapsulateIPIP(frame, src, to.Dst)
	} else {
		nat.Rewrite(frame, p, to)
		frame = grow()
		told := vip
		if extra == dsr.GeneveLen {
			told.Dst = 0
		}
		dsr.EncapsulateGeneve(frame, src, to.Dst, dsr.GeneveSourcePort(&to), told.Dst, told.DstPort)
	}
	packet.Parse(frame, p) // of our own making
	if s.Balance.Dispatch == dsr.IPIP && divisible(p) {
		// Clients do not know of each other's identifications.
		packet.SetID(frame, p, w.idents.next(p.Src, p.Dst, p.Proto))
	}
	return d, frame
}

// direct finds the DSR flow that a packet with a service's source address answers
// on its way from the backend's node to the client, where the gateway is only a
// router. ok says that it may pass: from an inside port, or on a port that has both
// sides if it answers a flow that is known; from outside it is forged.
func (s *Snapshot) direct(flows *conntrack.Worker, in fib.PortID, t conntrack.Tuple, now conntrack.Tick) (flow *conntrack.Flow, ok bool) {
	service := s.Balance.Find(t.Src, t.SrcPort, t.Proto)
	if service == nil || service.Mode != dsr.DSR || s.Roles[in] == RoleOutside {
		return nil, false
	}
	flow, dir := flows.Find(t.Reverse(), now)
	if flow != nil && (flow.Kind() != conntrack.ServiceDSR || dir != conntrack.Original) {
		return nil, false
	}
	return flow, flow != nil || s.Roles[in] == RoleInside
}

// passDirect forwards such an answer as it is, but for its time to live.
func (w *Worker) passDirect(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow) verdict.Reason {
	s := w.snapshot
	if p.TTL <= 1 {
		return verdict.TTLExpired
	}
	_, hop, r := s.serviceReturn(w.in, key(p))
	if r != verdict.None {
		return r
	}
	if p.Length() > int(hop.MTU) && p.Is(packet.FlagDontFragment) {
		return w.tooBig(hop.MTU)
	}
	if r := w.ready(&hop, p.Src); r != verdict.None {
		return r
	}
	if flow != nil {
		w.account(p, flow, conntrack.Reply)
		w.countService(flow, conntrack.Reply, p)
	}
	nat.DecrementTTL(frame, p)
	d.Len = uint32(p.End)
	w.send(d, frame, p, p.Src, &hop)
	return verdict.None
}

// stripForeign takes the options out of frame i of the burst that name a service
// address and that this gateway did not put there: they say where answers are to
// come from, and nothing in them proves who wrote them. p follows.
func (w *Worker) stripForeign(i int, p *packet.Packet) (xdp.Desc, []byte) {
	d := w.frames[i]
	s := w.snapshot
	if s.fromInside(w.in, p.Src) && !s.serves(p.Dst) {
		return d, w.frame(d)
	}
	n := dsr.Strip(w.frame(d))
	if n > 0 {
		d.Addr += uint64(n)
		d.Len -= uint32(n)
		w.frames[i] = d
		w.counters.Services.OptionsStripped++
		packet.Parse(w.frame(d), p) // what is left is as sound as it was
	}
	return d, w.frame(d)
}

const fragmentationNeeded = 4 // code of ICMPUnreachable

// lowerPathMTU makes room in an error about a DSR packet that did not fit its way
// to the backend: the client knows nothing of what was added to it.
func lowerPathMTU(frame []byte, p *packet.Packet, by int) {
	if by == 0 || p.ICMPType != packet.ICMPUnreachable || p.ICMPCode != fragmentationNeeded {
		return
	}
	m := frame[p.L4:]
	mtu := binary.BigEndian.Uint16(m[6:])
	if int(mtu) <= by {
		return
	}
	binary.BigEndian.PutUint16(m[6:], mtu-uint16(by))
	binary.BigEndian.PutUint16(m[2:], packet.Update16(binary.BigEndian.Uint16(m[2:]), mtu, mtu-uint16(by)))
}
