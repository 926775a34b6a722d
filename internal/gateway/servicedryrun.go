package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// foretellService is what atService would do, and whether it would.
func (s *Snapshot) foretellService(o *Outcome, flows *conntrack.Worker, in fib.PortID, p *packet.Packet, now conntrack.Tick) bool {
	arriving := key(p)
	switch s.serviceTakes(flows, in, p, now) {
	case takesEcho:
		o.Echo, o.To = true, arriving.Reverse()
		o.Hop, o.Reason = s.echoHop(flows.Table(), in, p)
		o.Waits = o.Reason == verdict.None && o.Hop.State == fib.Unresolved
	case takesExpired:
		o.Reason = verdict.TTLExpired
	case takesDirect:
		o.Direct, o.To, o.Translated = true, arriving, true
		if p.TTL <= 1 {
			o.Reason = verdict.TTLExpired
			return true
		}
		_, o.Hop, o.Reason = s.serviceReturn(in, arriving)
		o.Waits = o.Reason == verdict.None && o.Hop.State == fib.Unresolved
	default:
		return false
	}
	return true
}

// ends is why a packet of a flow is dropped for what became of its backend.
func (s *Snapshot) ends(flow *conntrack.Flow, dir conntrack.Direction, p *packet.Packet) verdict.Reason {
	if flow.Service() == 0 {
		return verdict.None
	}
	switch s.judge(flow, dir, p) {
	case dropFlow, resetFlow:
		return verdict.BackendGone
	case endFlow:
		return verdict.ServiceRemoved
	}
	return verdict.None
}

// beginsBalanced foretells balance.
func (s *Snapshot) beginsBalanced(o *Outcome, flows *conntrack.Worker, p *packet.Packet, now conntrack.Tick) bool {
	d := &o.Decision
	x := s.Balance.Sources[d.Hop.Port]
	if d.Kind == conntrack.ServiceDSR {
		other, _ := flows.Find(o.To.Reverse(), now)
		if other == nil || x == nil {
			return true
		}
		d.Kind, d.Return = conntrack.ServiceSNAT, ReturnTaken
	}
	o.Mapping = s.Ports.ForecastService(flows, s.Behaviour, x, uint16(d.Service.ID), p.Proto, p.Src, p.SrcPort)
	if o.Reason = o.Mapping.Reason; o.Reason != verdict.None {
		return false
	}
	o.To.Src, o.To.SrcPort = x.Address(), o.Mapping.Port
	return true
}

// longer is how many bytes a packet of a flow of a kind grows by.
func (s *Snapshot) longer(kind conntrack.Kind, dir conntrack.Direction, p *packet.Packet, first bool) int {
	if kind != conntrack.ServiceDSR || dir != conntrack.Original {
		return 0
	}
	return s.overhead(p, first)
}
