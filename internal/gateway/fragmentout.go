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
	cut, ok := packet.NewCut(frame, p, int(mtu))
	if !ok || cut.Count > maxFragments {
		w.drop(d, verdict.FragmentationNeeded)
		return
	}
	later := w.pieces[:cut.Count-1]
	if n := w.memory.Allocate(later); n < len(later) {
		w.memory.Free(later[:n])
		w.drop(d, verdict.NoFreeFrame)
		return
	}
	for i := range later {
		later[i].Len = uint32(packet.EthernetLength) + uint32(mtu) // room; Later says how much of it is used
		later[i].Len = uint32(cut.Later(i+1, w.frame(later[i]), frame, p))
	}
	d.Len = uint32(cut.First(frame, p))
	w.queue(out, d)
	for _, f := range later {
		w.queue(out, f)
	}
	w.counters.Fragmented++
	w.counters.Fragments += uint64(cut.Count)
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
