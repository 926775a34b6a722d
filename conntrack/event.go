package conntrack

import (
	"sync/atomic"

	"sluice/internal/verdict"
)

// EventType says what happened to a flow.
type EventType uint8

const (
	EventNew EventType = iota
	EventState
	EventEnd
)

var eventWords = [...]string{EventNew: "new", EventState: "state", EventEnd: "end"}

// String returns the type's word.
func (e EventType) String() string {
	if int(e) >= len(eventWords) {
		return "unknown-event"
	}
	return eventWords[e]
}

// Event is a birth, change of state or end of a flow, with all that is known of
// it, since the record may be another's by the time the event is read.
type Event struct {
	Original, Reply Tuple
	Packets, Bytes  [2]uint64 // so far, by Direction
	ID, Generation  uint32
	At, Created     Tick
	Backend         uint32
	Service         uint16
	Type            EventType
	State           State          // that it entered, or ended in
	Reason          verdict.Reason // why it ended; None = silence
	Kind            Kind
}

const defaultEvents = 1024

// Ring holds one worker's events until they are read: one writer, the worker,
// and one reader. Nothing is written before the first Read, so that it costs
// nothing where nobody watches. Events that find it full are lost and counted;
// the worker never waits.
type Ring struct {
	open atomic.Bool
	mask uint64
	ring []Event

	_    [cacheLine]byte
	tail atomic.Uint64 // events written, by the worker
	lost atomic.Uint64
	_    [cacheLine - 16]byte
	head atomic.Uint64 // events read
}

func (r *Ring) init(events int) {
	if events <= 0 {
		events = defaultEvents
	}
	size := 1
	for size < events {
		size *= 2
	}
	r.ring, r.mask = make([]Event, size), uint64(size-1)
}

// write stores an event. The store of tail releases what was written into the
// slot; the load of head acquires the reader's being done with it.
func (r *Ring) write(what EventType, id uint32, f *Flow, state State, why verdict.Reason, now Tick) {
	tail := r.tail.Load()
	if tail-r.head.Load() > r.mask {
		r.lost.Store(r.lost.Load() + 1)
		return
	}
	e := &r.ring[tail&r.mask]
	e.Original, e.Reply = f.tuple[0], f.tuple[1]
	for d := range f.packets {
		e.Packets[d], e.Bytes[d] = atomic.LoadUint64(&f.packets[d]), atomic.LoadUint64(&f.bytes[d])
	}
	e.ID, e.Generation = id, f.generation
	e.At, e.Created = now, f.created
	e.Backend, e.Service, e.Kind = f.backend, f.service, f.Kind()
	e.Type, e.State, e.Reason = what, state, why
	r.tail.Store(tail + 1)
}

// Read moves events, oldest first, into e, and returns how many, and how many
// were lost since the ring was made. Only one goroutine may read a ring.
func (r *Ring) Read(e []Event) (n int, lost uint64) {
	r.open.Store(true)
	head, tail := r.head.Load(), r.tail.Load()
	for n < len(e) && head != tail {
		e[n] = r.ring[head&r.mask]
		n, head = n+1, head+1
	}
	r.head.Store(head)
	return n, r.lost.Load()
}

// Close ends the writing of events, and drops those that were not read, so that
// the ring costs nothing again until the next Read. It belongs to the reader.
func (r *Ring) Close() {
	r.open.Store(false)
	r.head.Store(r.tail.Load())
}

// Rings are the rings of all workers, the control plane's included.
func (t *Table) Rings() []*Ring {
	rings := make([]*Ring, 0, len(t.workers))
	for _, w := range t.workers {
		rings = append(rings, &w.events)
	}
	return rings
}
