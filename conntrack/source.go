package conntrack

import (
	"sync/atomic"

	"sluice/internal/verdict"
)

// Source is an inside address that has mappings: 32 bytes. It lives as long as
// one of them, or whoever asked for it, holds a reference.
type Source struct {
	addr       uint32
	zone       uint16
	_          uint16
	generation uint32

	external atomic.Uint32 // address that its first mapping got; 0 = none yet
	refs     atomic.Uint32 // 0 = ended
	flows    atomic.Uint32 // live flows by all its mappings
	link     atomic.Uint32
	ports    atomic.Uint32 // mappings that have a port, or a share in one
}

// Address is the inside address.
func (s *Source) Address() uint32 { return s.addr }

// Flows is how many live flows are masqueraded for the source.
func (s *Source) Flows() int { return int(s.flows.Load()) }

// Ports is how many external ports the source's mappings use.
func (s *Source) Ports() int { return int(s.ports.Load()) }

// External is the external address that the source is paired with (RFC 4787
// REQ-2), 0 while there is none.
func (s *Source) External() uint32 { return s.external.Load() }

// Pair gives the source an external address unless it has one, and returns the
// one it has: of several workers the first decides.
func (s *Source) Pair(external uint32) uint32 {
	if now := s.external.Load(); now != 0 {
		return now
	}
	s.external.CompareAndSwap(0, external)
	return s.external.Load()
}

func (s *Source) key() key { return sourceKey(s.addr, s.zone) }

// Source returns the record of an inside address with a reference, making it if
// need be.
func (w *Worker) Source(addr uint32) (*Source, verdict.Reason) {
	t := w.table
	k := sourceKey(addr, 0)
	h := t.seed.hash(k)
	if word := t.find(k, h, kindSource); word != 0 {
		if s := &t.sources[slotID(word)]; join(&s.refs) {
			return s, verdict.None
		}
	}
	id := w.sources.take()
	if id == 0 {
		return nil, verdict.SourceTableFull
	}
	s := &t.sources[id]
	s.addr, s.zone = addr, 0
	s.generation++
	s.external.Store(0)
	s.flows.Store(0)
	s.ports.Store(0)
	s.refs.Store(1)
	for {
		word, out := t.insert(k, h, tag(h)|kindSource|uint64(id))
		switch out {
		case inserted:
			add(&w.sourceCount, 1)
			return s, verdict.None
		case full:
			w.dropSource(s, id)
			return nil, verdict.SourceTableFull
		}
		if other := &t.sources[slotID(word)]; join(&other.refs) {
			w.dropSource(s, id)
			return other, verdict.None
		}
		t.remove(h, word)
	}
}

// dropSource gives back a record of which only a tentative entry was ever seen.
func (w *Worker) dropSource(s *Source, id uint32) {
	s.refs.Store(0)
	w.sources.bury(id, w.table.epoch.Load())
}

// ReleaseSource gives back a reference that no mapping took over.
func (w *Worker) ReleaseSource(s *Source) {
	if s.refs.Add(^uint32(0)) != 0 {
		return
	}
	t := w.table
	id := idOf(t.sources, s)
	h := t.seed.hash(s.key())
	t.remove(h, tag(h)|slotLive|kindSource|uint64(id))
	add(&w.sourceCount, -1)
	w.sources.bury(id, t.epoch.Load())
}
