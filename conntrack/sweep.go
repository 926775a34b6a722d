package conntrack

import "sluice/internal/verdict"

// Sweep looks at the next n records, at most all, and ends the flows among them
// that have been silent for too long or whose external address is gone; and at
// some ports, whether their rest is over. It returns how many it ended. The workers share the place where it goes on, so
// that the records are swept by whoever has the time.
func (w *Worker) Sweep(n int, now Tick) int {
	w.now = now
	t := w.table
	t.wakePorts(2+n/16, now)
	// Records beyond were never used. Those that others have taken but not
	// used yet are free, and passed over.
	used := t.flowPool.fresh.Load()
	if used == 0 {
		return 0
	}
	n = min(n, int(used))
	ended := 0
	limits, gone := t.limits.Load(), t.externals.Load().gone > 0
	id := (t.swept.Add(uint32(n)) - uint32(n)) % used
	for range n {
		id++ // ids begin at 1
		f := &t.flows[id]
		if id == used {
			id = 0
		}
		s := status(f.status.Load())
		if s.phase() != phaseLive {
			continue
		}
		switch {
		case limits.idle(s.state(), f.lastSeen(), now) && w.expire(f, s):
			ended++
		case gone && t.orphaned(f):
			if w.Retire(f, verdict.ExternalAddressMoved) {
				ended++
			}
		}
	}
	return ended
}

// orphaned reports whether f is translated to an address that was removed.
func (t *Table) orphaned(f *Flow) bool {
	if f.mapping == 0 {
		return t.homeless(f)
	}
	x := t.externals.Load().list[t.mappings[f.mapping].at]
	return x != nil && x.Gone()
}

// homeless reports whether a flow is translated without a mapping, by or to an
// address that there is no longer: one of a protocol without ports, or of a static
// forward.
func (t *Table) homeless(f *Flow) bool {
	o, a := &f.tuple[Original], &f.tuple[Reply]
	switch f.Kind() {
	case Masquerade, PortForward:
		return a.Dst != o.Src && t.External(a.Dst) == nil || a.Src != o.Dst && t.External(o.Dst) == nil
	}
	return false
}
