package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// Outcome is what would become of a packet, and all that it follows from.
type Outcome struct {
	Reason verdict.Reason // why it is dropped; None: it leaves
	Echo   bool           // it is an echo request that the gateway itself answers
	Waits  bool           // it leaves once the neighbour answers ARP, or not at all

	Flow     *FlowFound   // the flow it belongs to, nil where it begins one
	Decision Decision     // what was decided where it begins one
	Mapping  nat.Forecast // of its source, where the decision is to masquerade

	Translated bool            // To is known: the packet was not dropped before
	To         conntrack.Tuple // as it leaves; port 0 where Mapping.Origin is PortSearched or PortShared
	Hop        fib.Hop         // by which way, where it leaves

	Direct bool // it is a backend's own answer to a client, and passes as it is

	// Answer and Back are what becomes of what comes back to it: why an answer
	// would be dropped, and by which way it would leave.
	Answer verdict.Reason
	Back   fib.Hop
}

// FlowFound is the flow that a packet belongs to.
type FlowFound struct {
	Direction       conntrack.Direction // of the packet
	Original, Reply conntrack.Tuple
	Kind            conntrack.Kind
	State           conntrack.State
}

// DryRun says what a worker would do with a packet that arrived on port in, and
// does not do it. It goes through the functions by which workers decide, in
// their order, and makes no flow, mapping or counter. Only what no snapshot shows
// is left out: how many frames wait for a neighbour, and races with traffic.
//
// It may be called from the goroutine that owns flows; see conntrack.Table.Look.
func (s *Snapshot) DryRun(flows *conntrack.Worker, in fib.PortID, p *packet.Packet, now conntrack.Tick) Outcome {
	var o Outcome
	s.foretell(&o, new(FlowFound), flows, in, p, now)
	return o
}

// foretell is DryRun into memory of the caller's: o and found must be zero.
func (s *Snapshot) foretell(o *Outcome, found *FlowFound, flows *conntrack.Worker, in fib.PortID, p *packet.Packet, now conntrack.Tick) {
	if p.TTL <= 1 && !s.Routes.Local(p.Dst) && !s.serves(p.Dst) {
		o.Reason = verdict.TTLExpired
		return
	}
	arriving := key(p)
	flow, dir := flows.Find(arriving, now)
	if flow == nil && s.foretellService(o, flows, in, p, now) {
		return
	}
	if flow != nil && flow.Service() != 0 && s.sameSide(in, flow, dir) && s.judge(flow, dir, p) == moveFlow {
		flow = nil
	}
	if flow != nil {
		found.fill(flow, dir)
		o.Flow = found
		if !s.sameSide(in, flow, dir) {
			o.Reason = verdict.SpoofedSource
			return
		}
		if o.Reason = s.ends(flow, dir, p); o.Reason != verdict.None {
			return
		}
		o.To, o.Translated = flow.Translated(dir), true
	} else if s.begins(o, flows, in, p, arriving, now); o.Echo || o.Reason != verdict.None {
		return
	}
	kind := o.Decision.Kind
	if flow != nil {
		kind = flow.Kind()
	}
	s.leaves(o, kind, dir, in, p)
	if o.Reason == verdict.None && kind != conntrack.ServiceDSR {
		_, o.Back, o.Answer = s.onwardOf(kind, dir.Opposite(), o.Hop.Port, o.To.Dst, arriving.Reverse())
	}
}

// fill describes a flow to whose direction dir a packet belongs.
func (f *FlowFound) fill(flow *conntrack.Flow, dir conntrack.Direction) {
	*f = FlowFound{
		Direction: dir, Original: flow.Tuple(conntrack.Original), Reply: flow.Tuple(conntrack.Reply),
		Kind: flow.Kind(), State: flow.State(),
	}
}

// begins decides on the flow that the packet would begin.
func (s *Snapshot) begins(o *Outcome, flows *conntrack.Worker, in fib.PortID, p *packet.Packet, arriving conntrack.Tuple, now conntrack.Tick) {
	d := &o.Decision
	d.now, d.asks = now, true
	s.decide(d, flows, in, p, arriving)
	if s.answersEcho(flows.Table(), p, d.Reason) {
		s.foretellEcho(o, in, p, arriving)
		return
	}
	if o.Reason = d.Reason; o.Reason != verdict.None {
		return
	}
	o.To = d.Target
	limited := d.Inside && atLimit(flows, p.Src)
	switch {
	case d.Mapped != nil:
		if source := flows.Table().SourceOf(d.Mapped); source != nil && flows.Table().Full(source) {
			o.Reason = verdict.SourceLimit
			return
		}
	case d.Maps && packet.Portless(p.Proto):
		if o.Mapping = s.forecastAddress(d, flows, p, now); limited && o.Mapping.External != nil {
			o.Mapping.Reason = verdict.SourceLimit
		}
	case d.Maps:
		o.Mapping = s.Ports.Forecast(flows, s.Behaviour, s.Pools[d.Hop.Port], d.External, &arriving, &d.Target, s.portsToForesee(d), now)
	}
	if d.Maps {
		if o.Reason = o.Mapping.Reason; o.Reason != verdict.None {
			return
		}
		o.To.Src, o.To.SrcPort = o.Mapping.External.Address(), o.Mapping.Port
	}
	if d.Backend != nil && !s.beginsBalanced(o, flows, p, now) {
		return
	}
	if limited {
		o.Reason = verdict.SourceLimit
		return
	}
	o.Translated = true
	if other, _ := flows.Find(o.To.Reverse(), now); other != nil && (other.Kind() != conntrack.Forward || o.To.Src == p.Src) {
		if o.Reason = verdict.ReplyTupleTaken; !d.Maps || packet.Portless(p.Proto) {
			return
		}
		o.Mapping = s.Ports.ForecastShare(flows, s.Behaviour, &o.Mapping, &arriving, &d.Target, s.portsToForesee(d), now)
		if o.To.SrcPort, o.Reason = o.Mapping.Port, o.Mapping.Reason; o.Reason != verdict.None {
			return
		}
	}
	if c := flows.Table().Count(); c.Flows >= c.FlowCapacity {
		o.Reason = verdict.FlowTableFull
	}
}

// atLimit reports whether an inside address has as many flows as it may.
func atLimit(flows *conntrack.Worker, addr uint32) bool {
	source := flows.FindSource(addr)
	if source == nil {
		return false
	}
	defer flows.ReleaseSource(source)
	return flows.Table().Full(source)
}

// portsToForesee is how many ports a forecast may look at for sharing. Where a worker
// asks, for a trace, other packets wait behind the one at hand.
func (s *Snapshot) portsToForesee(d *Decision) int {
	if d.hurried {
		return searchSlice
	}
	return 1 << 16
}

// leaves decides on the way out, as forward does.
func (s *Snapshot) leaves(o *Outcome, kind conntrack.Kind, dir conntrack.Direction, in fib.PortID, p *packet.Packet) {
	if p.TTL <= 1 {
		o.Reason = verdict.TTLExpired
		return
	}
	_, o.Hop, o.Reason = s.onwardOf(kind, dir, in, p.Src, o.To)
	switch {
	case o.Reason != verdict.None:
	case p.Length() > int(o.Hop.MTU)-s.longer(kind, dir, p, o.Flow == nil) && p.Is(packet.FlagDontFragment):
		o.Reason = verdict.FragmentationNeeded
	case o.Hop.State == fib.Failed:
		o.Reason = verdict.NeighbourUnresolved
	case o.Hop.State == fib.Unresolved:
		o.Waits = true
	}
}
