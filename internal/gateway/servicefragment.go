package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// followsService reports whether fragment p is of a datagram to a service, whose
// port the first fragment alone has, or is what a backend sends a client itself.
func (s *Snapshot) followsService(p *packet.Packet) bool {
	return s.Balance.Table != nil && (s.serves(p.Dst) || s.serves(p.Src))
}

// fragmentAtService is atService for a fragment that has its datagram's ports,
// lent or its own, and reports whether it took the frame or has a reason to drop
// it.
func (w *Worker) fragmentAtService(d xdp.Desc, frame []byte, p *packet.Packet) (took bool, r verdict.Reason) {
	switch w.snapshot.serviceTakes(w.flows, w.in, p, w.now) {
	case takesDirect:
		flow, _ := w.snapshot.direct(w.flows, w.in, key(p), w.now)
		return true, w.passDirect(d, frame, p, flow)
	case takesEcho:
		// Hosts test an address with small pings. To answer a large one means to
		// put it together.
		return true, verdict.FragmentUnsupported
	}
	return false, verdict.None
}

// sendDivided sends a packet that does not fit its way with extra bytes around it,
// and may be divided: its fragments, each in a tunnel packet of its own (RFC 4459
// 3.1). The receiver takes them out one by one; in fragments, the tunnel's packets
// would be of no use to an eBPF program.
func (w *Worker) sendDivided(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow, hop *fib.Hop, extra int) {
	first, later, ok := w.divide(d, frame, p, int(hop.MTU)-extra)
	if !ok {
		return
	}
	w.sendPiece(first, flow, hop, extra)
	for _, f := range later {
		w.sendPiece(f, flow, hop, w.snapshot.Balance.Dispatch.Bare())
	}
}

// sendPiece sends a fragment by the dispatch.
func (w *Worker) sendPiece(d xdp.Desc, flow *conntrack.Flow, hop *fib.Hop, extra int) {
	var p packet.Packet
	packet.Parse(w.frame(d), &p) // of our own making
	src := p.Src
	d, frame := w.dispatch(d, w.frame(d), &p, flow, hop, extra)
	w.send(d, frame, &p, src, hop)
}
