package fib

import (
	"cmp"
	"net/netip"
	"slices"
)

// SteerPrefix is an entry of the steering program's prefix map: whether packets
// whose longest match this prefix is go to a worker or stay with the kernel.
type SteerPrefix struct {
	Prefix   netip.Prefix
	ToWorker bool
}

// Steer returns the prefixes of the steering program's map, sorted by address
// and length, beginning with 0.0.0.0/0, without those that repeat what their
// shorter neighbour says. It compiles them anew on every call.
//
// A prefix goes to the worker where its route leaves by a listed interface, or
// where there is nothing to leave by (no route, unreachable, prohibit,
// blackhole): the worker answers or drops by name. Where rules that select by
// source or interface make several answers possible, the worker gets the prefix
// if any of them leaves by a listed interface; else the kernel does, if any of
// them is its.
func (s *Snapshot) Steer() []SteerPrefix {
	set := map[netip.Prefix]struct{}{netip.PrefixFrom(netip.IPv4Unspecified(), 0): {}}
	for i := range s.routing.steps {
		st := &s.routing.steps[i]
		if st.table != nil {
			for p := range st.table.All4() {
				set[p] = struct{}{}
			}
		}
		set[netip.PrefixFrom(Addr(st.to), onesOf(st.toMask))] = struct{}{}
	}
	all := make([]SteerPrefix, 0, len(set))
	reached := make([]bool, len(s.routing.steps)+1)
	for p := range set {
		all = append(all, SteerPrefix{p, s.routing.toWorker(p, reached)})
	}
	slices.SortFunc(all, func(a, b SteerPrefix) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return withoutRepetition(all)
}

// withoutRepetition drops the prefixes that say what the longest shorter one
// says. all is sorted: a prefix follows those that contain it.
func withoutRepetition(all []SteerPrefix) []SteerPrefix {
	kept := all[:0]
	var outer []SteerPrefix // the kept ones that contain the one at hand
	for _, p := range all {
		for len(outer) > 0 && !outer[len(outer)-1].Prefix.Contains(p.Prefix.Addr()) {
			outer = outer[:len(outer)-1]
		}
		if len(outer) > 0 && outer[len(outer)-1].ToWorker == p.ToWorker {
			continue
		}
		kept, outer = append(kept, p), append(outer, p)
	}
	return kept
}

// toWorker decides for the destinations in p that are in no longer prefix of any
// table and rule: for them every table has one answer and every `to` is decided,
// only `from` and `iif` are open. reached is scratch, one longer than the steps.
func (r *routing) toWorker(p netip.Prefix, reached []bool) bool {
	clear(reached)
	reached[0] = true
	forward, kernel := false, false
	note := func(t HopType) {
		forward = forward || t == Forward
		kernel = kernel || t == Kernel || t == Local || t == Broadcast
	}
	for i := range r.steps {
		st := &r.steps[i]
		if !reached[i] {
			continue
		}
		may, must := st.selects(p)
		if !must {
			reached[i+1] = true
		}
		switch {
		case !may:
		case st.table != nil:
			e, ok := st.table.LookupPrefix(p)
			if !ok || !st.accepts(e) {
				reached[i+1] = true
				continue
			}
			for _, path := range r.paths[e.first : e.first+e.count] {
				note(path.answer.Type)
			}
		case st.jump != 0:
			reached[st.jump] = true
		default:
			note(st.verdict.answer.Type)
		}
	}
	return forward || !kernel
}

// selects reports whether the rule may match packets to p, and whether it
// matches all of them.
func (st *step) selects(p netip.Prefix) (may, must bool) {
	to := U32(p.Addr())&st.toMask == st.to && p.Bits() >= onesOf(st.toMask)
	may = to && !st.never
	must = may && st.anyIn && st.fromMask == 0
	if st.invert {
		may, must = !must, !may
	}
	return may, must
}
