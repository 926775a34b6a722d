package conntrack

import (
	"math/bits"
	"sync/atomic"

	"sluice/internal/packet"
)

// MappingSnapshot is a copy of a mapping, taken at one moment.
type MappingSnapshot struct {
	ID, Generation           uint32
	Inside, External         uint32
	InsidePort, ExternalPort uint16
	Proto                    uint8
	Users                    uint32 // flows that use it, and whoever is about to make one
	Created, LastOut         Tick
	Gone                     bool // its external address was removed
}

// MappingCursor is a place in a walk over the mappings: external address,
// protocol, port. The zero value is the beginning.
type MappingCursor struct{ at, space, port int }

// spaceProtocols are the protocols of an External's arrays.
var spaceProtocols = [portSpaces]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP}

// EachMapping calls fn with the mappings from the cursor on, by external address,
// protocol and external port, until it returns false or there are no more, and
// moves the cursor behind the last one. fn may take its time: it holds nothing
// back. Mappings that begin or end meanwhile may or may not be seen; every other
// one is seen exactly once, if no external address came or went.
func (t *Table) EachMapping(from *MappingCursor, fn func(MappingSnapshot) bool) {
	var buffer [chunk]MappingSnapshot
	for {
		n, more := t.copyMappings(from, &buffer)
		for i := range buffer[:n] {
			m := &buffer[i]
			if !fn(*m) {
				space, _ := portSpace(m.Proto)
				from.space, from.port = space, int(m.ExternalPort)+1
				from.at = t.placeOf(m.External, from.at)
				return
			}
		}
		if !more {
			return
		}
	}
}

// placeOf is the place of an external address, at most `last`, which is where the
// walk has come to.
func (t *Table) placeOf(addr uint32, last int) int {
	list := t.externals.Load().list
	for at := min(last, len(list)-1); at >= 0; at-- {
		if x := list[at]; x != nil && x.addr == addr {
			return at
		}
	}
	return last
}

// copyMappings copies the mappings of the next ports. The control plane's worker
// is online meanwhile, so that none of them is reused: a mapping's id leaves the
// array before its record can be.
func (t *Table) copyMappings(from *MappingCursor, buffer *[chunk]MappingSnapshot) (n int, more bool) {
	t.control.Lock()
	defer t.control.Unlock()
	w := t.workers[len(t.workers)-1]
	w.Online()
	defer w.Offline()
	list := t.externals.Load().list
	for range portWords {
		if from.at >= len(list) {
			return n, false
		}
		x := list[from.at]
		if x == nil || from.space >= portSpaces {
			*from = MappingCursor{at: from.at + 1}
			continue
		}
		if from.port > 0xffff {
			from.space, from.port = from.space+1, 0
			continue
		}
		// A word of the bitmap at a time; the array says who it is.
		word := atomic.LoadUint64(&x.held[from.space*portWords+from.port/64]) >> (from.port % 64) << (from.port % 64)
		for ; word != 0; word &= word - 1 {
			port := from.port&^63 | bits.TrailingZeros64(word)
			if n == len(buffer) {
				from.port = port
				return n, true
			}
			if t.copyMapping(x, from.space, port, &buffer[n]) {
				n++
			}
		}
		from.port = from.port&^63 + 64
	}
	return n, true
}

// copyMapping copies the mapping that holds a port, if one does.
func (t *Table) copyMapping(x *External, space, port int, to *MappingSnapshot) bool {
	id := x.ports[space][port].Load()
	if id == 0 {
		return false
	}
	m := &t.mappings[id]
	refs := m.refs.Load()
	if refs == 0 {
		return false
	}
	*to = MappingSnapshot{
		ID: id, Generation: m.generation, Proto: m.proto,
		Inside: m.inside, InsidePort: m.insidePort, External: m.external, ExternalPort: m.externalPort,
		Users: refs, Created: m.created, LastOut: Tick(m.lastOut.Load()), Gone: x.Gone(),
	}
	return true
}

// Holder returns the mapping that holds a port of an external address, whether
// the address is in use or was removed.
func (t *Table) Holder(proto uint8, external uint32, port uint16) (s MappingSnapshot, known, held bool) {
	t.control.Lock()
	defer t.control.Unlock()
	w := t.workers[len(t.workers)-1]
	w.Online()
	defer w.Offline()
	space, ok := portSpace(proto)
	if !ok {
		return s, false, false
	}
	for _, x := range t.externals.Load().list {
		if x == nil || x.addr != external {
			continue
		}
		known = true
		if t.copyMapping(x, space, int(port), &s) {
			return s, true, true
		}
	}
	return s, known, false
}

// SourceSnapshot is a copy of an inside address that has mappings.
type SourceSnapshot struct {
	Address, External uint32 // External: that it is paired with, 0 = none yet
	Flows             uint32
	Mappings          uint32 // and whoever is about to make one
}

// EachSource calls fn with the inside addresses that have mappings, in no order,
// from the cursor on, as Each does with the flows.
func (t *Table) EachSource(from *Cursor, fn func(SourceSnapshot) bool) {
	type numbered struct {
		SourceSnapshot
		id uint32
	}
	var buffer [chunk]numbered
	for {
		n, start := 0, from.id
		t.Look(func(*Worker) {
			last := min(from.id+8*chunk, t.sourcePool.fresh.Load())
			for from.id < last && n < len(buffer) {
				from.id++
				s := &t.sources[from.id]
				refs := s.refs.Load()
				if refs == 0 {
					continue
				}
				buffer[n] = numbered{SourceSnapshot{s.addr, s.external.Load(), s.flows.Load(), refs}, from.id}
				n++
			}
		})
		for i := range buffer[:n] {
			if !fn(buffer[i].SourceSnapshot) {
				from.id = buffer[i].id
				return
			}
		}
		if from.id == start {
			return
		}
	}
}
