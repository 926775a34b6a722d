package gateway

import (
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// maxFragments bounds the work for one packet. The largest frame takes as many
// at an MTU of 128; the 68 of RFC 791 takes 31 for a packet of 1500 bytes.
const maxFragments = 32

// sendFragments sends a packet without DF that is larger than mtu, ready to
// leave but for that: RFC 1812 4.2.2.7. The first fragment stays in the
// packet's own frame, the others get free ones, and all leave in order (RFC
// 4787 REQ-13a). They share the packet's identification: see identify.
func (w *Worker) sendFragments(d xdp.Desc, frame []byte, p *packet.Packet, out fib.PortID, mtu uint16) {
	first, later, ok := w.divide(d, frame, p, int(mtu))
	if !ok {
		return
	}
	w.queue(out, first)
	for _, f := range later {
		w.queue(out, f)
	}
}

// divide makes fragments of at most size bytes out of a packet, counts them, and
// returns them in order; or it drops the packet. later is good until the next call.
func (w *Worker) divide(d xdp.Desc, frame []byte, p *packet.Packet, size int) (first xdp.Desc, later []xdp.Desc, ok bool) {
	cut, ok := packet.NewCut(frame, p, size)
	if !ok || cut.Count > maxFragments {
		w.drop(d, verdict.FragmentationNeeded)
		return d, nil, false
	}
	later = w.pieces[:cut.Count-1]
	if n := w.memory.Allocate(later); n < len(later) {
		w.memory.Free(later[:n])
		w.drop(d, verdict.NoFreeFrame)
		return d, nil, false
	}
	for i := range later {
		later[i].Len = uint32(packet.EthernetLength + size) // room; Later says how much of it is used
		later[i].Len = uint32(cut.Later(i+1, w.frame(later[i]), frame, p))
	}
	d.Len = uint32(cut.First(frame, p))
	w.counters.Fragmented++
	w.counters.Fragments += uint64(cut.Count)
	return d, later, true
}

// sendOversize is sendFragments for a frame that has waited for its neighbour.
// The MTU may be another one by now.
func (w *Worker) sendOversize(x *held, frame []byte, hop *fib.Hop) verdict.Reason {
	var p packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		return r
	}
	if p.Is(packet.FlagDontFragment) {
		return w.tooBig(hop.MTU)
	}
	w.sendFragments(x.desc, frame, &p, hop.Port, hop.MTU)
	return verdict.None
}
