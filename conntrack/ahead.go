package conntrack

import "unsafe"

// aheadLines is how many lines an Ahead takes: what a stride of flows needs.
const aheadLines = 16 * Stride

// Ahead is a list of the memory that flows which are about to begin will need, to
// be sent for together before the first of them begins. All of it is a guess: a line
// that is not needed costs a few nanoseconds, and one that is missing a cache miss.
// It refers to nothing, and claims nothing.
type Ahead struct {
	w    *Worker
	n    int
	line [aheadLines]unsafe.Pointer
}

// Ahead returns the worker's list, empty.
func (w *Worker) Ahead() *Ahead {
	w.ahead.w, w.ahead.n = w, 0
	return &w.ahead
}

// add puts a line on the list, if there is room.
func (a *Ahead) add(at unsafe.Pointer) {
	if a.n < len(a.line) {
		a.line[a.n] = at
		a.n++
	}
}

// bucket puts on the list the bucket where the chain of k begins.
func (a *Ahead) bucket(k key) {
	t := a.w.table
	a.add(unsafe.Pointer(&t.buckets[reduce(t.seed.hash(k), t.nBuckets)]))
}

// Source puts on the list where an inside address is looked for.
func (a *Ahead) Source(addr uint32) { a.bucket(sourceKey(addr, 0)) }

// SourceRecord puts on the list the record of an inside address, if there is one.
// What Source needs should have come.
func (a *Ahead) SourceRecord(addr uint32) {
	t := a.w.table
	h := t.seed.hash(sourceKey(addr, 0))
	if word := t.buckets[reduce(h, t.nBuckets)].match(tag(h) | slotLive | kindSource&foundMask); word&kindMask == kindSource {
		a.add(unsafe.Pointer(&t.sources[slotID(word)]))
	}
}

// Mapping puts on the list where the mapping of a claim is looked for.
func (a *Ahead) Mapping(c *Claim) {
	if k, ok := c.found(); ok {
		a.bucket(k)
	}
}

// MappingRecord reports whether the claim's endpoint seems to have a mapping, and
// puts its record on the list. What Mapping needs should have come.
func (a *Ahead) MappingRecord(c *Claim) bool {
	k, ok := c.found()
	if !ok {
		return false
	}
	t := a.w.table
	h := t.seed.hash(k)
	word := t.buckets[reduce(h, t.nBuckets)].match(tag(h) | slotLive | kindMapping&foundMask)
	if word&kindMask != kindMapping {
		return false
	}
	a.add(unsafe.Pointer(&t.mappings[slotID(word)]))
	return true
}

// found is the key by which the inside endpoint of a claim finds its mapping, if it
// does.
func (c *Claim) found() (k key, ok bool) {
	switch c.Scope {
	case ScopeEndpoint:
		return mappingKey(c.Proto, c.Inside, c.InsidePort, 0, c.External.addr), true
	case ScopeAddress:
		return towardsKey(c.Proto, c.Inside, c.InsidePort, 0, uint16(c.External.at.Load()), c.Peer), true
	}
	return key{}, false
}

// Port puts on the list what is to be known of a port before it is claimed.
func (a *Ahead) Port(x *External, proto uint8, port uint16) {
	if space, ok := portSpace(proto); ok {
		a.add(unsafe.Pointer(&x.ports[space][port]))
		a.add(unsafe.Pointer(&x.reserved[space][port/64]))
		a.add(unsafe.Pointer(&x.static[space][port/64]))
		a.add(unsafe.Pointer(&x.held[space*portWords+int(port/64)]))
	}
}

// Tuple puts on the list where one of a flow's tuples is looked for and inserted.
func (a *Ahead) Tuple(k Tuple) { a.bucket(k.key()) }

// Free puts on the list the records that a flow and its mapping will be made of when
// n others have begun.
func (a *Ahead) Free(n int) {
	f := &a.w.table.flows[a.w.flows.after(n)]
	a.add(unsafe.Pointer(f))
	a.add(unsafe.Pointer(&f.status))
	a.add(unsafe.Pointer(&a.w.table.mappings[a.w.mappings.after(n)]))
}

// Send sends for what is on the list, and empties it.
func (a *Ahead) Send() {
	prefetchLines(&a.line[0], a.n)
	a.n = 0
}

// PairedWith is the external address that an inside address is paired with, 0 if
// none, without a reference: it may be another the next moment.
func (w *Worker) PairedWith(addr uint32) uint32 {
	t := w.table
	k := sourceKey(addr, 0)
	if word := t.find(k, t.seed.hash(k), kindSource); word != 0 {
		return t.sources[slotID(word)].External()
	}
	return 0
}
