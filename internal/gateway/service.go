package gateway

import (
	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Balance is what workers balance services by.
type Balance struct {
	*dsr.Table // nil: there are no services

	// Sources has, for every port, the address that packets to a backend leave
	// with by it where their source is translated: the interface's primary one.
	// nil where it has none. Masquerading shares the ports of an address that it
	// uses as well.
	Sources [MaxPorts]*conntrack.External

	Dispatch dsr.Dispatch
	Order    dsr.Order
	Paths    *PathMTUs // to backends; nil learns none

	// Strips says that options naming a service address are taken out of packets
	// from outside: where a service is in mode dsr, its agents trust this gateway.
	Strips bool

	Backends int // ids of backends are under this
	Choice   Choice

	// Announced are the service addresses that the gateway answers ARP for,
	// sorted: those with announce: arp that the host does not hold.
	Announced []uint32
}

// ReturnPath is which way the answers of a backend take to the client, which is
// decided when a flow begins, and why it is not the agent's where the service's
// mode is dsr.
type ReturnPath uint8

// Choice keys the random choice of backends: see choice.
type Choice [2]uint64

// decidesLike reports whether flows decided under t need not be decided again.
func (b *Balance) decidesLike(t *Balance) bool {
	return b.Table == t.Table && b.Sources == t.Sources && b.Dispatch == t.Dispatch && b.Order == t.Order
}

// The return paths.
const (
	ReturnNone    ReturnPath = iota // no service
	ReturnAgent                     // from the backend's node, which knows the service address
	ReturnGateway                   // here: mode snat

	// By the gateway though the mode is dsr, by source translation:
	ReturnNoAgent      // the backend has none (agent: false)
	ReturnSameHost     // the client is the backend
	ReturnSameSegment  // both are on one segment: the answer would not pass the backend's router
	ReturnHiddenClient // policy hides the client's address from the network of the backend
	ReturnFullHeader   // the IPv4 header has no room for the option
	ReturnTaken        // another flow has the five-tuple that the backend would see
	ReturnPaths        // their number
)

var returnWords = [ReturnPaths]string{
	ReturnNone:         "none",
	ReturnAgent:        "agent",
	ReturnGateway:      "gateway",
	ReturnNoAgent:      "gateway-no-agent",
	ReturnSameHost:     "gateway-same-host",
	ReturnSameSegment:  "gateway-same-segment",
	ReturnHiddenClient: "gateway-hidden-client",
	ReturnFullHeader:   "gateway-full-header",
	ReturnTaken:        "gateway-tuple-taken",
}

// String returns the return path's kebab-case word.
func (r ReturnPath) String() string {
	if r >= ReturnPaths {
		return "unknown-return-path"
	}
	return returnWords[r]
}

// serves reports whether a packet is for an address of a service.
func (s *Snapshot) serves(addr uint32) bool { return s.Balance.Table != nil && s.Balance.IsVIP(addr) }

// decideService decides about a packet to a service address that belongs to no
// flow, and reports whether the decision is its own: an address can be masqueraded
// to as well, and then ports that no service has are NAT's.
func (s *Snapshot) decideService(d *Decision, flows *conntrack.Worker, in fib.PortID, p *packet.Packet) bool {
	d.Service = s.Balance.Find(p.Dst, p.DstPort, p.Proto)
	if d.Service == nil {
		if flows.Table().External(p.Dst) != nil {
			return false
		}
		d.Reason = verdict.NoService
		if s.Routes.Local(p.Dst) {
			d.Reason = verdict.HostOwned
		}
		return true
	}
	if d.Reason = s.admit(d, in, p); d.Reason != verdict.None {
		return true
	}
	if d.Backend = s.pick(d); d.Backend == nil {
		d.Reason = verdict.NoBackend
		return true
	}
	d.Target.Dst, d.Target.DstPort = d.Backend.Address, d.Backend.Port
	d.Reason = s.toBackend(d, in, p)
	return true
}

// pick chooses the backend of a flow that would begin.
func (s *Snapshot) pick(d *Decision) *dsr.Backend {
	if d.asks {
		return d.Service.Peek(d.Target, d.now, s.choice(d.Target))
	}
	return d.Service.Pick(d.Target, d.now, s.choice(d.Target))
}

// choice is the random number that a backend is chosen by where the algorithm
// wants one: a keyed hash of the tuple, so that whoever asks twice gets the same,
// explain included.
func (s *Snapshot) choice(t conntrack.Tuple) uint64 {
	return keyed(s.Balance.Choice).sum(uint64(t.Src)<<32|uint64(t.Dst), uint64(t.SrcPort)<<32|uint64(t.DstPort)<<16|uint64(t.Proto))
}

// admit decides whether the client may begin a flow to the service with this
// packet.
func (s *Snapshot) admit(d *Decision, in fib.PortID, p *packet.Packet) verdict.Reason {
	if !d.Inside {
		if s.spoofed(in, p) {
			return verdict.SpoofedSource
		}
	}
	if !d.Service.AllowedSource(p.Src) {
		return verdict.SourceRange
	}
	if p.Proto == packet.ProtoTCP && p.TCPFlags&packet.TCPRst != 0 {
		return verdict.TCPWithoutFlow
	}
	// A connection that goes on in the middle was another gateway's, or is of a
	// time before. With DSR the backend knows the client by its own address: if
	// it was this one, the connection lives, and if not, the client is told. With
	// a new source address nothing could live.
	if p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.TCPSyn|packet.TCPAck) != packet.TCPSyn && d.Service.Mode == dsr.SNAT {
		return verdict.TCPWithoutFlow
	}
	return verdict.None
}

// toBackend finds the way to the chosen backend and what the flow needs for its
// answers to come back translated: the rule of bridges without br_netfilter is
// that a destination may be translated alone only if every answer passes a
// translator.
func (s *Snapshot) toBackend(d *Decision, in fib.PortID, p *packet.Packet) verdict.Reason {
	switch r := s.lookup(d, in, p); r {
	case verdict.None:
	case verdict.HostOwned, verdict.KernelRoute:
		return verdict.BackendUnroutable
	default:
		return r
	}
	d.Return = s.returnPath(d, in, p)
	d.Kind = conntrack.ServiceDSR
	extra := s.overhead(p, true)
	if d.Return != ReturnAgent {
		d.Kind, extra = conntrack.ServiceSNAT, 0
		if p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.TCPSyn|packet.TCPAck) != packet.TCPSyn {
			return verdict.TCPWithoutFlow
		}
		if s.Balance.Sources[d.Hop.Port] == nil {
			return verdict.NoExternalAddress
		}
	}
	if p.Length()+extra > int(d.Hop.MTU) && p.Is(packet.FlagDontFragment) {
		d.Hop.MTU -= uint16(extra)
		return verdict.FragmentationNeeded
	}
	return verdict.None
}

func (s *Snapshot) returnPath(d *Decision, in fib.PortID, p *packet.Packet) ReturnPath {
	switch {
	case d.Service.Mode == dsr.SNAT:
		return ReturnGateway
	case !d.Backend.Agent:
		return ReturnNoAgent
	case p.Src == d.Backend.Address:
		return ReturnSameHost
	case s.oneSegment(d, in, p):
		return ReturnSameSegment
	case s.leavesOutside(d.Hop.Port, d.Backend.Address) && d.Inside && s.Policy.Decide(p.Src, d.Backend.Address).Masquerade:
		return ReturnHiddenClient
	case s.Balance.Dispatch == dsr.Option && int(p.L4-p.L3) > packet.IPv4MaxLength-dsr.OptionLen:
		return ReturnFullHeader
	}
	return ReturnAgent
}

// oneSegment reports whether client and backend are both neighbours on the port
// that the packet came by. One that is behind a router there is not: what it
// answers passes its own node, and with that the agent.
func (s *Snapshot) oneSegment(d *Decision, in fib.PortID, p *packet.Packet) bool {
	if d.Hop.Port != in || d.Hop.Gateway != d.Backend.Address {
		return false
	}
	_, back := s.Routes.Lookup(p.Src, 0, fib.NoPort, 0)
	return back.Type == fib.Forward && back.Port == in && back.Gateway == p.Src
}

// serviceReturn finds the way of an answer, or of an error about it, that was
// translated back: the service's address is nobody's secret.
func (s *Snapshot) serviceReturn(in fib.PortID, to conntrack.Tuple) (fib.HopID, fib.Hop, verdict.Reason) {
	id, hop := s.Routes.Lookup(to.Dst, to.Src, in, pathHash(to.Src))
	r := hopReason(&hop)
	if r == verdict.None && s.leavesOutside(hop.Port, to.Dst) && s.Policy.InSources(to.Dst) {
		r = verdict.NoRoute // the way inside is gone: see onward
	}
	return id, hop, r
}

// onwardService is onward for a service's flow.
func (s *Snapshot) onwardService(kind conntrack.Kind, dir conntrack.Direction, in fib.PortID, src uint32, to conntrack.Tuple) (fib.HopID, fib.Hop, verdict.Reason) {
	if dir == conntrack.Reply {
		return s.serviceReturn(in, to)
	}
	id, hop := s.Routes.Lookup(to.Dst, src, in, pathHash(src))
	switch r := hopReason(&hop); r {
	case verdict.None:
	case verdict.HostOwned, verdict.KernelRoute:
		return 0, hop, verdict.BackendUnroutable
	default:
		return 0, hop, r
	}
	if kind == conntrack.ServiceSNAT {
		if x := s.Balance.Sources[hop.Port]; x == nil || x.Address() != to.Src {
			return 0, hop, verdict.ExternalAddressMoved
		}
	} else if s.leavesOutside(hop.Port, to.Dst) && s.fromInside(in, src) && s.Policy.Decide(src, to.Dst).Masquerade {
		return 0, hop, verdict.WouldLeakSource
	}
	return id, hop, verdict.None
}
