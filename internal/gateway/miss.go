package gateway

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// miss begins the flow of a packet that belongs to none, or returns the reason to
// drop the packet. Only here are policy and addresses consulted: see decide. d is
// the decision, nil where it is not made yet.
func (w *Worker) miss(p *packet.Packet, key conntrack.Tuple, d *Decision) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	// An earlier packet of this burst may have begun the flow already.
	if flow, dir := w.flows.Find(key, w.now); flow != nil {
		return flow, dir, verdict.None
	}
	if d == nil {
		d = &Decision{now: w.now}
		w.snapshot.decide(d, w.flows, w.in, p, key)
	}
	switch {
	case d.Reason == verdict.FragmentationNeeded:
		return nil, 0, w.tooBig(d.Hop.MTU)
	case d.Reason != verdict.None:
		w.manner = mannerOf(d, p.Proto)
		return nil, 0, d.Reason
	case d.Backend != nil:
		return w.balance(p, key, d)
	case d.Mapped != nil:
		return w.admit(p, key, d)
	case d.Maps && packet.Portless(p.Proto):
		return w.masqueradeAddress(p, key, d)
	case d.Maps:
		return w.masquerade(p, key, d)
	case d.Kind == conntrack.PortForward:
		return w.create(p, &conntrack.NewFlow{Original: key, Reply: d.Target.Reverse(), Kind: d.Kind, OutPort: d.Hop.Port})
	}
	return w.create(p, &conntrack.NewFlow{Original: key, Reply: key.Reverse(), Kind: conntrack.Forward, OutPort: d.Hop.Port, NextHop: w.snapshot.decidedHop(d)})
}

// decidedHop is the next hop that a new flow's packets have by the decision that it
// begins with, where onward would have nothing to add to that: what leaves the
// inside without a static forward was asked about just as there, and the address of
// a mapping is one of the pool of the way out. 0 leaves it to forward.
func (s *Snapshot) decidedHop(d *Decision) uint32 {
	if !d.Inside || d.External != nil || d.Static != nil {
		return 0
	}
	return s.hopKey(d.hop)
}

// create inserts a flow. Where another worker was faster with the same packet's
// twin, both use its flow, and the mapping taken for ours is given back.
func (w *Worker) create(p *packet.Packet, nf *conntrack.NewFlow) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	if nf.TCPFlags = p.TCPFlags; nf.First == conntrack.Original {
		nf.InPort, nf.Inside = w.in, w.snapshot.fromInside(w.in, p.Src)
	}
	flow, dir, existed, r := w.flows.Create(nf, w.now)
	if r == verdict.ReplyTupleTaken && w.endStranger(nf) {
		flow, dir, existed, r = w.flows.Create(nf, w.now)
	}
	if nf.Mapping != nil && (existed || r != verdict.None) {
		w.flows.Release(nf.Mapping)
	}
	w.yield(r)
	return flow, dir, r
}

// endStranger ends a forwarded flow that has the tuple in which the replies to a
// masqueraded one will arrive, and reports whether there was one. It began while
// the external address was not Sluice's: by a late reply to an address that had
// just gone and is back now, or by a packet for whoever had the address before.
// As long as it lived, nothing could be masqueraded to that port and peer.
func (w *Worker) endStranger(nf *conntrack.NewFlow) bool {
	if nf.Kind == conntrack.Forward || nf.Reply.Dst == nf.Original.Src {
		return false
	}
	f, _ := w.flows.Find(nf.Reply, w.now)
	return f != nil && f.Kind() == conntrack.Forward && w.flows.Retire(f, verdict.ReplyTupleTaken)
}
