package nat

import (
	"slices"

	"sluice/conntrack"
	"sluice/internal/verdict"
)

// Pool is the external addresses that flows leaving by one way out are
// masqueraded to. It is immutable; a change of addresses makes another one.
type Pool struct {
	externals []*conntrack.External
	addrs     []uint32 // theirs, side by side: an External is far from the next one
}

// NewPool makes a pool of the addresses, whose order does not matter.
func NewPool(externals ...*conntrack.External) *Pool {
	p := &Pool{externals: slices.Clone(externals)}
	for _, x := range externals {
		p.addrs = append(p.addrs, x.Address())
	}
	return p
}

// External returns the address that a source without mappings is masqueraded
// to, nil if the pool is empty. It follows from source and pool alone: all
// workers agree without asking each other, and so do the processes before and
// after a restart. When an address comes or goes, only the sources move that get
// it or had it (rendezvous hashing). It costs a few nanoseconds an address.
func (p *Pool) External(src uint32) *conntrack.External {
	if len(p.externals) == 0 {
		return nil
	}
	best, most := 0, uint64(0)
	for i, addr := range p.addrs {
		if score := mix(uint64(src)<<32 | uint64(addr)); score > most {
			best, most = i, score
		}
	}
	return p.externals[best]
}

// paired returns the address for one more mapping of the source: the one that its
// mappings have already, as long as that is in the pool, so that a change of the
// pool splits no source over two addresses (RFC 4787 REQ-2, RFC 6888 REQ-2).
func (p *Pool) paired(source *conntrack.Source) *conntrack.External {
	if x := p.at(source.External()); x != nil {
		return x
	}
	return p.External(source.Address())
}

// at returns the pool's external address addr, nil if it has none. 0 is none.
func (p *Pool) at(addr uint32) *conntrack.External {
	if addr == 0 {
		return nil
	}
	if i := slices.Index(p.addrs, addr); i >= 0 {
		return p.externals[i]
	}
	return nil
}

// choose returns the address for a new flow of an inside address: where there are
// several, with the source, a reference to which is the caller's.
func (p *Pool) choose(w *conntrack.Worker, inside uint32) (*conntrack.External, *conntrack.Source, verdict.Reason) {
	if p == nil || len(p.externals) == 0 {
		return nil, nil, verdict.NoExternalAddress
	}
	if len(p.externals) == 1 {
		return p.externals[0], nil, verdict.None
	}
	source, r := w.Source(inside)
	if r != verdict.None {
		return nil, nil, r
	}
	return p.paired(source), source, verdict.None
}

// Holds reports whether addr is one of the pool's.
func (p *Pool) Holds(addr uint32) bool { return slices.Contains(p.addrs, addr) }

// mix is MurmurHash3's 64-bit finalizer: a bijection in which every bit of x
// changes every bit of the result with a probability of about one half.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// For returns the address for one more flow of an inside address, nil where the
// pool is empty or nil.
func (p *Pool) For(w *conntrack.Worker, inside uint32) *conntrack.External { return p.now(w, inside) }

// Others returns the pool's addresses, in no order that matters.
func (p *Pool) Others() []*conntrack.External {
	if p == nil {
		return nil
	}
	return p.externals
}
