package gateway

import (
	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// ErrorKind is an ICMP error that the gateway itself sends.
type ErrorKind uint8

// The errors, with type and code.
const (
	NoError             ErrorKind = iota
	TimeExceeded                  // 11/0
	FragmentationNeeded           // 3/4, with the next hop's MTU
	NetUnreachable                // 3/0
	HostUnreachable               // 3/1
	Prohibited                    // 3/13
	PortUnreachable               // 3/3
	ErrorKinds                    // their number
)

var errorKinds = [ErrorKinds]struct {
	name      string
	typ, code uint8
}{
	NoError:             {"none", 0, 0},
	TimeExceeded:        {"time-exceeded", packet.ICMPTimeExceeded, 0},
	FragmentationNeeded: {"fragmentation-needed", packet.ICMPUnreachable, 4},
	NetUnreachable:      {"net-unreachable", packet.ICMPUnreachable, 0},
	HostUnreachable:     {"host-unreachable", packet.ICMPUnreachable, 1},
	Prohibited:          {"prohibited", packet.ICMPUnreachable, 13},
	PortUnreachable:     {"port-unreachable", packet.ICMPUnreachable, 3},
}

// String returns the kind's kebab-case word.
func (k ErrorKind) String() string {
	if k >= ErrorKinds {
		return "unknown"
	}
	return errorKinds[k].name
}

// errorFor is what the sender of a packet that was dropped is told; nothing,
// where there is no entry. A packet from outside that policy refuses, or that nothing
// is mapped for, is dropped in silence: an answer would help none but a scanner. A SYN
// is the exception, and answered late: see holdSYN.
var errorFor = [verdict.Count]ErrorKind{
	verdict.TTLExpired:          TimeExceeded,        // RFC 1812 5.3.1
	verdict.FragmentationNeeded: FragmentationNeeded, // RFC 1812 5.2.7.1, RFC 4787 REQ-13
	verdict.NoRoute:             NetUnreachable,      // RFC 1812 5.2.7.1
	verdict.InterfaceDown:       NetUnreachable,
	verdict.RouteUnreachable:    HostUnreachable, // as Linux answers for `ip route add unreachable`
	verdict.RouteProhibited:     Prohibited,
	verdict.NeighbourUnresolved: HostUnreachable, // RFC 1812 3.3.2

	// A service's address is the gateway's to answer for as a host does (RFC 1122
	// 4.1.3.1), where no-backend does not forbid it.
	verdict.NoService:         PortUnreachable,
	verdict.NoBackend:         PortUnreachable,
	verdict.BackendUnroutable: HostUnreachable,

	// RFC 5508 REQ-8, for want of resources. RFC 6888 REQ-11B has host
	// unreachable instead, which a TCP that is opening waits out. That is for
	// carriers, whose subscribers cannot do anything about it; here code 13 tells
	// the gateway's shortage apart from a host that is down.
	verdict.PortsExhausted:    Prohibited,
	verdict.NoExternalAddress: Prohibited,
	verdict.FlowTableFull:     Prohibited,
	verdict.MappingTableFull:  Prohibited,
	verdict.SourceTableFull:   Prohibited,
	verdict.SourceLimit:       Prohibited,
	verdict.PeerTaken:         Prohibited,
	verdict.HostPeer:          Prohibited,

	// RFC 5508 REQ-8, since the operator refuses it.
	verdict.ProtocolUnsupported: Prohibited,
	verdict.HairpinDisabled:     Prohibited,
	verdict.OptionsRefused:      Prohibited,
}

// toldInside are the reasons that nobody outside is told of: whoever sends what is
// refused there is likely to look for what is not.
var toldInside = [verdict.Count]bool{
	verdict.ProtocolUnsupported: true,
	verdict.HairpinDisabled:     true,
	verdict.OptionsRefused:      true,
}

// tooBig is the reason to drop a packet with DF set that is larger than mtu,
// which it keeps for the error that says so (RFC 1812 4.3.3.3, RFC 1191).
func (w *Worker) tooBig(mtu uint16) verdict.Reason {
	w.mtu = mtu
	return verdict.FragmentationNeeded
}

// reject drops a packet that arrived on port in and is as it arrived, counts it
// under its reason, and tells the sender if it should know; but what is the
// kernel's, the kernel gets.
func (w *Worker) reject(d xdp.Desc, frame []byte, p *packet.Packet, in fib.PortID, r verdict.Reason) {
	how := w.manner
	w.manner = byReason
	if w.punt(d, frame, p, in, r) {
		return
	}
	if how == reset && w.resetClient(d, frame, p) {
		w.counters.Drops[r]++
		return
	}
	k := errorFor[r]
	if toldInside[r] && !w.snapshot.fromInside(in, p.Src) {
		k = NoError
	}
	if k == NoError || how == quiet || !w.answer(d, frame, p, in, k) {
		w.drop(d, r)
		return
	}
	w.counters.Drops[r]++
}

// answer makes of a dropped packet the ICMP error about it, and reports whether
// it did: there are packets that nobody is told about, senders that cannot be
// reached, and a limit. The error needs no memory of its own: the dropped
// packet becomes its quote without moving, and the headers go where the kernel
// keeps room in front of every received frame.
func (w *Worker) answer(d xdp.Desc, frame []byte, p *packet.Packet, in fib.PortID, k ErrorKind) bool {
	s := w.snapshot
	if !w.answerable(frame, p) {
		return false
	}
	// Routed as the host's own packets are: by no port, with no source yet. A
	// hash of 0 takes the first of several paths.
	_, hop := s.Routes.Lookup(p.Src, 0, fib.NoPort, 0)
	if hopReason(&hop) != verdict.None || !w.mayTell(&hop, in, p) {
		return false
	}
	src := s.errorSource(hop.Port, p.Src)
	if s.serves(p.Dst) {
		src = p.Dst // the client knows no other, and an answer from a router is a router's
	}
	if src == 0 {
		return false
	}
	if !w.limit.allow(w.keyed.sum(uint64(p.Src), 0), w.now) {
		w.counters.ErrorsLimited++
		return false
	}
	if w.ready(&hop, 0) != verdict.None {
		return false
	}
	e := packet.ICMPError{Src: src, Dst: p.Src, ID: w.idents.next(src, p.Src, packet.ProtoICMP), Type: errorKinds[k].typ, Code: errorKinds[k].code}
	if k == FragmentationNeeded {
		e.MTU = w.mtu
	}
	quote := min(p.Length(), packet.ICMPErrorMaxLength-packet.ICMPErrorOverhead) // RFC 1812 4.3.2.3
	d.Addr -= packet.ICMPErrorOverhead
	d.Len = uint32(packet.EthernetLength + packet.ICMPErrorOverhead + quote)
	frame = w.frame(d)
	var q packet.Packet
	e.Write(frame, &q)
	w.counters.Errors[k]++
	w.sendFrom(d, frame, &q, 0, fib.NoPort, &hop)
	return true
}

// answerable reports whether any error may be sent about a packet: RFC 1812
// 4.3.2.7, RFC 1122 3.2.2. One whose header is broken does not come here.
func (w *Worker) answerable(frame []byte, p *packet.Packet) bool {
	const highestType = 18 // beyond are no messages that Linux knows: they might be errors
	switch {
	case frame[0]&1 != 0: // sent to a group of stations
		return false
	case p.Is(packet.FlagICMPError | packet.FlagLaterFragment):
		return false
	case p.Proto == packet.ProtoICMP && p.ICMPType > highestType:
		return false
	case w.snapshot.Routes.Broadcast(p.Dst):
		return false
	}
	// Multicast, and sources that are nobody's: 0/8, 127/8, 224/4, 240/4, our own.
	return martian(p) == verdict.None && w.snapshot.notUnicast(w.table, p.Src) == verdict.None
}

// mayTell reports whether an error about p, which arrived on port in, may go to
// its source by hop.
func (w *Worker) mayTell(hop *fib.Hop, in fib.PortID, p *packet.Packet) bool {
	s := w.snapshot
	outside := s.leavesOutside(hop.Port, p.Src)
	// Towards the other side it would meet somebody who did not send the packet
	// (RFC 2827).
	if s.fromInside(in, p.Src) == outside {
		return false
	}
	// What arrives from outside shows no address that is hidden from its sender,
	// unless the sender guessed; the error would confirm it. What is translated to
	// can be such an address, too: a service's, towards backends inside.
	return !outside || s.ownsExternal(hop.Port, p.Dst) || !s.Policy.Decide(p.Dst, p.Src).Masquerade
}

// errorSource is the address that an error leaves with by port out: the
// primary one of the interface (RFC 1812 4.3.2.4), or where it has none that
// may be seen outside, an external one. 0 is none.
func (s *Snapshot) errorSource(out fib.PortID, dst uint32) uint32 {
	addr := s.Routes.Interface(out).Primary
	if !s.leavesOutside(out, dst) || addr != 0 && !s.Policy.Decide(addr, dst).Masquerade {
		return addr
	}
	if s.Pools[out] == nil {
		return 0
	}
	if x := s.Pools[out].External(dst); x != nil {
		return x.Address()
	}
	return 0
}

// rejectHeld is reject for a frame that has waited for a neighbour, and has been
// translated meanwhile.
func (w *Worker) rejectHeld(x *held, r verdict.Reason) {
	var p packet.Packet
	if errorFor[r] != NoError && w.restore(x, &p) {
		w.reject(x.desc, w.frame(x.desc), &p, x.in, r)
		return
	}
	w.drop(x.desc, r)
}

// restore gives a held packet the tuple and the time to live back that it
// arrived with: its sender knows no other. The flow tells the tuple. Packets
// without one are fragments and ICMP errors, our own among them.
func (w *Worker) restore(x *held, p *packet.Packet) bool {
	frame := w.frame(x.desc)
	if packet.Parse(frame, p) != verdict.None || p.Is(packet.FlagFragment|packet.FlagICMPError) {
		return false
	}
	flow, dir := w.flows.Find(key(p).Reverse(), w.now)
	if flow == nil {
		return false
	}
	arrived := flow.Tuple(dir.Opposite())
	if arrived.Src != x.src {
		return false
	}
	if flow.Kind() == conntrack.ServiceDSR && p.Is(packet.FlagOptions) {
		n := dsr.Strip(frame)
		x.desc.Addr += uint64(n)
		x.desc.Len -= uint32(n)
		if frame = w.frame(x.desc); packet.Parse(frame, p) != verdict.None {
			return false
		}
	}
	nat.Rewrite(frame, p, arrived)
	nat.RestoreTTL(frame, p)
	return true
}
