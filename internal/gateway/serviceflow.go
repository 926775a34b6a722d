package gateway

import (
	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// balance begins a flow to a backend that was decided on. Of two workers that get
// the client's first packets at once, one makes the flow, and the other uses that
// with the backend that it has.
func (w *Worker) balance(p *packet.Packet, key conntrack.Tuple, d *Decision) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	nf := conntrack.NewFlow{
		Original: key, Reply: d.Target.Reverse(), Kind: d.Kind, OutPort: d.Hop.Port,
		Service: uint16(d.Service.ID), Backend: uint32(d.Backend.ID),
	}
	if d.Kind == conntrack.ServiceDSR {
		flow, dir, r := w.create(p, &nf)
		if r != verdict.ReplyTupleTaken || w.snapshot.Balance.Sources[d.Hop.Port] == nil {
			return flow, dir, r
		}
		// The client has the same port open to this backend by another service,
		// or without one. The backend could not tell the two apart; with a source
		// of ours it can.
		d.Return = ReturnTaken
		nf.Kind = conntrack.ServiceSNAT
	}
	m, r := w.alloc.MapService(w.flows, w.snapshot.Balance.Sources[d.Hop.Port], nf.Service, p.Proto, p.Src, p.SrcPort, w.now)
	if r != verdict.None {
		return nil, 0, r
	}
	nf.Mapping = m
	nf.Reply.Dst, nf.Reply.DstPort = m.External()
	flow, dir, r := w.create(p, &nf)
	if r == verdict.None {
		w.counters.Services.Returns[d.Return]++
	}
	return flow, dir, r
}

// judgement is what becomes of a service's flow by what its backend has become.
type judgement uint8

const (
	keepFlow  judgement = iota
	moveFlow            // it ends, and its packet begins another
	dropFlow            // the packet is dropped, the flow waits for a SYN
	resetFlow           // it ends, and the client is told
	endFlow             // its service is gone
)

// judge decides whether a packet of a service's flow may still go to its backend.
// A backend that drains keeps what it has until that ends; only a new connection
// between the same end points goes elsewhere. A dead one keeps nothing.
func (s *Snapshot) judge(flow *conntrack.Flow, dir conntrack.Direction, p *packet.Packet) judgement {
	if s.Balance.Table == nil {
		return endFlow
	}
	service := s.Balance.Service(dsr.ServiceID(flow.Service()))
	if service == nil {
		return endFlow
	}
	backend := s.Balance.Backend(dsr.BackendID(flow.Backend()))
	if dir == conntrack.Reply {
		return keepFlow // what it still says is good
	}
	opens := p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.TCPSyn|packet.TCPAck) == packet.TCPSyn
	switch {
	case backend != nil && backend.State == dsr.Active:
		return keepFlow
	case backend != nil && backend.State == dsr.Draining:
		if state := flow.State(); opens && (state == conntrack.TCPTimeWait || state == conntrack.TCPClose) {
			return moveFlow
		}
		return keepFlow
	case opens || p.Proto != packet.ProtoTCP:
		return moveFlow
	case resets(service):
		return resetFlow
	}
	return dropFlow
}

// rejudge carries a judgement out. It returns the reason to drop the packet, None
// if it may go on; with BackendGone and w.moved set, it begins another flow.
func (w *Worker) rejudge(flow *conntrack.Flow, dir conntrack.Direction, p *packet.Packet) verdict.Reason {
	w.moved = false
	switch w.snapshot.judge(flow, dir, p) {
	case moveFlow:
		w.flows.Retire(flow, verdict.BackendGone)
		w.moved = true
	case resetFlow:
		w.flows.Retire(flow, verdict.BackendGone)
		w.manner = reset
	case dropFlow:
	case endFlow:
		w.flows.Retire(flow, verdict.ServiceRemoved)
		return verdict.ServiceRemoved
	default:
		return verdict.None
	}
	return verdict.BackendGone
}

// stick keeps a client at its backend while its flows go on, once a tick.
func (w *Worker) stick(flow *conntrack.Flow, p *packet.Packet) {
	if service := w.snapshot.Balance.Service(dsr.ServiceID(flow.Service())); service != nil {
		service.Seen(p.Src, dsr.BackendID(flow.Backend()), w.now)
	}
}

// rejects and resets are what a service says about clients that it has no
// backend for.
func rejects(s *dsr.Service) bool { return s.Reject }
func resets(s *dsr.Service) bool  { return s.Reset }

// manner is how a packet is dropped, where its reason alone does not say.
type manner uint8

const (
	byReason manner = iota
	quiet           // without an error to the sender
	reset           // with a reset
)

// mannerOf is how a packet to a service is dropped that begins no flow.
func mannerOf(d *Decision, proto uint8) manner {
	switch {
	case d.Reason == verdict.NoService && proto != packet.ProtoTCP && proto != packet.ProtoUDP:
		return quiet // there is no port to be unreachable
	case d.Service == nil:
	case d.Reason == verdict.NoBackend && !rejects(d.Service):
		return quiet
	case d.Reason == verdict.TCPWithoutFlow && resets(d.Service):
		// The service's end of the connection is gone: RFC 9293 3.10.7.1.
		return reset
	}
	return byReason
}

// takes is what becomes of a packet to or from a service address that belongs to
// no flow and begins none.
type takes uint8

const (
	takesNothing takes = iota
	takesEcho          // a ping, which the gateway answers
	takesExpired       // its time to live ends here
	takesDirect        // a backend's answer to the client itself
)

// serviceTakes says what becomes of a packet that belongs to no flow.
func (s *Snapshot) serviceTakes(flows *conntrack.Worker, in fib.PortID, p *packet.Packet, now conntrack.Tick) takes {
	switch {
	case s.Balance.Table == nil:
	case s.serves(p.Dst):
		switch {
		case p.Proto == packet.ProtoICMP && p.ICMPType == packet.ICMPEchoRequest && !s.Routes.Local(p.Dst):
			return takesEcho
		case p.TTL <= 1 && s.Balance.Find(p.Dst, p.DstPort, p.Proto) != nil:
			return takesExpired
		}
	case s.serves(p.Src):
		if _, ok := s.direct(flows, in, key(p), now); ok {
			return takesDirect
		}
	}
	return takesNothing
}

// atService does what serviceTakes says, and reports whether it took the frame.
func (w *Worker) atService(d xdp.Desc, p *packet.Packet) bool {
	frame, r := w.frame(d), verdict.None
	switch w.snapshot.serviceTakes(w.flows, w.in, p, w.now) {
	case takesEcho:
		r = w.echo(d, p)
	case takesExpired:
		r = verdict.TTLExpired
	case takesDirect:
		flow, _ := w.snapshot.direct(w.flows, w.in, key(p), w.now)
		r = w.passDirect(d, frame, p, flow)
	default:
		return false
	}
	if r != verdict.None {
		w.reject(d, frame, p, w.in, r)
	}
	return true
}
