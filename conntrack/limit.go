package conntrack

import (
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// SetSourceLimit bounds the flows of each source (RFC 6888 REQ-4, REQ-5): Create
// refuses more with SourceLimit. 0 is no bound. Those that a source has beyond it
// already stay.
func (t *Table) SetSourceLimit(n int) { t.sourceLimit.Store(uint32(n)) }

// admit counts a flow to its source, or says why the source may not have it. Counted
// first and looked at then: of several workers at the limit none gets past it.
//
// The source is that of the flow's mapping. A flow without one, or with a mapping that
// is a service's, has a source where it began inside (NewFlow.Inside), by its address:
// its record says so by a bit, and its end finds the source again. As long as there is
// no limit these are not counted, and cost nothing.
func (w *Worker) admit(nf *NewFlow) verdict.Reason {
	t := w.table
	limit := t.sourceLimit.Load()
	nf.counted = false
	var s *Source
	switch {
	case nf.Mapping != nil && nf.Mapping.source != 0:
		s = &t.sources[nf.Mapping.source]
	case limit == 0 || !nf.Inside || nf.Original.Zone != 0:
		return verdict.None
	default:
		var r verdict.Reason
		if s, r = w.Source(nf.Original.Src); r != verdict.None {
			return r
		}
		nf.counted = true
	}
	if s.flows.Add(1) > limit && limit != 0 {
		w.dismiss(nf)
		return verdict.SourceLimit
	}
	return verdict.None
}

// dismiss takes back what admit counted for a flow that there will not be.
func (w *Worker) dismiss(nf *NewFlow) {
	switch {
	case nf.counted:
		w.uncountSource(nf.Original.Src)
	case nf.Mapping != nil:
		nf.Mapping.end(w.table)
	}
}

// uncountSource takes a flow off the source that it was counted to by its address,
// which therefore is there.
func (w *Worker) uncountSource(addr uint32) {
	s := w.FindSource(addr)
	if s == nil {
		return
	}
	s.flows.Add(^uint32(0))
	s.refs.Add(^uint32(0)) // the flow's: FindSource's is another
	w.ReleaseSource(s)
}

// Full reports whether the source has as many flows as it may.
func (t *Table) Full(s *Source) bool {
	limit := t.sourceLimit.Load()
	return limit != 0 && s.flows.Load() >= limit
}

// SourceOf is the source of a mapping, nil where it has none.
func (t *Table) SourceOf(m *Mapping) *Source {
	if m.source == 0 {
		return nil
	}
	return &t.sources[m.source]
}

// restUntil is when the port of a flow that ends now in state s may be given to
// another endpoint, 0 for now. A TCP connection that ended by its time-out was
// silent for that long: it has rested, so that one whose close was seen whole
// does after its TIME-WAIT (the exemption of RFC 6888 REQ-8 A). One that was
// ended by somebody has not. A flow that was never answered and made room has no
// peer in TIME-WAIT, and if its port rested, a flood would use up the ports instead.
func (w *Worker) restUntil(proto uint8, s State, why verdict.Reason) Tick {
	rest := Tick(w.table.rest.Load())
	if proto == packet.ProtoTCP && why == verdict.None {
		rest -= min(rest, w.table.limits.Load().usual[s%stateSpace])
	}
	if rest == 0 || why == verdict.EarlyDrop {
		return 0
	}
	return max(w.now+rest, 1)
}
