package fragment

const (
	holdSize      = 256 // frames of one worker that can wait for first fragments: 1 MiB
	holdDatagram  = 64  // of which for one datagram: the longest one takes 45 at 1500 bytes
	holdPerSource = 128 // and for one source
)

// hold are the frames that wait for the first fragment of their datagram. They are
// copies: a frame of the UMEM that waited for what may never come would be one
// less for the ring that everybody's packets arrive by.
type hold struct {
	frames [holdSize]Frame
	used   uint16 // the first so many have been used, counted from 1
	free   uint16 // first of the list of those that are free again; 0 = none
	n      uint16 // frames that wait
	source [sources]uint16
}

// take returns the id of a free frame, 0 where there is none. Memory that was never
// needed is never touched.
func (h *hold) take() (id uint16) {
	if id = h.free; id != 0 {
		h.free = h.frames[id-1].next
	} else if h.used < holdSize {
		h.used++
		id = h.used
	}
	return id
}

// Crowded is whose held frames must go before another of d can be kept: the
// oldest datagram that waits, of d's own source where that has its share, or d
// itself where it has enough; nil where there is room.
func (s *Store) Crowded(d *Datagram) *Datagram {
	switch {
	case d.held == holdDatagram:
		return d
	case s.hold.source[d.source] == holdPerSource:
		return s.at(s.lists[Waiting].sources[d.source].oldest)
	case s.hold.n == holdSize:
		return s.at(s.lists[Waiting].all.oldest)
	}
	return nil
}

// Hold keeps a copy of a frame that waits for d's first fragment. It reports
// false where there is no room: see Crowded.
func (s *Store) Hold(d *Datagram, in uint8, frame []byte) bool {
	h := &s.hold
	if len(frame) > MaxFrame {
		return false
	}
	id := h.take()
	if id == 0 {
		return false
	}
	f := &h.frames[id-1]
	f.next = 0
	f.fill(in, d.hash, frame)
	if d.held == 0 {
		d.heldFirst = id
	} else {
		h.frames[d.heldLast-1].next = id
	}
	d.heldLast = id
	d.held++
	h.n++
	h.source[d.source]++
	return true
}

// Next is the frame of d that was held first, or nil. It is good until Drop.
func (s *Store) Next(d *Datagram) *Frame {
	if d.held == 0 {
		return nil
	}
	return &s.hold.frames[d.heldFirst-1]
}

// Drop gives the memory of Next back.
func (s *Store) Drop(d *Datagram) {
	h, id := &s.hold, d.heldFirst
	f := &h.frames[id-1]
	d.heldFirst = f.next
	d.held--
	h.n--
	h.source[d.source]--
	f.next, h.free = h.free, id
}

// Held is the number of frames that wait.
func (s *Store) Held() int { return int(s.hold.n) }
