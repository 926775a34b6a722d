package gateway

import (
	"math/bits"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// ahead is what is done for the packets of a burst that seem to belong to no flow
// before the first one is dealt with. To begin a flow one at a time means to wait
// for eight cache misses, one after the other, each of which follows from what is
// known at the beginning.
type ahead struct {
	decided  uint64 // bits of the lookup's slots whose decision is made
	decision [Burst]Decision
}

// decideAhead makes the decisions of a burst that the packets before cannot change,
// and sends for what the first flows need to begin.
func (w *Worker) decideAhead(keys int) {
	a, list := &w.ahead, w.flows.Ahead()
	for k := range keys {
		if !w.lookup.Unmatched(k) {
			continue
		}
		d := &a.decision[k]
		*d = Decision{now: w.now}
		if w.snapshot.decideByRoutes(d, w.table, w.in, &w.packets[w.index[k]], w.lookup.Keys[k]) {
			a.decided |= 1 << k
		}
	}
	w.aheadSources(list, false)
	w.aheadSources(list, true)
	for k := range 2 * conntrack.Stride {
		w.aheadMapping(list, k)
	}
	list.Send()
	for k := range conntrack.Stride {
		w.aheadFlow(list, k)
	}
	list.Send()
}

// aheadSources sends for where the sources of new flows are found, or for what is
// found there.
func (w *Worker) aheadSources(list *conntrack.Ahead, records bool) {
	last := uint32(0) // a host often has several
	for left := w.ahead.decided; left != 0; left &= left - 1 {
		src := w.lookup.Keys[bits.TrailingZeros64(left)].Src
		switch {
		case src == last:
		case records:
			list.SourceRecord(src)
		default:
			list.Source(src)
		}
		last = src
	}
	list.Send()
}

// sendAhead sends for what flows that come after lookup slot k will need: which
// port one gets, and so where its reply is entered, can be foreseen when it is
// known which ones are free. A few lines for each packet, since the processor waits
// with the next when it has sent for a few dozen.
func (w *Worker) sendAhead(k int) {
	list := w.flows.Ahead()
	w.aheadMapping(list, k+2*conntrack.Stride)
	w.aheadFlow(list, k+conntrack.Stride)
	list.Send()
}

// aheadMapping lists what has to be known of the mapping of lookup slot k's flow.
func (w *Worker) aheadMapping(list *conntrack.Ahead, k int) {
	if w.ahead.decided>>k&1 == 0 {
		return
	}
	if d := &w.ahead.decision[k]; d.maps() {
		d.hint = w.alloc.Ahead(list, w.flows, w.snapshot.Pools[d.Hop.Port], &w.lookup.Keys[k])
	}
}

// aheadFlow lists what the flow of lookup slot k needs, whose mapping was foreseen.
func (w *Worker) aheadFlow(list *conntrack.Ahead, k int) {
	if w.ahead.decided>>k&1 == 0 {
		return
	}
	switch d := &w.ahead.decision[k]; {
	case d.Reason != verdict.None:
		return
	case d.maps():
		w.alloc.AheadPort(list, w.flows, &d.hint, &w.lookup.Keys[k], &d.Target, w.now)
	default:
		list.Tuple(d.Target.Reverse())
	}
	between := w.ahead.decided & (1<<k - 1) >> max(k-conntrack.Stride, 0)
	list.Free(bits.OnesCount64(between))
}

// maps reports whether a flow begins whose source has an external port.
func (d *Decision) maps() bool {
	return d.Reason == verdict.None && d.Maps && !packet.Portless(d.Target.Proto)
}

// decidedAhead is the decision on lookup slot k, nil if it is not made yet.
func (w *Worker) decidedAhead(k int) *Decision {
	if w.ahead.decided>>k&1 == 0 {
		return nil
	}
	return &w.ahead.decision[k]
}

// decideByRoutes is decide for what follows from the snapshot alone, so that
// nothing which happens meanwhile can change it: not what is sent to a service or an external address, which depends on
// flows and mappings. It reports whether it decided.
func (s *Snapshot) decideByRoutes(d *Decision, table *conntrack.Table, in uint8, p *packet.Packet, key conntrack.Tuple) bool {
	if s.serves(p.Dst) || table.External(p.Dst) != nil || martian(p) != verdict.None || s.notUnicast(table, p.Src) != verdict.None {
		return false
	}
	d.Target = key
	if d.Inside = s.fromInside(in, p.Src); s.DropForeign && s.foreign(in, p) {
		d.Reason = verdict.ForeignSource
		return true
	}
	s.decideRouted(d, in, p)
	return true
}
