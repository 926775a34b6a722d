package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// decideStatic decides about a packet to an external endpoint that port-forwards
// has, and reports whether it has it. Whoever calls from outside is let in: that
// is what a forward is for.
func (s *Snapshot) decideStatic(d *Decision, flows *conntrack.Worker, in fib.PortID, p *packet.Packet) bool {
	f, inside, to := s.Static.Inward(p.Dst, p.Proto, p.DstPort)
	if f == nil {
		return false
	}
	d.Static = f
	switch {
	case !d.Inside && s.spoofed(in, p):
		d.Reason = verdict.SpoofedSource
		return true
	case d.Inside && !s.Hairpin:
		d.Reason = verdict.HairpinDisabled
		return true
	}
	d.Target.Dst, d.Target.DstPort = inside, to
	if d.Reason = s.lookup(d, in, p); d.Reason != verdict.None {
		return true
	}
	if s.leavesOutside(d.Hop.Port, inside) {
		d.Reason = verdict.NoRoute // the way inside is gone, and the default route is none
		return true
	}
	if p.Length() > int(d.Hop.MTU) && p.Is(packet.FlagDontFragment) {
		d.Reason = verdict.FragmentationNeeded
		return true
	}
	d.Kind, d.Reason = conntrack.PortForward, s.translatable(p)
	if d.Inside {
		s.hairpinSource(d, flows, p)
	}
	return true
}

// hairpinSource decides what the source of a packet between inside hosts is
// translated to (RFC 4787 REQ-9a: its external one): what a static forward says,
// else a port of the address that the source is paired with, in the pool of the one
// that was called (REQ-2: its peers know it by no other), or where that is one
// host's alone, in the pool of any way out. An echo request is hairpinned like any other packet
// (RFC 7857 12).
func (s *Snapshot) hairpinSource(d *Decision, flows *conntrack.Worker, p *packet.Packet) {
	if f, external, port := s.Static.Outward(p.Src, p.Proto, p.SrcPort, nat.AnyOut); f != nil {
		d.Kind = conntrack.PortForward
		d.Target.Src, d.Target.SrcPort = external, port
		d.Reason = s.orHostPeer(d.Reason, d)
		return
	}
	d.Maps = true
	if d.Static == nil || !d.Static.OneToOne() {
		for _, pool := range s.Pools {
			if pool != nil && pool.Holds(p.Dst) {
				d.External = pool.For(flows, p.Src)
				return
			}
		}
		return
	}
	d.External = nil
	for _, pool := range s.Pools {
		if d.External = pool.For(flows, p.Src); d.External != nil {
			return
		}
	}
	if d.Reason == verdict.None {
		d.Reason = verdict.NoExternalAddress
	}
}

// leavesStatic decides whether a packet that leaves outside has the source that a
// static forward gives its inside endpoint, and sets it. Exclusions of the policy go
// before; a host need not be in masquerade.sources.
func (s *Snapshot) leavesStatic(d *Decision, p *packet.Packet, out fib.PortID) bool {
	switch {
	case d.Policy.Masquerade, d.Policy.Rule == nat.RuleNotASource, d.Policy.Rule == nat.RuleDisabled:
	default:
		return false
	}
	f, external, port := s.Static.Outward(p.Src, p.Proto, p.SrcPort, out)
	if f == nil {
		return false
	}
	d.Static, d.Kind = f, conntrack.PortForward
	d.Target.Src, d.Target.SrcPort = external, port
	return true
}

// spoofed reports whether a source from outside is one that we would reach on the
// inside (RFC 1812 5.3.8, RFC 2827).
func (s *Snapshot) spoofed(in fib.PortID, p *packet.Packet) bool {
	_, back := s.Routes.Lookup(p.Src, p.Dst, in, 0)
	return back.Type == fib.Forward && s.Roles[back.Port] == RoleInside
}

// foreign reports whether a packet comes from an inside interface with a source that
// is not reached by one: forged, or of a host with addresses of another network (RFC
// 1812 5.3.8, RFC 2827).
func (s *Snapshot) foreign(in fib.PortID, p *packet.Packet) bool {
	if s.Roles[in] != RoleInside {
		return false // of a one-armed interface, sources alone are inside
	}
	_, back := s.Routes.Lookup(p.Src, p.Dst, in, 0)
	return back.Type != fib.Forward || s.Roles[back.Port] != RoleInside
}
