package conntrack

// Look calls f with the control plane's worker, for those that ask the table a
// question and belong to no worker. Records that f sees are not reused before it
// returns, which therefore must be soon: meanwhile nothing that ended anywhere is.
// Calls are one at a time.
func (t *Table) Look(f func(*Worker)) {
	t.control.Lock()
	defer t.control.Unlock()
	w := t.workers[len(t.workers)-1]
	w.Online()
	defer w.Offline()
	f(w)
}

// Table is the table that the worker belongs to.
func (w *Worker) Table() *Table { return w.table }

// Now is the time of the worker's last look-up.
func (w *Worker) Now() Tick { return w.now }

// FindSource returns the record of an inside address with a reference, or nil.
func (w *Worker) FindSource(addr uint32) *Source {
	k := sourceKey(addr, 0)
	word := w.table.find(k, w.table.seed.hash(k), kindSource)
	if word == 0 {
		return nil
	}
	if s := &w.table.sources[slotID(word)]; join(&s.refs) {
		return s
	}
	return nil
}

// Reserved reports whether the port is kept from being given out, since a socket
// of the host uses it, or a service.
func (x *External) Reserved(proto uint8, port uint16) bool {
	space, ok := portSpace(proto)
	return ok && x.reserved[space][port/64].Load()&(1<<(port%64)) != 0
}

// ReservedBy reports whether `by` reserves the port. It is for the control plane.
func (x *External) ReservedBy(by Reserver, proto uint8, port uint16) bool {
	space, ok := portSpace(proto)
	if !ok || by >= reservers {
		return false
	}
	x.control.Lock()
	defer x.control.Unlock()
	set := x.reserves[by][space]
	return set != nil && set[port/64]&(1<<(port%64)) != 0
}
