package explain

import (
	"fmt"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// serves reports whether an address is a service's.
func (a *account) serves(addr uint32) bool {
	return a.Snapshot.Balance.Table != nil && a.Snapshot.Balance.IsVIP(addr)
}

// service is the configuration of the service that the packet is for, nil where
// it is for none.
func (a *account) service() *config.Service {
	for i := range a.Config.Services {
		s := &a.Config.Services[i]
		if fib.U32(s.Address) != a.p.Dst || s.Port != a.p.DstPort {
			continue
		}
		for _, proto := range s.Protocols {
			if proto == "tcp" && a.p.Proto == packet.ProtoTCP || proto == "udp" && a.p.Proto == packet.ProtoUDP {
				return s
			}
		}
	}
	return nil
}

// ownClient is why nobody can be told what becomes of a packet that the gateway's
// host itself sends to a service, nil where it is another's.
func (a *account) ownClient() error {
	if !a.serves(a.p.Dst) || a.Assumed || !a.Snapshot.Routes.Local(a.p.Src) {
		return nil
	}
	return fmt.Errorf("src: %s is the gateway's own: what its host sends meets no steering program (XDP sees received frames only), so it is not balanced; use a backend's address on the gateway itself",
		fib.Addr(a.p.Src))
}

// tellService is about a packet to a service's address that begins a flow.
func (a *account) tellService() {
	d := &a.outcome.Decision
	s := a.service()
	at := endpoint(a.p.Proto, a.p.Dst, a.p.DstPort)
	if s == nil || d.Service == nil {
		if d.External == nil {
			a.decide(stageService, 0, "%s is a service's address, and nothing is served on %s", fib.Addr(a.p.Dst), at)
		}
		return
	}
	a.decide(stageService, s.Line, "%s is the service %s, mode %s, algorithm %s", at, s.Name, s.Mode, s.Algorithm)
	switch {
	case d.Reason == verdict.SourceRange:
		a.decide(stageService, lineOf(s.SourceRanges, s.Line), "%s is in none of its source-ranges (%s)", fib.Addr(a.p.Src), some(prefixes(s.SourceRanges)))
	case d.Reason == verdict.NoBackend:
		a.decide(stageService, s.Line, "none of its %d backends can be chosen; no-backend is %s", len(s.Backends), s.NoBackend)
	case d.Backend != nil:
		a.tellBackend(s)
	}
}

func lineOf(rules []config.Rule, or int) int {
	if len(rules) > 0 {
		return rules[0].Line
	}
	return or
}

// tellBackend is about the backend that was chosen, and the way its answers take.
func (a *account) tellBackend(s *config.Service) {
	d := &a.outcome.Decision
	line := s.Line
	for _, b := range s.Backends {
		if fib.U32(b.Address) == d.Backend.Address && b.Port == d.Backend.Port {
			line = b.Line
		}
	}
	a.decide(stageService, line, "balanced to %s", endpoint(a.p.Proto, d.Backend.Address, d.Backend.Port))
	if d.Return != gateway.ReturnNone {
		a.decide(stageService, s.Line, "return path: %s", returnTexts[d.Return])
	}
}

// returnTexts say of every return path what it is and why.
var returnTexts = [gateway.ReturnPaths]string{
	gateway.ReturnAgent:        "the backend's node answers the client itself, with the service's address (agent)",
	gateway.ReturnGateway:      "by the gateway, whose address the backend sees (mode snat)",
	gateway.ReturnNoAgent:      "by the gateway, whose address the backend sees: nothing there answers for the service (agent: false)",
	gateway.ReturnSameHost:     "by the gateway, whose address the backend sees: client and backend are one host",
	gateway.ReturnSameSegment:  "by the gateway, whose address the backend sees: client and backend are on one segment, where an answer would reach the client untranslated",
	gateway.ReturnHiddenClient: "by the gateway, whose address the backend sees: policy hides the client from the network of the backend",
	gateway.ReturnFullHeader:   "by the gateway, whose address the backend sees: the IPv4 header has no room for the option",
	gateway.ReturnTaken:        "by the gateway, whose address the backend sees: another flow has the client's port towards this backend",
}

// tellBalanced is about the addresses of a flow that begins with a backend.
func (a *account) tellBalanced() {
	o := &a.outcome
	if o.Decision.Kind == conntrack.ServiceDSR {
		d := a.Config.DSR
		a.decide(stageTranslate, a.Config.Line("dsr.dispatch"), "the source stays; the service's address goes along (dispatch: %s)", d.Dispatch)
		return
	}
	if o.Mapping.External == nil {
		a.decide(stageTranslate, 0, "%s has no address for the backend to answer to", a.name(o.Decision.Hop.Port))
		return
	}
	if o.Mapping.External.Address() == assumedAddress {
		a.decide(stageTranslate, 0, "the source becomes the primary address of %s, which the file does not say", a.name(o.Decision.Hop.Port))
	} else {
		a.decide(stageTranslate, 0, "the source becomes the primary address of %s, %s", a.name(o.Decision.Hop.Port), fib.Addr(o.Mapping.External.Address()))
	}
	a.tellPort(&o.Mapping)
}

// mode is the last word of a balanced packet's verdict.
func mode(k conntrack.Kind) string {
	if k == conntrack.ServiceDSR {
		return "dsr"
	}
	return "snat"
}

// balanced concludes for a packet that goes to a backend, and reports whether it
// does.
func (a *account) balanced() bool {
	o := &a.outcome
	kind := o.Decision.Kind
	if o.Flow != nil {
		if kind = o.Flow.Kind; o.Flow.Direction != conntrack.Original {
			return false
		}
	}
	if !kind.Balanced() {
		return false
	}
	a.conclude(fmt.Sprintf("balance to %s (%s)", endpoint(a.p.Proto, o.To.Dst, o.To.DstPort), mode(kind)), "balance")
	return true
}

// tellUnflowed is about packets to and from service addresses that need no flow,
// and reports whether this is one.
func (a *account) tellUnflowed() bool {
	o := &a.outcome
	switch {
	case o.Echo && a.serves(a.p.Dst):
		a.decide(stageService, 0, "%s is a service's address: the gateway answers pings to it", fib.Addr(a.p.Dst))
	case o.Direct:
		a.decide(stageService, 0, "a backend's node answers the client itself, with the service's address: it passes as it is")
	default:
		return false
	}
	if o.Reason != verdict.None {
		a.drop(o.Reason)
		return true
	}
	a.tellRoute(&o.Hop)
	a.tellNeighbour()
	to := a.tuple(o.To)
	a.e.Translated, a.e.Out = &to, a.name(o.Hop.Port)
	if o.Echo {
		a.conclude("answer echo", "answer-echo")
	} else {
		a.conclude("forward", "forward")
	}
	return true
}
