package nat

import (
	"sluice/conntrack"
	"sluice/internal/verdict"
)

// Hint is what MapFlow will most likely do for a flow that is about to begin: a
// guess, which claims nothing and need not hold.
type Hint struct {
	external *conntrack.External // nil: no guess
	port     uint16              // of it, 0: no guess
}

// Ahead begins a hint for the flow with this tuple, and puts on the list the memory
// by which AheadPort goes on. The record of the source should have come.
func (a *Allocator) Ahead(list *conntrack.Ahead, w *conntrack.Worker, pool *Pool, key *conntrack.Tuple) Hint {
	if pool == nil || len(pool.externals) == 0 {
		return Hint{}
	}
	x := a.guess(w, pool, key.Src)
	c := a.likely(key, x)
	list.Mapping(&c)
	list.Port(x, key.Proto, key.SrcPort)
	return Hint{external: x}
}

// AheadPort chooses the port for a hint whose memory should have come, unless the
// endpoint has a mapping, and puts on the list what MapFlow, and then the insertion of the
// flow's reply, will need. target is MapFlow's.
func (a *Allocator) AheadPort(list *conntrack.Ahead, w *conntrack.Worker, h *Hint, key, target *conntrack.Tuple, now conntrack.Tick) {
	if h.external == nil {
		return
	}
	c := a.likely(key, h.external)
	if list.MappingRecord(&c) || !a.candidate(w, &c, true, now) || c.Early {
		return
	}
	h.port = c.Port
	if c.Port != key.SrcPort {
		list.Port(h.external, key.Proto, c.Port)
	}
	reply := target.Reverse()
	reply.Dst, reply.DstPort = h.external.Address(), c.Port
	list.Tuple(reply)
}

// guess is the external address that a source most likely gets of a pool. The last
// one is kept, since a host often begins several flows; it may have changed.
func (a *Allocator) guess(w *conntrack.Worker, pool *Pool, src uint32) *conntrack.External {
	if len(pool.externals) == 1 {
		return pool.externals[0]
	}
	if g := &a.guessed; g.pool != pool || g.src != src {
		x := pool.at(w.PairedWith(src))
		if x == nil {
			x = pool.External(src)
		}
		*g = guess{pool, src, x}
	}
	return a.guessed.external
}

// guess is an answer of Allocator.guess.
type guess struct {
	pool     *Pool
	src      uint32
	external *conntrack.External
}

// likely is the claim by which MapFlow looks for a flow's mapping.
func (a *Allocator) likely(key *conntrack.Tuple, x *conntrack.External) conntrack.Claim {
	c := conntrack.Claim{Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: x, Peer: key.Dst}
	switch a.behaviour.Mapping {
	case MapAddress:
		c.Scope = conntrack.ScopeAddress
	case MapAddressAndPort:
		c.Scope = conntrack.ScopeFlow
	}
	return c
}

// MapHinted is MapFlow at an address of the pool, which tries the port of the hint
// first.
func (a *Allocator) MapHinted(w *conntrack.Worker, pool *Pool, h Hint, key, target *conntrack.Tuple, s *Search, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	return a.mapFlow(w, pool, nil, h.port, key, target, s, now)
}
