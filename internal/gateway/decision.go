package gateway

import (
	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// Decision is what becomes of a packet that belongs to no flow, and what led
// there. It follows from the snapshot and from the mappings that exist; making it
// claims nothing and changes nothing, so that the worker, which then acts, and
// DryRun, which does not, come to the same one.
type Decision struct {
	Reason verdict.Reason // why the packet is dropped; None: it begins a flow
	Kind   conntrack.Kind // of that flow: Forward, Masquerade or PortForward
	Inside bool           // the packet comes from inside
	Asked  Question       // what the policy was asked, if anything
	Policy nat.Decision   // its answer

	// Target is the packet's tuple with the destination that it leaves with, and
	// where a static forward has one for it, the source.
	Target conntrack.Tuple

	// Maps says that the source is still to be translated, by a mapping or, for a
	// protocol without ports, by its address alone.
	Maps bool

	Static *nat.PortForward // that the destination was found by, else the source

	// External is set where the packet was sent to an address that flows are
	// masqueraded to: that one, or where a hairpinned flow begins here, the one of
	// the same pool that its source is masqueraded to.
	External *conntrack.External

	// Mapped is the mapping by which a packet from outside begins a flow with the
	// inside endpoint, as filtering allows it; nil otherwise.
	Mapped *conntrack.Mapping

	// Where the packet is for a service, and who gets it: nil where there is none.
	Service *dsr.Service
	Backend *dsr.Backend
	Return  ReturnPath // of the answers

	now     conntrack.Tick // in
	asks    bool           // in: nothing will begin by this decision
	hurried bool           // in: a worker asks, between packets

	Routed bool    // Hop was looked up
	Hop    fib.Hop // the way out to Target's destination
	hop    fib.HopID

	hint nat.Hint // of the mapping, for a decision that was made ahead
}

// Question is what the masquerade policy was asked about a packet.
type Question uint8

// The questions.
const (
	NotAsked  Question = iota // nothing leaves outside, or another rule was first
	Forwards                  // is the packet masqueraded?
	Backwards                 // would an answer be: is the inside host hidden from the source?
)

// decide fills d for a packet that arrived on port in.
func (s *Snapshot) decide(d *Decision, flows *conntrack.Worker, in fib.PortID, p *packet.Packet, key conntrack.Tuple) {
	table := flows.Table()
	d.Target = key
	if d.Reason = martian(p); d.Reason != verdict.None {
		return
	}
	if d.Reason = s.notUnicast(table, p.Src); d.Reason != verdict.None {
		return
	}
	d.Inside = s.fromInside(in, p.Src)
	if s.DropForeign && s.foreign(in, p) {
		d.Reason = verdict.ForeignSource
		return
	}
	if s.serves(p.Dst) && s.decideService(d, flows, in, p) {
		return
	}
	if x := table.External(p.Dst); x != nil {
		s.decideExternal(d, flows, in, p, x)
		return
	}
	s.decideRouted(d, in, p)
}

// decideRouted decides about a packet that is for nobody here: by its way out and the policy.
func (s *Snapshot) decideRouted(d *Decision, in fib.PortID, p *packet.Packet) {
	if d.Reason = s.lookup(d, in, p); d.Reason != verdict.None {
		return
	}
	if p.Length() > int(d.Hop.MTU) && p.Is(packet.FlagDontFragment) {
		d.Reason = verdict.FragmentationNeeded
		return
	}
	if !d.Inside {
		d.Reason = s.decideOutside(d, in, p)
		return
	}
	if !s.leavesOutside(d.Hop.Port, p.Dst) {
		return
	}
	d.Asked, d.Policy = Forwards, s.Policy.Decide(p.Src, p.Dst)
	switch {
	case s.leavesStatic(d, p, d.Hop.Port):
		d.Reason = s.orHostPeer(s.translatable(p), d)
	case d.Policy.Masquerade:
		d.Kind, d.Maps, d.Reason = conntrack.Masquerade, true, s.translatable(p)
	}
}

// lookup finds the way out to the target.
func (s *Snapshot) lookup(d *Decision, in fib.PortID, p *packet.Packet) verdict.Reason {
	d.hop, d.Hop = s.Routes.Lookup(d.Target.Dst, p.Src, in, pathHash(p.Src))
	d.Routed = true
	return hopReason(&d.Hop)
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

// notUnicast refuses a source that no other host can have: the gateway's own
// addresses, and the broadcast addresses of its networks.
func (s *Snapshot) notUnicast(table *conntrack.Table, src uint32) verdict.Reason {
	switch {
	case s.Routes.Local(src) || table.External(src) != nil || s.serves(src):
		return verdict.OwnSource // 6274-4
	case s.Routes.Broadcast(src):
		return verdict.MartianSource // RFC 1812 5.3.7
	}
	return verdict.None
}

// decideOutside decides whether a new flow from outside may pass at all.
func (s *Snapshot) decideOutside(d *Decision, in fib.PortID, p *packet.Packet) verdict.Reason {
	if s.spoofed(in, p) {
		return verdict.SpoofedSource
	}
	if !s.Policy.InSources(p.Dst) {
		return verdict.None
	}
	// The inside is open to those only that see its true addresses.
	d.Asked, d.Policy = Backwards, s.Policy.Decide(p.Dst, p.Src)
	if d.Policy.Masquerade {
		return verdict.OutsideToInside
	}
	return verdict.None
}

// decideExternal decides about a packet for an address that flows are
// masqueraded to, and that belongs to none of them.
func (s *Snapshot) decideExternal(d *Decision, flows *conntrack.Worker, in fib.PortID, p *packet.Packet, x *conntrack.External) {
	d.External = x
	if s.hostSpeaks(p.Proto, p.Dst, p.Src) {
		d.Reason = verdict.HostOwned
		return
	}
	if s.decideStatic(d, flows, in, p) {
		return
	}
	var m *conntrack.Mapping
	// An echo request has no external endpoint in its destination: its
	// identifier is the sender's, and port 0 would be somebody's identifier 0.
	if p.ICMPType != packet.ICMPEchoRequest || p.Proto != packet.ProtoICMP {
		m = flows.MappingAt(x, p.Proto, p.DstPort)
	}
	switch {
	case m == nil && s.Routes.Local(p.Dst) && (!x.Resting(p.Proto, p.DstPort) || x.Reserved(p.Proto, p.DstPort)):
		d.Reason = verdict.HostOwned
	case m == nil:
		// Also on the host's address where the port rests: what is late for NAT's
		// connection the host would reset (RFC 6888 REQ-8).
		d.Reason = verdict.NoMapping
	case !d.Inside:
		s.decideInbound(d, flows, in, p, x, m)
	case m.Service() != 0: // a service's clients are reached by the answers to them alone
		d.Reason = verdict.Filtered
	case !s.Hairpin:
		d.Reason = verdict.HairpinDisabled
	default:
		// RFC 4787 REQ-9, RFC 5382 REQ-8: between inside hosts, with the external source.
		d.Target.Dst, d.Target.DstPort = m.Inside()
		if d.Reason = s.lookup(d, in, p); d.Reason == verdict.None {
			d.Kind, d.Reason = conntrack.Masquerade, s.translatable(p)
			s.hairpinSource(d, flows, p)
		}
	}
}

// decideInbound decides about a packet from outside for an external endpoint that
// m holds: whether filtering lets it begin a flow, and the way to the inside
// endpoint. The flow is as if that had begun it, so that its answers leave from the
// endpoint that was called.
func (s *Snapshot) decideInbound(d *Decision, flows *conntrack.Worker, in fib.PortID, p *packet.Packet, x *conntrack.External, m *conntrack.Mapping) {
	if m, d.Reason = s.Behaviour.Admitted(flows, x, m, p.Proto, p.DstPort, p.Src); d.Reason != verdict.None {
		return
	}
	d.Target.Dst, d.Target.DstPort = m.Inside()
	if d.Reason = s.lookup(d, in, p); d.Reason != verdict.None {
		return
	}
	switch {
	case s.leavesOutside(d.Hop.Port, d.Target.Dst):
		d.Reason = verdict.NoRoute // the way inside is gone: see onward
	case p.Length() > int(d.Hop.MTU) && p.Is(packet.FlagDontFragment):
		d.Reason = verdict.FragmentationNeeded
	case p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.TCPSyn|packet.TCPAck|packet.TCPRst) != packet.TCPSyn:
		d.Reason = verdict.TCPWithoutFlow // tcp-pickup is for what comes from inside
	default:
		d.Kind, d.Mapped, d.Reason = conntrack.Masquerade, m, s.translatable(p)
	}
}

// translatable refuses what cannot begin a masqueraded flow: what begins one
// behaves as its protocol's RFC asks (RFC 6888 REQ-1).
func (s *Snapshot) translatable(p *packet.Packet) verdict.Reason {
	switch p.Proto {
	case packet.ProtoTCP:
		if !s.opens(p.TCPFlags) {
			return verdict.TCPWithoutFlow
		}
	case packet.ProtoUDP:
	case packet.ProtoICMP:
		if !p.Is(packet.FlagEcho) { // RFC 5508 REQ-1
			return verdict.ICMPUnsupported // RFC 5508 REQ-11
		}
		if p.ICMPType == packet.ICMPEchoReply {
			return verdict.ReplyWithoutFlow
		}
	default:
		return otherReason[s.Other]
	}
	return verdict.None
}
