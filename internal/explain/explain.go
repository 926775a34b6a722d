// Package explain puts into words what becomes of a packet and why: `sluice
// explain`, against a running gateway or a configuration file alone, and `sluice
// trace`, of packets that a worker dealt with.
//
// It owns the words, the lines of the configuration that they point at, and the
// gateway that a file alone makes one assume (Assume). It decides nothing: the
// outcome is gateway.Snapshot.DryRun's, which goes through the functions that
// decide for packets, and the steering program's part is xdp.Steered's, which a
// test holds to the program. Nothing is sent, and nothing is changed.
//
// Concurrency: Explain may be called by anyone who may call conntrack.Table.Look.
package explain

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// Gateway is what a packet is explained by.
type Gateway struct {
	Config   *config.Config
	Snapshot *gateway.Snapshot
	Table    *conntrack.Table
	Now      conntrack.Tick
	Assumed  bool // of the file alone: no routes, neighbours, flows or addresses are known
}

// The stages of an explanation, in the order in which packets meet them.
const (
	stageArrival   = "arrival"
	stageParse     = "parse"
	stageSteering  = "steering"
	stageFlow      = "flow"
	stageSource    = "source"
	stageAddress   = "destination"
	stageService   = "service"
	stageRoute     = "route"
	stagePolicy    = "policy"
	stageTranslate = "translation"
	stageNeighbour = "neighbour"
	stageAnswer    = "answer"
	stageDrop      = "drop"
	stageError     = "error"
	stageDeparture = "departure"
)

// Stages lists them, in that order.
var Stages = []string{
	stageArrival, stageParse, stageSteering, stageFlow, stageSource, stageAddress, stageService, stageRoute, stagePolicy, stageTranslate, stageNeighbour,
	stageAnswer, stageDrop, stageError, stageDeparture,
}

// account is an explanation in the making.
type account struct {
	*Gateway
	e       control.Explanation
	p       packet.Packet
	in      fib.PortID
	outcome gateway.Outcome
	syn     bool // it was said to open a connection, and not only assumed
}

// Explain says what becomes of the packet. An error is about the question.
func Explain(g *Gateway, q control.Question) (control.Explanation, error) {
	a := &account{Gateway: g}
	a.e.Protocol, a.e.Config = q.Proto, g.Config.Path
	a.p = packetOf(q)
	a.e.Original = a.tuple(conntrack.Tuple{Src: a.p.Src, Dst: a.p.Dst, SrcPort: a.p.SrcPort, DstPort: a.p.DstPort})
	if g.Assumed {
		a.e.Assumptions = append(a.e.Assumptions, "the file alone was read: no route, neighbour, flow or address of the machine is known; ask the daemon for those with --socket")
	}
	if err := a.ownClient(); err != nil {
		return control.Explanation{}, err
	}
	if err := a.arrive(q.In); err != nil {
		return control.Explanation{}, err
	}
	a.tellFlags(q)
	if !g.Assumed && !a.steered() {
		a.conclude("pass to kernel", "pass-to-kernel")
		return a.e, nil
	}
	if a.p.Proto == packet.ProtoTCP && !packet.LegalTCPFlags(a.p.TCPFlags) {
		a.drop(verdict.BadTCPFlags)
		return a.e, nil
	}
	g.Table.Look(func(w *conntrack.Worker) {
		a.outcome = g.Snapshot.DryRun(w, a.in, &a.p, g.Now)
	})
	a.tell()
	return a.e, nil
}

// packetOf is the packet of a question: whole, small, and where it can, opening
// a connection.
func packetOf(q control.Question) packet.Packet {
	p := packet.Packet{
		Src: fib.U32(q.Src.Addr()), Dst: fib.U32(q.Dst.Addr()), SrcPort: q.Src.Port(), DstPort: q.Dst.Port(),
		TTL: 64, L3: packet.EthernetLength, L4: packet.EthernetLength + packet.IPv4MinLength,
		End: packet.EthernetLength + packet.IPv4MinLength + packet.TCPMinLength,
	}
	switch q.Proto {
	case "tcp":
		p.Proto, p.TCPFlags = packet.ProtoTCP, q.TCPFlags()
	case "udp":
		p.Proto = packet.ProtoUDP
	case "icmp":
		p.Proto, p.ICMPType, p.Flags = packet.ProtoICMP, packet.ICMPEchoRequest, packet.FlagEcho
	default:
		n, _ := strconv.ParseUint(q.Proto, 10, 8) // ParseQuestion let it through
		p.Proto = uint8(n)
	}
	return p
}

// decide adds a step. line is 0 where the configuration has no word in it.
func (a *account) decide(stage string, line int, format string, args ...any) {
	a.e.Decisions = append(a.e.Decisions, control.Decision{Stage: stage, Line: line, Text: fmt.Sprintf(format, args...)})
}

func (a *account) conclude(verdict, action string) { a.e.Verdict, a.e.Action = verdict, action }

// drop ends an explanation with a reason.
func (a *account) drop(r verdict.Reason) {
	a.e.Reason, a.e.Explanation = r.String(), r.Explain()
	a.decide(stageDrop, 0, "%s", r.Explain())
	a.conclude("drop: "+r.String(), "drop")
}

// arrive settles the interface that the packet arrives on.
func (a *account) arrive(name string) error {
	list := a.Config.Interfaces
	for i := range list {
		if list[i].Name == name {
			a.arriveOn(fib.PortID(i), "")
			return nil
		}
	}
	if name != "" {
		var names []string
		for i := range list {
			names = append(names, list[i].Name)
		}
		return fmt.Errorf("in: %s is not one of the interfaces of %s, so its packets are the kernel's; these are: %s", name, a.Config.Path, strings.Join(names, ", "))
	}
	if a.Assumed {
		inside, outside := sides(a.Config)
		if a.comesFromOutside() {
			a.arriveOn(outside, "the first outside interface, since it is for the inside")
		} else {
			a.arriveOn(inside, "the first inside interface")
		}
		return nil
	}
	if a.Snapshot.Routes.Local(a.p.Src) {
		return fmt.Errorf("src: %s is the gateway's own address, and what its host itself sends never passes the gateway; if another host sends it all the same, name the interface that it arrives on with --in",
			fib.Addr(a.p.Src))
	}
	_, hop := a.Snapshot.Routes.Lookup(a.p.Src, a.p.Dst, fib.NoPort, 0)
	if hop.Type != fib.Forward {
		return fmt.Errorf("in: no listed interface leads back to %s; name the one that the packet arrives on with --in", fib.Addr(a.p.Src))
	}
	a.arriveOn(hop.Port, "the way back to its source")
	return nil
}

// comesFromOutside guesses by the addresses: to a source, an external address or a
// service, and not from a source.
func (a *account) comesFromOutside() bool {
	_, from := covering(a.Config.Masquerade.Sources, a.p.Src)
	_, to := covering(a.Config.Masquerade.Sources, a.p.Dst)
	return !from && (to || a.Table.External(a.p.Dst) != nil || a.serves(a.p.Dst))
}

func (a *account) arriveOn(in fib.PortID, why string) {
	a.in, a.e.In = in, a.name(in)
	if why != "" {
		a.e.Assumptions = append(a.e.Assumptions, fmt.Sprintf("the packet arrives on %s, %s (--in names another)", a.e.In, why))
	}
	a.decide(stageArrival, a.Config.Interfaces[in].Line, "arrives on %s, role %s", a.e.In, a.Config.Interfaces[in].Role)
}

// tell words an outcome.
func (a *account) tell() {
	o := &a.outcome
	if a.tellUnflowed() {
		return
	}
	if o.Flow != nil {
		a.tellFlow()
	} else {
		a.tellDecision()
	}
	switch {
	case o.Echo && o.Reason == verdict.None:
		a.decide(stageDeparture, 0, "an echo request to an address that NAT alone has: the gateway answers it, at a limited rate")
		a.conclude("answer echo", "answer-echo")
		return
	case o.Reason == verdict.ProtocolPassed:
		a.decide(stageTranslate, a.Config.Line("masquerade.other-protocols"), "protocol %d has no ports, and masquerade.other-protocols is pass: left to the kernel untranslated", a.p.Proto)
		a.conclude("pass to kernel", "pass-to-kernel")
		return
	case o.Reason == verdict.HostOwned, o.Reason == verdict.KernelRoute && o.Decision.External == nil:
		// The worker hands it back; see gateway's punt.
		a.conclude("pass to kernel", "pass-to-kernel")
		return
	case o.Hop.Type != fib.Forward: // nobody came to look for it
		a.drop(o.Reason)
		return
	case o.Flow != nil:
		a.tellRoute(&o.Hop)
	}
	a.tellNeighbour()
	if o.Reason != verdict.None {
		a.drop(o.Reason)
		return
	}
	a.tellAnswer()
	a.leave()
}

// leave concludes for a packet that is forwarded.
func (a *account) leave() {
	o := &a.outcome
	to := a.tuple(o.To)
	if o.To.Src == assumedAddress {
		to.Src = netip.Addr{}
	}
	a.e.Translated, a.e.Out = &to, a.name(o.Hop.Port)
	if a.balanced() {
		return
	}
	if o.To.Src == a.p.Src && o.To.SrcPort == a.p.SrcPort || o.Flow != nil && o.Flow.Direction == conntrack.Reply {
		a.conclude("forward", "forward")
		return
	}
	if o.To.Dst != a.p.Dst && o.Decision.Static != nil && !o.Decision.Inside {
		a.conclude("forward", "forward")
		return
	}
	a.conclude("masquerade to "+a.external(o.To), "masquerade")
}

// tellFlow is about the flow that the packet belongs to.
func (a *account) tellFlow() {
	o, f := &a.outcome, a.outcome.Flow
	a.decide(stageFlow, 0, "belongs to a flow, %s, state %s, in the %s direction: %s, answered as %s",
		f.Kind, f.State, f.Direction, a.words(f.Original), a.words(f.Reply))
	if o.Reason == verdict.SpoofedSource {
		a.decide(stageFlow, 0, "this flow's packets in that direction arrive on an interface of another role than %s", a.e.In)
		return
	}
	switch to := o.To; {
	case f.Kind.Balanced() && f.Direction == conntrack.Reply:
		a.decide(stageTranslate, 0, "translated back: from the service %s to the client %s", endpoint(a.p.Proto, to.Src, to.SrcPort), endpoint(a.p.Proto, to.Dst, to.DstPort))
	case f.Kind.Balanced():
		a.decide(stageTranslate, 0, "to the backend %s, from %s, as since the flow began", endpoint(a.p.Proto, to.Dst, to.DstPort), endpoint(a.p.Proto, to.Src, to.SrcPort))
	case f.Direction == conntrack.Reply && to.Dst != a.p.Dst:
		a.decide(stageTranslate, 0, "the destination is translated back to %s", endpoint(a.p.Proto, to.Dst, to.DstPort))
	case to.Src != a.p.Src || to.SrcPort != a.p.SrcPort:
		a.decide(stageTranslate, 0, "the source is translated to %s, as since the flow began", a.external(to))
	default:
		a.decide(stageTranslate, 0, "the addresses stay as they are, as since the flow began")
	}
}

// name is an interface's, "" for none.
func (a *account) name(port fib.PortID) string {
	if int(port) < len(a.Config.Interfaces) {
		return a.Config.Interfaces[port].Name
	}
	return ""
}

// tuple words a tuple as flows list does.
func (a *account) tuple(t conntrack.Tuple) control.Tuple {
	out := control.Tuple{Src: fib.Addr(t.Src), Dst: fib.Addr(t.Dst), Sport: t.SrcPort, Dport: t.DstPort}
	if a.p.Proto == packet.ProtoICMP {
		out.Sport, out.Dport = t.SrcPort|t.DstPort, 0
	}
	return out
}

// words is a tuple on one line.
func (a *account) words(t conntrack.Tuple) string {
	return endpoint(t.Proto, t.Src, t.SrcPort) + " to " + endpoint(t.Proto, t.Dst, t.DstPort)
}

// external is the source of a translated packet as the verdict shows it.
func (a *account) external(to conntrack.Tuple) string {
	addr, port := fib.Addr(to.Src).String(), strconv.Itoa(int(to.SrcPort))
	if to.Src == assumedAddress {
		addr = "auto"
	}
	if a.outcome.Flow == nil && (a.outcome.Mapping.Origin == nat.PortSearched || a.outcome.Mapping.Origin == nat.PortShared) {
		port = "*"
	}
	if packet.Portless(a.p.Proto) {
		return addr
	}
	return addr + ":" + port
}

// endpoint is ADDRESS:PORT, or ADDRESS where there is no port.
func endpoint(proto uint8, addr uint32, port uint16) string {
	if port == 0 && proto != packet.ProtoTCP && proto != packet.ProtoUDP {
		return fib.Addr(addr).String()
	}
	return netip.AddrPortFrom(fib.Addr(addr), port).String()
}
