package gateway

import (
	"sync/atomic"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/packet"
	"sluice/internal/verdict"
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

// Unseen is how many packets went by while a worker was behind, so that nobody
// looked at whether they are to be traced.
func (t *Trace) Unseen() (n uint64) {
	for i := range t.taps {
		n += t.taps[i].unseen.Load()
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
	Queue     int            // of the port, that it was received from; -1 where the port does not tell
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
	Searching       // it waits for a port that its flow can share
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

// tap is one worker's part of a trace: a ring for one writer and one reader.
type tap struct {
	head, tail atomic.Uint64 // next to write, next to read; see Read
	lost       atomic.Uint64
	unseen     atomic.Uint64
	records    [traceRing]TraceRecord
}

// push records a packet.
func (t *Trace) push(p *tap, r *TraceRecord) {
	head := p.head.Load()
	if head-p.tail.Load() == traceRing {
		p.lost.Add(1)
		return
	}
	if t.left.Add(-1) < 0 { // another worker had the last one
		return
	}
	r.copyTo(&p.records[head%traceRing])
	p.head.Store(head + 1) // publishes the record: Go's atomics order the writes before it
}
