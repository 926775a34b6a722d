package gateway

import (
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// Punter takes the packets that reached a worker and are the kernel's: those for
// the gateway's own host, and those whose route leaves by an interface that is
// not listed. The steering program gives such packets to the kernel itself, so
// what comes here is what it could not know: a mapping or a route that went a
// moment ago, an identifier that both NAT and the host use, fragments out of order.
type Punter interface {
	// Punt copies a frame that arrived on port in, and that would otherwise be
	// dropped for reason r, for the kernel to receive there. It reports false
	// where it has no room. It must not block, allocate or keep frame.
	Punt(in fib.PortID, frame []byte, r verdict.Reason) bool
}

// punt gives the kernel a packet that arrived on port in, is as it arrived, and
// that no flow took, if it is the kernel's. It reports whether the frame is dealt
// with; if not, it is to be dropped for reason r.
func (w *Worker) punt(d xdp.Desc, frame []byte, p *packet.Packet, in fib.PortID, r verdict.Reason) bool {
	if w.punter == nil || !w.kernelOwns(p, r) {
		return false
	}
	if !w.punter.Punt(in, frame, r) {
		w.counters.PuntsRefused[r]++
		return false
	}
	w.counters.Punts[r]++
	w.discard(d)
	return true
}

// kernelOwns reports whether a packet that would be dropped for reason r is the
// kernel's. What answers to a port that NAT holds never is: the host knows of no
// such connection and would reset it.
func (w *Worker) kernelOwns(p *packet.Packet, r verdict.Reason) bool {
	switch r {
	case verdict.ProtocolPassed:
		return true // to route or to drop, as it would have without us
	case verdict.KernelRoute:
		// Not where the route is that of an inside host behind the address.
		return w.table.External(p.Dst) == nil
	case verdict.HostOwned, verdict.TTLExpired:
		return w.snapshot.Routes.Local(p.Dst) && !w.held(p)
	case verdict.FragmentUnsupported:
		return w.snapshot.Routes.Local(p.Dst)
	case verdict.FragmentWithoutFirst, verdict.FragmentHoldFull:
		return w.hostFragments(p.Dst, r)
	case verdict.Filtered, verdict.ReplyWithoutFlow, verdict.HairpinDisabled, verdict.ICMPErrorWithoutFlow:
		// The answers to the host's own pings, by an identifier that NAT uses
		// towards others, and errors about the host's own packets. The kernel
		// finds the socket they are for, and answers neither.
		return p.Proto == packet.ProtoICMP && w.snapshot.Routes.Local(p.Dst)
	}
	return false
}

// held reports whether NAT holds the port or identifier that a packet is sent
// to. ICMP has one in echo replies only.
func (w *Worker) held(p *packet.Packet) bool {
	x := w.table.External(p.Dst)
	if x == nil || p.Proto == packet.ProtoICMP && p.ICMPType != packet.ICMPEchoReply {
		return false
	}
	return w.flows.MappingAt(x, p.Proto, p.DstPort) != nil
}
