package gateway

import (
	"sync/atomic"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// traceRing is how many traced packets of one worker can wait to be read.
const traceRing = 256

// Trace has workers record what they do with the packets that a filter chooses.
// Workers write, each into a ring of its own and without ever waiting; one
// goroutine reads.
//
// It costs nothing where it is not: no stage has a hook. A worker that traces
// takes its bursts apart, and passes every packet that may be chosen through the
// stages alone; what was done with it is read off the counters, the out queues
// and the frame.
type Trace struct {
	filter *filter.Filter
	left   atomic.Int64 // packets still to record, by all workers together
	taps   []tap        // by worker
}

// NewTrace makes a trace of the first n packets that f chooses.
func NewTrace(f *filter.Filter, workers, n int) *Trace {
	t := &Trace{filter: f, taps: make([]tap, workers)}
	t.left.Store(int64(n))
	return t
}

// SetTrace starts a trace, or with nil ends it, at the worker's next burst
// boundary. It may be called from any goroutine.
func (w *Worker) SetTrace(t *Trace) { w.tracing.Store(t) }

// Read takes the oldest record of a worker, and reports whether there was one.
func (t *Trace) Read(worker int, r *TraceRecord) bool {
	p := &t.taps[worker]
	tail := p.tail.Load()
	if tail == p.head.Load() {
		return false
	}
	p.records[tail%traceRing].copyTo(r)
	p.tail.Store(tail + 1) // after the copy: from here on the worker may overwrite it
	return true
}

// Lost is how many packets were chosen and not recorded, since nobody read in
// time.
func (t *Trace) Lost() (n uint64) {
	for i := range t.taps {
		n += t.taps[i].lost.Load()
	}
	return n
}

// TraceRecord is one packet as a worker dealt with it. Of Outcome and Found,
// what needs a lookup is empty for packets that none is made for: malformed ones,
// fragments, whose flow is found later, and those that IP options forbid.
type TraceRecord struct {
	Now       conntrack.Tick
	Snapshot  *Snapshot // that it was decided by
	In        fib.PortID
	Length    uint32         // of the frame, in bytes
	Malformed verdict.Reason // why it could not be parsed; Packet is then incomplete
	Packet    packet.Packet  // as it arrived
	Completed bool           // its partial checksum was finished

	// Outcome is what DryRun said a moment before, by the functions that then
	// decided: the reasons, with the words that explain has for them. What
	// really happened stands below. They differ where another worker came in
	// between.
	Outcome Outcome

	// Found is the packet's flow, or for an ICMP error the flow that it is
	// about, as it was before; where the packet began it, as it was then.
	Found          FlowFound
	HasFlow        bool
	ID, Generation uint32          // the flow's name
	State          conntrack.State // after the packet

	Fate         Fate
	Reason       verdict.Reason // of Dropped and Punted
	Error        ErrorKind      // sent to the sender about it
	Reset        bool           // sent to the client about it
	ErrorLimited bool           // one was due, and the limit was reached
	Out          fib.PortID     // by which it left, or will; or the error did
	Left         packet.Packet  // as it left, or waits; or the error did
	Fragments    int            // in which it left; 0: whole
}

// Fate is the end of a packet's way through a worker.
type Fate uint8

const (
	Dropped    Fate = iota
	Sent            // it is in the transmit ring
	Held            // it waits for the link address of its next hop
	Punted          // the kernel was given it
	Answered        // an ARP request, and this is the answer
	Waiting         // a copy waits for the first fragment of its datagram
	HandedOver      // another worker has its datagram, and gets a copy
)

// copyTo copies a record, with the flow that its outcome points into it for.
func (r *TraceRecord) copyTo(to *TraceRecord) {
	*to = *r
	if r.Outcome.Flow != nil {
		to.Outcome.Flow = &to.Found
	}
}

// Arrived is the tuple with which the packet arrived.
func (r *TraceRecord) Arrived() conntrack.Tuple { return key(&r.Packet) }

// Leaves is the tuple with which it left, or waits to, and whether it did.
func (r *TraceRecord) Leaves() (conntrack.Tuple, bool) {
	return key(&r.Left), r.Left.End != 0 && r.Error == NoError && !r.Reset && r.Fate != Answered
}

// tap is one worker's part of a trace: a ring for one writer and one reader, and
// what the writer works in.
type tap struct {
	head, tail atomic.Uint64 // next to write, next to read; see Read
	lost       atomic.Uint64
	records    [traceRing]TraceRecord

	record TraceRecord     // the packet at hand
	about  conntrack.Tuple // by which its flow is found
	frames [Burst]xdp.Desc // of the burst at hand
	before Counters        // as they were before the packet
}

// push records the packet at hand.
func (t *Trace) push(p *tap) {
	head := p.head.Load()
	if head-p.tail.Load() == traceRing {
		p.lost.Add(1)
		return
	}
	if t.left.Add(-1) < 0 { // another worker had the last one
		return
	}
	p.record.copyTo(&p.records[head%traceRing])
	p.head.Store(head + 1) // publishes the record: Go's atomics order the writes before it
}

// traceBurst is burst while a trace is on. The packets keep their order.
func (w *Worker) traceBurst(in fib.PortID, n int) {
	t := &w.trace.taps[w.id]
	copy(t.frames[:n], w.frames[:n])
	first := 0 // of those that no filter needs to see
	for i, d := range t.frames[:n] {
		if w.trace.left.Load() <= 0 || !w.mayMatch(t, in, d) {
			continue
		}
		w.passFrames(in, t.frames[first:i])
		w.traceOne(t, d)
		first = i + 1
	}
	w.passFrames(in, t.frames[first:n])
}

// passFrames passes a part of a burst.
func (w *Worker) passFrames(in fib.PortID, frames []xdp.Desc) {
	if n := copy(w.frames[:], frames); n > 0 {
		w.pass(in, n)
	}
}

// mayMatch begins the record of a packet, and reports whether the filter may
// choose it. Packets of a flow can be told apart at once; what becomes of others
// must be seen first.
func (w *Worker) mayMatch(t *tap, in fib.PortID, d xdp.Desc) bool {
	r := &t.record
	*r = TraceRecord{Now: w.now, Snapshot: w.snapshot, In: in, Length: d.Len, Out: fib.NoPort}
	frame := w.frame(d)
	if r.Malformed = packet.Parse(frame, &r.Packet); r.Malformed != verdict.None {
		return true
	}
	p := &r.Packet
	t.about = key(p)
	if p.Is(packet.FlagICMPError) {
		quoted, _, _ := nat.QuotedTuple(frame, p)
		t.about = quoted.Reverse()
		return true
	}
	if p.Is(packet.FlagFragment) || w.trace.filter.Late() {
		return true
	}
	flow, dir := w.flows.Find(t.about, w.now)
	if flow == nil {
		return true
	}
	r.Found.fill(flow, dir)
	r.HasFlow = true
	return w.matches(r)
}

// traceOne passes one packet, whose record was begun, and records it if the
// filter chooses it.
func (w *Worker) traceOne(t *tap, d xdp.Desc) {
	r := &t.record
	r.Found, r.HasFlow = FlowFound{}, false
	w.foresee(t)
	// What the queues hold then is the packet's, and what the rings refuse.
	w.transmitAll()
	held := w.hold.n
	t.before = w.counters
	w.frames[0] = d
	w.led = conntrack.Tuple{}
	w.pass(r.In, 1)
	if r.Malformed == verdict.None && r.Packet.Is(packet.FlagFragment) {
		t.about = w.led
	}
	w.findOut(t, held)
	if w.matches(r) {
		w.trace.push(t)
	}
}

func (w *Worker) transmitAll() {
	for i := range w.ports {
		w.transmit(fib.PortID(i))
	}
}

// foresee fills in what follows from the packet before it is passed.
func (w *Worker) foresee(t *tap) {
	r := &t.record
	p := &r.Packet
	switch {
	case r.Malformed != verdict.None, p.Is(packet.FlagFragment), p.Is(packet.FlagOptions) && w.snapshot.DropOptions:
	case p.Is(packet.FlagICMPError):
		if flow, dir := w.flows.Find(t.about, w.now); flow != nil {
			r.Found.fill(flow, dir)
			r.Outcome.Flow = &r.Found
		}
	default:
		w.snapshot.foretell(&r.Outcome, &r.Found, w.flows, r.In, p, w.now)
	}
	r.HasFlow = r.Outcome.Flow != nil
}

// findOut fills in what became of the packet. held is how many waited before.
func (w *Worker) findOut(t *tap, held int) {
	r, c, b := &t.record, &w.counters, &t.before
	for i := range w.ports {
		if q := &w.out[i]; q.n > 0 {
			r.left(Sent, fib.PortID(i), w.frame(q.descs[0]))
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

// matches reports whether the filter chooses the packet: where it belongs to a
// flow, the filter is true of either direction of that.
func (w *Worker) matches(r *TraceRecord) bool {
	f := w.trace.filter
	v := filter.View{NotIPv4: r.Malformed != verdict.None}
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
