package gateway

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// masquerade begins a flow whose source is translated by a mapping: at
// d.External, or where that is nil, at the address of the pool that the source is
// paired with (RFC 4787 REQ-2).
func (w *Worker) masquerade(p *packet.Packet, key conntrack.Tuple, d *Decision) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	target, out := d.Target, d.Hop.Port
	w.searches.unfinished = false
	search := w.searches.of(&key)
	if search == nil {
		return nil, 0, verdict.PortSearchWaiting
	}
	var m *conntrack.Mapping
	var r verdict.Reason
	if d.External == nil {
		m, r = w.alloc.MapHinted(w.flows, w.snapshot.Pools[out], d.hint, &key, &target, search, w.now)
	} else {
		m, r = w.alloc.MapFlow(w.flows, nil, d.External, &key, &target, search, w.now)
	}
	nf := conntrack.NewFlow{Original: key, Reply: target.Reverse(), Kind: d.Kind, OutPort: out, NextHop: w.snapshot.decidedHop(d)}
	for r == verdict.None {
		nf.Mapping = m
		nf.Reply.Dst, nf.Reply.DstPort = m.External()
		var flow *conntrack.Flow
		var dir conntrack.Direction
		if flow, dir, r = w.create(p, &nf); r != verdict.ReplyTupleTaken {
			return flow, dir, r
		}
		// Another worker was faster with the port, or a flow without a mapping has
		// it towards this peer. The search goes on behind it, and so ends.
		ext := w.table.External(nf.Reply.Dst)
		if ext == nil {
			return nil, 0, r
		}
		m, r = w.alloc.ShareFlow(w.flows, ext, &key, &target, search, w.now)
	}
	w.searches.unfinished = r == verdict.PortSearchWaiting && w.searches.resumed == nil
	w.yield(r)
	return nil, 0, r
}

// admit begins the flow of a packet from outside that filtering lets in. Its
// original direction is that of the inside endpoint: the packet is the first of
// the reply's.
func (w *Worker) admit(p *packet.Packet, key conntrack.Tuple, d *Decision) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	if !w.flows.Join(d.Mapped) {
		return nil, 0, verdict.NoMapping // it ended a moment ago
	}
	nf := conntrack.NewFlow{
		Original: d.Target.Reverse(), Reply: key, Kind: conntrack.Masquerade, Mapping: d.Mapped,
		InPort: d.Hop.Port, OutPort: w.in, First: conntrack.Reply,
	}
	flow, dir, r := w.create(p, &nf)
	if flow != nil && *flow.Answer(conntrack.Original) != key {
		// The inside endpoint has a flow with this peer by another external
		// port, as in the dependent mappings: its answers would leave by that.
		return nil, 0, verdict.ReplyTupleTaken
	}
	return flow, dir, r
}
