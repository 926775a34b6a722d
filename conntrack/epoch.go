package conntrack

// Epochs tell when nobody can be looking at a record that has ended.
//
// A worker holds pointers to records only between two burst boundaries. At each
// it publishes the global epoch that it sees; the global epoch goes from E to
// E+1 only when every worker that is online has published E. A record buried in
// epoch g, which is read after the last index entry was removed, may be held by
// a worker that published at most g, and at least g-1 since the epoch could not
// have come to g otherwise. While that worker is in its burst, the global epoch
// comes no further than g+1. So in epoch g+2 nobody holds the record.
//
// The worker's loads of records come before its store of local, and whoever
// advances the epoch loads local before the swap that a reuser then loads: Go's
// atomics are sequentially consistent, so the chain orders every old look at a
// record before its reuse.

// Online must be called after Offline, before anything else.
func (w *Worker) Online() {
	for {
		e := w.table.epoch.Load()
		w.local.Store(e)
		// Otherwise the epoch went on while we were not counted; ours would
		// hold it back until our next burst boundary. Correct, but slow.
		if w.table.epoch.Load() == e {
			return
		}
	}
}

// Offline must be called before the worker waits for something: it holds no
// record any more, and others need not wait for it. What it has in limbo it
// frees if it can; the rest waits until it is back.
func (w *Worker) Offline() {
	for range 3 {
		w.Quiesce()
	}
	w.local.Store(0)
}

// Quiesce marks a burst boundary: the worker holds no pointer to any record. It
// costs two loads where nothing has ended.
func (w *Worker) Quiesce() {
	e := w.table.epoch.Load()
	if w.local.Load() != e {
		w.local.Store(e)
	}
	if w.flows.buried()+w.mappings.buried()+w.sources.buried() == 0 {
		return
	}
	e = w.table.advance(e)
	w.flows.reclaim(e)
	w.mappings.reclaim(e)
	w.sources.reclaim(e)
}

// advance moves the global epoch on from e if every worker has seen e, and
// returns the global epoch.
func (t *Table) advance(e uint64) uint64 {
	for _, w := range t.workers {
		if l := w.local.Load(); l != 0 && l != e {
			return t.epoch.Load()
		}
	}
	t.epoch.CompareAndSwap(e, e+1)
	return t.epoch.Load()
}
