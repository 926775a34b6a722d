package conntrack

import (
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// SetSourceLimit bounds the flows of each source (RFC 6888 REQ-4, REQ-5): Create
// refuses more with SourceLimit. 0 is no bound. Those that a source has beyond it
// already stay.
func (t *Table) SetSourceLimit(n int) { t.sourceLimit.Store(uint32(n)) }

// admit counts a flow to the source of its mapping, or reports that the source
// has as many as it may. Counted first and looked at then: of several workers at
// the limit none gets past it.
func (t *Table) admit(m *Mapping) bool {
	if m == nil || m.source == 0 {
		return true
	}
	flows := &t.sources[m.source].flows
	if limit := t.sourceLimit.Load(); flows.Add(1) > limit && limit != 0 {
		flows.Add(^uint32(0))
		return false
	}
	return true
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
