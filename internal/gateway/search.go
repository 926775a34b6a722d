package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

const (
	searchSlots     = 32 // packets of one worker that can wait for a port to share
	searchPerSource = 4  // of which of one inside address: it must not starve the others

	// searchPorts is how many ports a worker looks at in one step: some tens of
	// microseconds. Each packet that waits gets a slice, so that one for which
	// nothing is free does not hold up those for which much is; what the
	// slices leave is for packets that arrive.
	searchPorts = 256
	searchSlice = 64
)

// searching is a packet, as it arrived, that waits for its flow's port.
type searching struct {
	desc   xdp.Desc
	in     fib.PortID
	framed bool // there is a frame: none of a fragment, whose search goes on without it
	key    conntrack.Tuple
	p      packet.Packet
	ports  nat.Search
}

// searches are the packets whose search for a port to share needs more than one
// step, in order of arrival. They are bounded in total and for each source.
type searches struct {
	n       int
	turn    int // whose slice is next
	waiting [searchSlots]searching

	begun      nat.Search  // of the packet at hand
	resumed    *nat.Search // of the one that waited, while it is tried again
	unfinished bool        // begun has to go on
}

// of is the search of the packet at hand. It is nil where another packet of its
// flow waits already: a retransmission begins no second search.
func (s *searches) of(key *conntrack.Tuple) *nat.Search {
	if s.resumed != nil {
		return s.resumed
	}
	for i := range s.waiting[:s.n] {
		if s.waiting[i].key == *key {
			return nil
		}
	}
	s.begun = nat.Search{}
	return &s.begun
}

// room reports whether another packet of src may wait.
func (s *searches) room(src uint32) bool {
	if s.n == searchSlots {
		return false
	}
	same := 0
	for i := range s.waiting[:s.n] {
		if s.waiting[i].key.Src == src {
			same++
		}
	}
	return same < searchPerSource
}

// holdSearch follows PortSearchWaiting of a packet that has just arrived, and keeps
// what is needed to go on: the frame, too, where framed is set. It returns None where
// it took that, otherwise the reason to drop it.
func (w *Worker) holdSearch(d xdp.Desc, p *packet.Packet, framed bool) verdict.Reason {
	s := &w.searches
	if !s.unfinished {
		return verdict.PortSearchWaiting
	}
	s.unfinished = false
	if !s.room(p.Src) {
		return verdict.PortSearchLimit
	}
	s.waiting[s.n] = searching{desc: d, in: w.in, framed: framed, key: key(p), p: *p, ports: s.begun}
	s.n++
	w.counters.SearchesHeld++
	if !framed {
		return verdict.PortSearchWaiting
	}
	return verdict.None
}

// goOnSearching gives the packets that wait their slices, at the beginning of a
// step.
func (w *Worker) goOnSearching() {
	s := &w.searches
	in := w.in
	for tried := s.n; tried > 0 && w.alloc.Allowed() > searchSlice; tried-- {
		if s.turn >= s.n {
			s.turn = 0
		}
		rest := w.alloc.Allowed() - searchSlice
		w.alloc.Allow(searchSlice)
		over := w.search(&s.waiting[s.turn])
		w.alloc.Allow(rest + w.alloc.Allowed())
		if !over {
			s.turn++
			continue
		}
		s.n--
		copy(s.waiting[s.turn:s.n], s.waiting[s.turn+1:s.n+1])
	}
	w.in = in
	w.free()
}

// search tries a packet again that waits: decided anew, since addresses and policy
// may have changed, but for where its search goes on. It reports whether the packet
// is on its way or dropped.
func (w *Worker) search(x *searching) (over bool) {
	w.in = x.in
	w.searches.resumed = &x.ports
	r := w.resumeFlow(x)
	w.searches.resumed = nil
	switch {
	case r == verdict.PortSearchWaiting:
		return false
	case r != verdict.None && x.framed:
		w.reject(x.desc, w.frame(x.desc), &x.p, x.in, r)
	}
	return true
}

func (w *Worker) resumeFlow(x *searching) verdict.Reason {
	if x.framed {
		return w.deliver(x.desc, &x.p, x.key, nil, nil, 0)
	}
	_, _, r := w.miss(&x.p, x.key, nil)
	return r
}

// framesSearching is how many frames wait for a port.
func (w *Worker) framesSearching() (n int) {
	for i := range w.searches.waiting[:w.searches.n] {
		if w.searches.waiting[i].framed {
			n++
		}
	}
	return n
}
