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
// and sends for the records of the sources that are to be translated.
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
			list.Source(w.lookup.Keys[k].Src)
		}
	}
	list.Send()
	for left := a.decided; left != 0; left &= left - 1 {
		list.SourceRecord(w.lookup.Keys[bits.TrailingZeros64(left)].Src)
	}
	list.Send()
	w.aheadMappings(list, 0)
	list.Send()
	w.sendAhead(0)
}

// sendAhead sends for the memory that the flows of the stride of lookup slots that
// begins at `at` will need to begin. The stride after it is prepared: which port a
// flow gets can be foreseen when it is known which ones are free.
func (w *Worker) sendAhead(at int) {
	list := w.flows.Ahead()
	w.aheadMappings(list, at+conntrack.Stride)
	w.aheadFlows(list, at)
	list.Send()
}

// stride are the bits of the stride of lookup slots that begins at `at` for which
// flows were decided on.
func (a *ahead) stride(at int) uint64 {
	return a.decided >> at & (1<<conntrack.Stride - 1) << at
}

// aheadMappings lists what has to be known of the mappings of a stride.
func (w *Worker) aheadMappings(list *conntrack.Ahead, at int) {
	for left := w.ahead.stride(at); left != 0; left &= left - 1 {
		k := bits.TrailingZeros64(left)
		if d := &w.ahead.decision[k]; d.maps() {
			d.hint = w.alloc.Ahead(list, w.flows, w.snapshot.Pools[d.Hop.Port], &w.lookup.Keys[k])
		}
	}
}

// aheadFlows lists what the flows of a stride need, whose mappings were foreseen.
func (w *Worker) aheadFlows(list *conntrack.Ahead, at int) {
	n := 0
	for left := w.ahead.stride(at); left != 0; left &= left - 1 {
		k := bits.TrailingZeros64(left)
		switch d := &w.ahead.decision[k]; {
		case d.maps():
			w.alloc.AheadPort(list, w.flows, &d.hint, &w.lookup.Keys[k], &d.Target, w.now)
			n++
		case d.Reason == verdict.None:
			list.Tuple(d.Target.Reverse())
			n++
		}
	}
	list.Free(n)
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
