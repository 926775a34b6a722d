package fragment

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Stage is how far a datagram has come. Each has its own room, so that a flood of
// fragments that nobody vouches for takes nothing from datagrams of flows (RFC
// 4787 REQ-14a).
type Stage uint8

const (
	Waiting   Stage = iota // its first fragment has not come
	Following              // it belongs to a flow, and what comes follows the first
	Refused                // its first fragment was not forwarded, or its pieces do not agree
	stages
)

// stageRoom is how many datagrams of one worker can be in a stage, and
// stageTicks for how long: a fragment out of order is late by milliseconds; the
// rest is as long as Linux waits (ipfrag_time; RFC 1122 3.3.2 has 60 to 120 s).
var (
	stageRoom  = [stages]uint16{Waiting: 256, Following: 512, Refused: 256}
	stageTicks = [stages]conntrack.Tick{Waiting: 50, Following: 300, Refused: 300}
)

const (
	storeSize = 256 + 512 + 256
	buckets   = 1024 // of the index, a power of two
	sources   = 64   // source addresses share these counts by hash, a power of two
	share     = 4    // a source has at most this part of a stage's room (RFC 6274)
)

// Datagram is one that passes in fragments.
type Datagram struct {
	Key   Key
	Stage Stage

	// What the first fragment told: its ports and ICMP type, as package packet
	// has them.
	srcPort, dstPort uint16
	icmpType         uint8

	about   conntrack.Tuple // where it is an ICMP error
	isError bool

	// Reason is why what follows is dropped, in stage Refused.
	Reason verdict.Reason

	// ID is the identification that all its fragments leave with, where Named.
	ID    uint16
	Named bool

	pieces pieces
	id     uint16
	hash   uint64
	since  conntrack.Tick // that it entered its stage
	source uint8          // whose share it takes

	held                uint16 // frames that wait for its first fragment
	heldFirst, heldLast uint16
	chain               uint16  // next in the bucket of the index
	links               [2]link // in the list of its stage, and of its source there
}

// Learn takes over what a first fragment tells.
func (d *Datagram) Learn(p *packet.Packet) {
	d.srcPort, d.dstPort, d.icmpType = p.SrcPort, p.DstPort, p.ICMPType
}

// LearnError notes that the datagram is an ICMP error about what arrives as the
// tuple, and reports whether that agrees with what was noted before.
func (d *Datagram) LearnError(about conntrack.Tuple) bool {
	if d.isError {
		return d.about == about
	}
	d.about, d.isError = about, true
	return true
}

// Error is what LearnError noted; ok says whether it did.
func (d *Datagram) Error() (about conntrack.Tuple, ok bool) { return d.about, d.isError }

// SamePorts reports whether a first fragment that came again tells the same.
func (d *Datagram) SamePorts(p *packet.Packet) bool {
	return d.srcPort == p.SrcPort && d.dstPort == p.DstPort && d.icmpType == p.ICMPType
}

// Lend gives a later fragment what the first one told.
func (d *Datagram) Lend(p *packet.Packet) {
	p.SrcPort, p.DstPort, p.ICMPType = d.srcPort, d.dstPort, d.icmpType
}

// Hash is that of the datagram's key.
func (d *Datagram) Hash() uint64 { return d.hash }

// Complete reports whether all of it has come.
func (d *Datagram) Complete() bool { return d.pieces.complete() }

// Add notes the fragment p, and reports whether it is one that came before. The
// reason is not None where it does not agree with the others, or is one too many.
func (d *Datagram) Add(p *packet.Packet) (duplicate bool, r verdict.Reason) {
	return d.pieces.add(p.FragOff, p.FragOff+(p.End-p.L4), p.Is(packet.FlagMoreFragments))
}

// Store are the datagrams that one worker has. Its memory is allocated once: 1.7
// MB, two thirds of it for held frames.
type Store struct {
	exchange  *Exchange
	datagrams [storeSize]Datagram // by id, counted from 1
	index     [buckets]uint16
	used      uint16 // the first so many have been used
	free      uint16 // first of those that are free again, linked by chain
	lists     [stages]stageLists
	hold      hold
}

// NewStore makes the store of one worker of x.
func NewStore(x *Exchange) *Store {
	return &Store{exchange: x}
}

func (s *Store) at(id uint16) *Datagram {
	if id == 0 {
		return nil
	}
	return &s.datagrams[id-1]
}

// Find is the datagram with that key, whose hash is given, or nil.
func (s *Store) Find(key Key, hash uint64) *Datagram {
	for d := s.at(*s.bucket(hash)); d != nil; d = s.at(d.chain) {
		if d.Key == key {
			return d
		}
	}
	return nil
}

// The low bits of the hash chose the slot of the Exchange.
func (s *Store) bucket(hash uint64) *uint16 { return &s.index[hash>>32%buckets] }

// sourceOf is the share that a source address has part in.
func (s *Store) sourceOf(src uint32) uint8 {
	return uint8(s.exchange.Hash(Key{Src: src}) % sources)
}

// Full is the datagram that must go before another one from src can enter a
// stage: the oldest of that source where it has its share, else the oldest; nil
// where there is room.
func (s *Store) Full(stage Stage, src uint32) *Datagram {
	l, room := &s.lists[stage], stageRoom[stage]
	if of := &l.sources[s.sourceOf(src)]; of.n >= room/share {
		return s.at(of.oldest)
	}
	if l.all.n >= room {
		return s.at(l.all.oldest)
	}
	return nil
}

// New enters a datagram that waits for its first fragment. There must be room
// (Full), and the caller must have a reference to it (Exchange.Acquire); the
// datagram takes another one.
func (s *Store) New(key Key, hash uint64, now conntrack.Tick) *Datagram {
	id := s.free
	if id == 0 { // the stages' rooms add up to all there are
		s.used++
		id = s.used
	}
	d := s.at(id)
	if s.free != 0 {
		s.free = d.chain
	}
	*d = Datagram{}
	d.id, d.Key, d.hash, d.source = id, key, hash, s.sourceOf(key.Src)
	b := s.bucket(hash)
	d.chain, *b = *b, id
	s.enter(d, Waiting, now)
	s.exchange.retain(hash)
	return d
}

// Move takes a datagram to another stage, where there must be room.
func (s *Store) Move(d *Datagram, to Stage, now conntrack.Tick) {
	s.leave(d)
	s.enter(d, to, now)
}

// Remove forgets a datagram, whose held frames must be gone, and gives its
// reference back.
func (s *Store) Remove(d *Datagram) {
	s.leave(d)
	p := s.bucket(d.hash)
	for *p != d.id {
		p = &s.at(*p).chain
	}
	*p = d.chain
	d.chain, s.free = s.free, d.id
	s.exchange.Release(d.hash)
}

// Restart forgets what came of a datagram without held frames, which waits again
// for its first fragment.
func (s *Store) Restart(d *Datagram, now conntrack.Tick) {
	d.pieces.reset()
	d.Named, d.Reason = false, verdict.None
	s.Move(d, Waiting, now)
}

// Old is a datagram that has been in its stage for as long as it may, or nil.
func (s *Store) Old(now conntrack.Tick) *Datagram {
	for stage := range s.lists {
		d := s.at(s.lists[stage].all.oldest)
		if d != nil && now-d.since >= stageTicks[stage] {
			return d
		}
	}
	return nil
}
