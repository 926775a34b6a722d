package explain

import (
	"strings"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Trace words what a worker did with a packet: what led there by the words that
// Explain has for it, then what happened. g is the gateway as it is now; of a
// configuration that was changed since, lines can be off.
func Trace(g *Gateway, r *gateway.TraceRecord) control.Explanation {
	then := *g
	then.Snapshot = r.Snapshot
	a := &account{Gateway: &then, p: r.Packet, outcome: r.Outcome}
	a.e.Config = g.Config.Path
	a.arriveOn(r.In, "")
	if r.Malformed == verdict.None {
		a.e.Protocol = control.Protocol(r.Packet.Proto)
		a.e.Original = a.tuple(r.Arrived())
		a.tellParsed(r)
		a.tellForetold(r)
	}
	a.tellFate(r)
	return a.e
}

// tellParsed is about what is found out before any lookup.
func (a *account) tellParsed(r *gateway.TraceRecord) {
	if r.Completed {
		a.decide(stageParse, 0, "its transport checksum was left to the hardware by a local stack, and is completed")
	}
	switch {
	case !a.p.Is(packet.FlagFragment):
	case r.HasFlow:
		a.decide(stageParse, 0, "a fragment of datagram %d, at offset %d: the first one's flow is its own", a.p.ID, a.p.FragOff)
	case r.Fate == gateway.Waiting || r.Fate == gateway.HandedOver:
		a.decide(stageParse, 0, "a fragment of datagram %d, at offset %d", a.p.ID, a.p.FragOff)
	default:
		a.decide(stageParse, 0, "a fragment, at offset %d: no flow is looked up", a.p.FragOff)
	}
	switch {
	case a.p.Is(packet.FlagLaterFragment):
	case a.p.Proto == packet.ProtoTCP:
		a.decide(stageParse, 0, "TCP: %s", tcpFlags(a.p.TCPFlags))
	case a.p.Proto == packet.ProtoICMP && a.p.Is(packet.FlagEcho):
		a.decide(stageParse, 0, "ICMP echo, type %d, identifier %d", a.p.ICMPType, a.p.SrcPort|a.p.DstPort)
	case a.p.Proto == packet.ProtoICMP:
		a.decide(stageParse, 0, "ICMP type %d, code %d", a.p.ICMPType, a.p.ICMPCode)
	}
}

// tcpFlags names the flags that are set.
func tcpFlags(flags uint8) string {
	var set []string
	for i, name := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if flags&(packet.TCPFin<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, " ")
}

// tellForetold is about the decisions that led to the packet's fate.
func (a *account) tellForetold(r *gateway.TraceRecord) {
	o := &a.outcome
	switch {
	case a.p.Is(packet.FlagFragment), o.Flow == nil && a.p.Is(packet.FlagICMPError):
		return
	case a.p.TTL <= 1 && o.Flow == nil && !o.Decision.Routed: // nobody went on to look
		return
	case r.Reason == verdict.OptionsRefused:
		a.decide(stageParse, a.Config.Line("masquerade.ip-options"), "it carries IPv4 options (masquerade.ip-options: drop)")
		return
	case a.p.Is(packet.FlagICMPError):
		f := o.Flow
		a.decide(stageFlow, 0, "an ICMP error about a flow, %s, state %s, by a packet that went in the %s direction: %s, answered as %s",
			f.Kind, f.State, f.Direction.Opposite(), a.words(f.Original), a.words(f.Reply))
		return
	case o.Flow != nil:
		a.tellFlow()
	default:
		a.tellDecision()
	}
	if o.Hop.Type != fib.Forward {
		return
	}
	if o.Flow != nil {
		a.tellRoute(&o.Hop)
	}
	a.tellNeighbour()
}

// tellFate is about what happened.
func (a *account) tellFate(r *gateway.TraceRecord) {
	if r.ID != 0 && (r.Outcome.Flow == nil || r.State != r.Found.State) {
		a.decide(stageFlow, 0, "the flow is in state %s now", r.State)
	}
	switch r.Fate {
	case gateway.Punted:
		a.decide(stageDeparture, 0, "given back to the kernel: %s", r.Reason.Explain())
		a.conclude("pass to kernel", "pass-to-kernel")
	case gateway.Answered:
		a.e.Out = a.name(r.Out)
		if r.Outcome.Echo {
			a.decide(stageDeparture, 0, "an echo request to an address that the host does not hold: answered")
			a.conclude("answer echo", "answer-echo")
			return
		}
		a.decide(stageDeparture, 0, "an ARP request for an external or service address that the host does not hold: answered")
		a.conclude("answer ARP", "answer-arp")
	case gateway.Waiting:
		a.decide(stageDeparture, 0, "a copy waits for the first fragment of its datagram")
		a.conclude("wait for the first fragment", "await-first-fragment")
	case gateway.HandedOver:
		a.decide(stageDeparture, 0, "another worker has its datagram, and gets a copy")
		a.conclude("hand over to another worker", "hand-over")
	case gateway.Searching:
		a.decide(stageDeparture, 0, "waits while all ports of the external address are looked at for one to share")
		a.conclude("wait for a port", "await-port")
	case gateway.Dropped:
		a.drop(r.Reason)
		a.tellError(r)
	default:
		a.tellDeparture(r)
	}
}

// tellError is about what the sender of a dropped packet is told.
func (a *account) tellError(r *gateway.TraceRecord) {
	switch {
	case r.Error != gateway.NoError:
		a.decide(stageError, 0, "the sender is told: ICMP %s leaves by %s, from %s to %s", r.Error, a.name(r.Out), fib.Addr(r.Left.Src), fib.Addr(r.Left.Dst))
	case r.Reset:
		a.decide(stageError, 0, "the client is told: a reset leaves by %s, from %s to %s", a.name(r.Out), fib.Addr(r.Left.Src), fib.Addr(r.Left.Dst))
	case r.ErrorLimited:
		a.decide(stageError, 0, "the sender is not told: too many ICMP errors were sent just now")
	}
}

// tellDeparture is about a packet that leaves, or will.
func (a *account) tellDeparture(r *gateway.TraceRecord) {
	to, _ := r.Leaves()
	translated := a.tuple(to)
	a.e.Translated, a.e.Out = &translated, a.name(r.Out)
	as := a.words(to)
	if a.p.Is(packet.FlagLaterFragment) { // has no ports
		as = fib.Addr(to.Src).String() + " to " + fib.Addr(to.Dst).String()
	}
	switch {
	case r.Fate == gateway.Held:
		a.decide(stageDeparture, 0, "waits for its next hop's link address, to leave by %s as %s, TTL %d", a.e.Out, as, r.Left.TTL)
	case r.Fragments > 0:
		a.decide(stageDeparture, 0, "leaves by %s in %d fragments as %s, TTL %d", a.e.Out, r.Fragments, as, r.Left.TTL)
	default:
		a.decide(stageDeparture, 0, "leaves by %s as %s, TTL %d", a.e.Out, as, r.Left.TTL)
	}
	from := r.Arrived()
	if to.Src == from.Src && to.SrcPort == from.SrcPort || r.HasFlow && r.Found.Direction == conntrack.Reply {
		a.conclude("forward", "forward")
		return
	}
	a.conclude("masquerade to "+endpoint(to.Proto, to.Src, to.SrcPort), "masquerade")
}
