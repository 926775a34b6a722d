package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// maxFrame is the longest frame that a UMEM has.
const maxFrame = 4096

// MaxLooks is how many traces can be on at the same time, and how many captures.
const MaxLooks = 4

// Looks are the traces and captures that are on. They are immutable: when one
// begins or ends, others take their place.
type Looks struct {
	traces   []*Trace
	captures []*Capture
	scratch  []scratch // by worker
}

// NewLooks are at most MaxLooks traces and as many captures, all made for so many
// workers; nil without any.
func NewLooks(workers int, traces []*Trace, captures []*Capture) *Looks {
	if len(traces)+len(captures) == 0 {
		return nil
	}
	return &Looks{traces: traces, captures: captures, scratch: make([]scratch, workers)}
}

// SetLooks has the worker serve traces and captures from its next burst boundary
// on; nil ends all. It may be called from any goroutine.
func (w *Worker) SetLooks(l *Looks) { w.looking.Store(l) }

// chosen says which traces and captures want a packet: a bit for each.
type chosen struct{ traces, captures uint8 }

func (c chosen) any() bool { return c.traces|c.captures != 0 }

// scratch is what a worker that is looked at, by traces or captures, works in.
type scratch struct {
	record TraceRecord     // the packet at hand
	about  conntrack.Tuple // by which its flow is found
	frames [Burst]xdp.Desc // of the burst at hand
	before Counters        // as they were before the packet

	sent  [maxFragments + 8]departure // the frames that it became
	nSent int

	arrived [maxFrame]byte // the frame as it arrived, as much as a capture keeps
	length  int
}

// departure is a frame that was handed to a port.
type departure struct {
	port fib.PortID
	desc xdp.Desc
}

// sending notes frames that are about to leave. Their memory is not written again
// before the burst is over.
func (s *scratch) sending(port fib.PortID, descs []xdp.Desc) {
	for _, d := range descs {
		if s.nSent < len(s.sent) {
			s.sent[s.nSent] = departure{port, d}
			s.nSent++
		}
	}
}

// queued is a port that tells which of its queues the i-th frame of what Receive
// returned last came from.
type queued interface{ Queue(i int) int }

// backlogged is a port that tells how many frames wait in its fullest queue.
type backlogged interface{ Backlog() int }

// maxBacklog is how many frames may wait while packets are looked at. A queue holds
// some two thousand: those that wait now are forwarded together, in a third of the
// time, long before any is lost.
const maxBacklog = 4 * Burst

// lookBurst is burst while a trace or a capture is on. The packets keep their
// order.
func (w *Worker) lookBurst(in fib.PortID, n int) {
	if p, ok := w.ports[in].(backlogged); ok && p.Backlog() > maxBacklog {
		w.looks.unseen(w.id, in, n)
		w.pass(in, n)
		return
	}
	s := &w.looks.scratch[w.id]
	queues, _ := w.ports[in].(queued)
	copy(s.frames[:n], w.frames[:n])
	first := 0 // of those that no filter needs to see
	for i, d := range s.frames[:n] {
		by := w.looks.want(w.id)
		if !by.any() {
			continue
		}
		if w.beginRecord(s, in, d) {
			by = w.looks.mayMatch(by, &s.record)
		}
		if !by.any() {
			continue
		}
		if s.record.Queue = -1; queues != nil {
			s.record.Queue = queues.Queue(i)
		}
		w.passFrames(in, s.frames[first:i])
		w.passAlone(s, d, by)
		first = i + 1
	}
	w.passFrames(in, s.frames[first:n])
}

// want are those that may want the next packet of a worker.
func (l *Looks) want(worker int) (by chosen) {
	for i, t := range l.traces {
		if t.left.Load() > 0 {
			by.traces |= 1 << i
		}
	}
	for i, t := range l.captures {
		if t.wants(worker) {
			by.captures |= 1 << i
		}
	}
	return by
}

// mayMatch are those of by whose filters may choose a packet whose flow is known.
func (l *Looks) mayMatch(by chosen, r *TraceRecord) chosen {
	for i, t := range l.traces {
		if by.traces&(1<<i) != 0 && !t.filter.Late() && !matches(t.filter, r) {
			by.traces &^= 1 << i
		}
	}
	for i, t := range l.captures {
		if by.captures&(1<<i) != 0 && !t.filter.Late() && !matches(t.filter, r) {
			by.captures &^= 1 << i
		}
	}
	return by
}

// unseen notes n packets of a port that nobody looked at, since the worker was
// behind.
func (l *Looks) unseen(worker int, in fib.PortID, n int) {
	for _, t := range l.traces {
		if t.left.Load() > 0 {
			t.taps[worker].unseen.Add(uint64(n))
		}
	}
	for _, t := range l.captures {
		if t.goesOn() {
			t.taps[worker].unseen[in].Add(uint64(n))
		}
	}
}

// passFrames passes a part of a burst.
func (w *Worker) passFrames(in fib.PortID, frames []xdp.Desc) {
	if n := copy(w.frames[:], frames); n > 0 {
		w.pass(in, n)
	}
}

// beginRecord begins the record of a packet, and reports whether its flow is known
// already. Packets of a flow can be told apart at once; what becomes of others must
// be seen first.
func (w *Worker) beginRecord(s *scratch, in fib.PortID, d xdp.Desc) bool {
	r := &s.record
	*r = TraceRecord{Now: w.now, Snapshot: w.snapshot, In: in, Length: d.Len, Out: fib.NoPort}
	frame := w.frame(d)
	if r.Malformed = packet.Parse(frame, &r.Packet); r.Malformed != verdict.None {
		return false
	}
	p := &r.Packet
	s.about = key(p)
	if p.Is(packet.FlagICMPError) {
		quoted, _, _ := nat.QuotedTuple(frame, p)
		s.about = quoted.Reverse()
		return false
	}
	if p.Is(packet.FlagFragment) {
		return false
	}
	flow, dir := w.flows.Find(s.about, w.now)
	if flow == nil {
		return false
	}
	r.Found.fill(flow, dir)
	r.HasFlow = true
	return true
}

// passAlone passes one packet, whose record was begun, and records it where the
// filter of those that want it chooses it.
func (w *Worker) passAlone(s *scratch, d xdp.Desc, by chosen) {
	r, l := &s.record, w.looks
	if by.traces != 0 {
		w.foresee(s)
	}
	if by.captures != 0 {
		l.arrive(s, w.frame(d), w.id, by)
	}
	// What the queues hold then is the packet's, and what the rings refuse.
	w.transmitAll()
	held := w.hold.n
	s.before = w.counters
	s.nSent = 0
	w.frames[0] = d
	w.led = conntrack.Tuple{}
	w.pass(r.In, 1)
	if r.Malformed == verdict.None && r.Packet.Is(packet.FlagFragment) {
		s.about = w.led
	}
	w.findOut(s, held)
	for i, t := range l.traces {
		if by.traces&(1<<i) != 0 && matches(t.filter, r) {
			t.push(&t.taps[w.id], r)
		}
	}
	for i, t := range l.captures {
		if by.captures&(1<<i) != 0 && matches(t.filter, r) {
			w.capturePacket(s, t)
		}
	}
}

// arrive keeps a packet's frame as it is before the worker changes it, and the
// time of those captures that want it.
func (l *Looks) arrive(s *scratch, frame []byte, worker int, by chosen) {
	most := 0
	for i, t := range l.captures {
		if by.captures&(1<<i) != 0 {
			t.taps[worker].entered = t.clock()
			most = max(most, t.snaplen)
		}
	}
	s.length = copy(s.arrived[:most], frame)
}

func (w *Worker) transmitAll() {
	for i := range w.ports {
		w.transmit(fib.PortID(i))
	}
}

// foresee fills in what follows from the packet before it is passed.
func (w *Worker) foresee(t *scratch) {
	r := &t.record
	r.Found, r.HasFlow = FlowFound{}, false
	p := &r.Packet
	switch {
	case r.Malformed != verdict.None, p.Is(packet.FlagFragment), p.Is(packet.FlagOptions) && w.snapshot.DropOptions:
	case p.Is(packet.FlagICMPError):
		if flow, dir := w.flows.Find(t.about, w.now); flow != nil {
			r.Found.fill(flow, dir)
			r.Outcome.Flow = &r.Found
		}
	default:
		r.Outcome.Decision.hurried = true
		w.snapshot.foretell(&r.Outcome, &r.Found, w.flows, r.In, p, w.now)
	}
	r.HasFlow = r.Outcome.Flow != nil
}

// findOut fills in what became of the packet. held is how many waited before.
func (w *Worker) findOut(t *scratch, held int) {
	r, c, b := &t.record, &w.counters, &t.before
	for i := range w.ports {
		if q := &w.out[i]; q.n > 0 {
			r.left(Sent, fib.PortID(i), w.frame(q.descs[0]))
			t.sending(fib.PortID(i), q.descs[:q.n])
		}
	}
	if w.hold.n > held {
		x := &w.hold.waiting[held]
		r.left(Held, x.port, w.frame(x.desc))
	}
	w.transmitAll()
	r.Completed = c.Completed != b.Completed
	r.Fragments = int(c.Fragments - b.Fragments)
	r.ErrorLimited = c.ErrorsLimited != b.ErrorsLimited
	r.Reset = c.Services.Resets != b.Services.Resets
	if c.ARPReplies != b.ARPReplies || c.EchoReplies != b.EchoReplies {
		r.Fate = Answered
	}
	for k := range c.Errors {
		if c.Errors[k] != b.Errors[k] {
			r.Error = ErrorKind(k)
		}
	}
	if c.SearchesHeld != b.SearchesHeld {
		r.Fate = Searching
	}
	r.fate(Punted, &c.Punts, &b.Punts)
	r.fate(Dropped, &c.Drops, &b.Drops)
	switch { // whatever had to go for its sake
	case c.FragmentsHeld != b.FragmentsHeld:
		r.Fate, r.Reason = Waiting, verdict.None
	case c.FragmentsHandedOver != b.FragmentsHandedOver:
		r.Fate, r.Reason = HandedOver, verdict.None
	}
	if flow, dir := w.flows.Find(t.about, w.now); flow != nil && r.Malformed == verdict.None {
		if !r.HasFlow {
			r.Found.fill(flow, dir)
			r.HasFlow = true
		}
		r.ID, r.Generation, r.State = w.table.ID(flow), flow.Generation(), flow.State()
	}
}

// left notes a frame that left by a port, or is to.
func (r *TraceRecord) left(fate Fate, out fib.PortID, frame []byte) {
	r.Fate, r.Out = fate, out
	packet.Parse(frame, &r.Left) // an answer to ARP is none: Left stays empty
}

// fate notes the first reason that was counted. A second one is about the error
// that could not be sent either.
func (r *TraceRecord) fate(fate Fate, now, before *[verdict.Count]uint64) {
	for i := range now {
		if now[i] != before[i] {
			r.Fate, r.Reason = fate, verdict.Reason(i)
			return
		}
	}
}

// matches reports whether a filter chooses the packet: where it belongs to a
// flow, the filter is true of either direction of that.
func matches(f *filter.Filter, r *TraceRecord) bool {
	v := filter.View{NotIPv4: r.Malformed != verdict.None, TCPFlags: r.Packet.TCPFlags}
	v.TCP = !v.NotIPv4 && r.Packet.Proto == packet.ProtoTCP && !r.Packet.Is(packet.FlagLaterFragment)
	if r.Fate == Dropped {
		v.Reason = r.Reason
	}
	if r.HasFlow {
		for _, arrives := range [...]conntrack.Tuple{r.Found.Original, r.Found.Reply} {
			v.Arrives = arrives
			v.Leaves = r.Found.Reply.Reverse()
			if arrives == r.Found.Reply {
				v.Leaves = r.Found.Original.Reverse()
			}
			if f.Match(&v) {
				return true
			}
		}
		if !r.Packet.Is(packet.FlagICMPError) {
			return false
		}
	}
	v.Arrives = r.Arrived()
	v.Leaves = v.Arrives
	if to, ok := r.Leaves(); ok {
		v.Leaves = to
	}
	return f.Match(&v)
}
