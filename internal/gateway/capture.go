package gateway

import (
	"sync/atomic"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/verdict"
)

// Point is where on its way through a worker a packet is captured.
type Point uint8

const (
	PointRX   Point = iota // as it was received, whatever became of it
	PointTX                // as it was handed to the port that it leaves by
	PointDrop              // as it was received, where it was dropped
	PointPunt              // as it was received, where the kernel was given it
	Points                 // their number
)

var pointWords = [Points]string{"rx", "tx", "drop", "punt"}

// String returns the point's word.
func (p Point) String() string {
	if p >= Points {
		return "unknown-point"
	}
	return pointWords[p]
}

// ParsePoint is the point of a word.
func ParsePoint(word string) (Point, bool) {
	for p, w := range pointWords {
		if w == word {
			return Point(p), true
		}
	}
	return 0, false
}

// What one worker keeps for the reader.
const (
	captureRecords = 4096
	captureBytes   = 2 << 20
)

// CaptureConfig says what to capture.
type CaptureConfig struct {
	Filter  *filter.Filter
	Workers int
	Points  [Points]bool
	Count   int    // packets, by all workers together; 0 = without end
	Snaplen int    // bytes of a frame that are kept; 0 = all
	Sample  uint32 // one packet in so many, by chance; 0 and 1 = each

	// Clock is the time of day in nanoseconds since 1970. Workers call it, for
	// captured packets only.
	Clock func() int64
}

// Capture has workers copy the packets that a filter chooses. It has the manners
// of a Trace: workers write, each into a ring of its own and without ever waiting,
// one goroutine reads, and where there is none it costs nothing.
type Capture struct {
	filter  *filter.Filter
	points  [Points]bool
	snaplen int
	sample  uint64
	clock   func() int64
	count   int64        // packets; 0 = without end
	left    atomic.Int64 // packets still to capture, by all workers together
	done    atomic.Int64 // packets captured: their records can be read
	taps    []captureTap // by worker
}

// NewCapture makes a capture. Its memory is 3 MB a worker.
func NewCapture(c CaptureConfig) *Capture {
	t := &Capture{
		filter: c.Filter, points: c.Points, snaplen: c.Snaplen, sample: uint64(max(c.Sample, 1)),
		clock: c.Clock, count: int64(c.Count), taps: make([]captureTap, c.Workers),
	}
	if t.snaplen == 0 || t.snaplen > maxFrame {
		t.snaplen = maxFrame
	}
	t.left.Store(int64(c.Count))
	for i := range t.taps {
		t.taps[i].bytes = make([]byte, captureBytes)
		t.taps[i].chance = uint64(i)*0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d // never 0: xorshift stays there
	}
	return t
}

// Captured is a packet as it was seen at one point.
type Captured struct {
	At     int64  // by the capture's clock
	Packet uint64 // its number: the same wherever it was seen, and no other's of the capture
	Point  Point
	Port   fib.PortID // by which it was received, or leaves
	In     fib.PortID // by which it was received; fib.NoPort where it waited and leaves now
	Out    fib.PortID // by which it left, or fib.NoPort
	Queue  int        // of In; -1 where the port does not tell
	Length uint32     // of the frame, of which fewer bytes may have been kept

	Fate   Fate
	Reason verdict.Reason // of Dropped and Punted
	Error  ErrorKind      // sent to the sender about it
	Reset  bool           // sent to the client about it

	HasFlow        bool
	Flow           FlowFound // its state is that after the packet
	ID, Generation uint32    // the flow's name; 0 where it has ended

	IPv4          bool // there are tuples
	Before, After conntrack.Tuple
	Left          bool // After is the tuple that it left with
	Fragments     int  // in which it left; 0: whole

	end uint64 // of its bytes in the tap's ring
}

// captureTap is one worker's part of a capture: a ring of records and a ring of
// their bytes, for one writer and one reader.
type captureTap struct {
	head, tail atomic.Uint64 // records: next to write, next to read
	freed      atomic.Uint64 // bytes that the reader has done with
	lost       [MaxPorts][Points]atomic.Uint64
	unseen     [MaxPorts]atomic.Uint64
	at         uint64 // bytes written; the writer's
	number     uint64 // of the last packet
	chance     uint64 // xorshift64's state
	records    [captureRecords]Captured
	bytes      []byte

	entered int64 // when the packet at hand was received
}

// Read takes the oldest record of a worker with its bytes, which it appends to b,
// and reports whether there was one.
func (t *Capture) Read(worker int, r *Captured, b []byte) ([]byte, bool) {
	p := &t.taps[worker]
	tail := p.tail.Load()
	if tail == p.head.Load() {
		return b, false
	}
	*r = p.records[tail%captureRecords]
	n := uint64(min(int(r.Length), t.snaplen))
	start := (r.end - n) % captureBytes
	b = append(b, p.bytes[start:start+n]...)
	// After the copies: from here on the worker may overwrite them.
	p.freed.Store(r.end)
	p.tail.Store(tail + 1)
	return b, true
}

// Lost is how many frames were chosen at a point of a port and not kept, since
// nobody read in time.
func (t *Capture) Lost(port fib.PortID, point Point) (n uint64) {
	for i := range t.taps {
		n += t.taps[i].lost[port][point].Load()
	}
	return n
}

// Unseen is how many packets of a port went by while a worker was behind, so that
// nobody looked at whether they are to be captured.
func (t *Capture) Unseen(port fib.PortID) (n uint64) {
	for i := range t.taps {
		n += t.taps[i].unseen[port].Load()
	}
	return n
}

// Done reports whether as many packets were captured as were asked for.
func (t *Capture) Done() bool { return t.count > 0 && t.done.Load() >= t.count }

// take takes one of the packets that are still to be captured.
func (t *Capture) take() bool { return t.count == 0 || t.left.Add(-1) >= 0 }

// goesOn reports whether packets are still to be captured.
func (t *Capture) goesOn() bool { return t.count == 0 || t.left.Load() > 0 }

// wants reports whether the next packet of a worker may be captured.
func (t *Capture) wants(worker int) bool {
	if !t.goesOn() {
		return false
	}
	if t.sample == 1 {
		return true
	}
	x := t.taps[worker].chance
	x ^= x << 13
	x ^= x >> 7
	x ^= x << 17
	t.taps[worker].chance = x
	return (x>>32)*t.sample>>32 == 0
}

// capturePacket records a packet at the points where it was seen.
func (w *Worker) capturePacket(s *scratch, t *Capture) {
	p, r := &t.taps[w.id], &s.record
	end := Points
	switch r.Fate {
	case Dropped:
		end = PointDrop
	case Punted:
		end = PointPunt
	}
	leaves := t.points[PointTX] && s.nSent > 0 && (r.Error != NoError || r.Reset || r.Fate != Dropped)
	ends := end < Points && t.points[end]
	if !t.points[PointRX] && !leaves && !ends || !t.take() {
		return
	}
	p.number++
	c := w.captured(r)
	c.At, c.Packet, c.Port, c.Length = p.entered, uint64(w.id)<<48|p.number, r.In, r.Length
	arrived := s.arrived[:min(s.length, t.snaplen)]
	if t.points[PointRX] {
		c.Point = PointRX
		t.push(p, &c, arrived)
	}
	if ends {
		c.Point = end
		t.push(p, &c, arrived)
	}
	if leaves {
		w.captureSent(s, t, &c)
	}
	t.done.Add(1)
}

// captured is a record of a packet, without its bytes.
func (w *Worker) captured(r *TraceRecord) Captured {
	c := Captured{
		In: r.In, Out: r.Out, Queue: r.Queue, Fate: r.Fate, Reason: r.Reason, Error: r.Error, Reset: r.Reset,
		HasFlow: r.HasFlow, Flow: r.Found, ID: r.ID, Generation: r.Generation,
		IPv4: r.Malformed == verdict.None, Before: r.Arrived(), Fragments: r.Fragments,
	}
	if r.ID != 0 {
		c.Flow.State = r.State
	}
	c.After, c.Left = r.Leaves()
	return c
}

// captureSent records the frames that a packet became.
func (w *Worker) captureSent(s *scratch, t *Capture, c *Captured) {
	p := &t.taps[w.id]
	c.At, c.Point = t.clock(), PointTX
	for _, d := range s.sent[:s.nSent] {
		c.Port, c.Length = d.port, d.desc.Len
		frame := w.frame(d.desc)
		t.push(p, c, frame[:min(len(frame), t.snaplen)])
	}
}

// captureQueued records the frames that wait in the out queues where a burst has
// not begun: they arrived earlier, and waited for a neighbour or for the first
// fragment of their datagram, or are the gateway's own.
func (w *Worker) captureQueued() {
	for _, t := range w.looks.captures {
		if t.points[PointTX] {
			w.captureWaiting(t)
		}
	}
}

func (w *Worker) captureWaiting(t *Capture) {
	s := &w.looks.scratch[w.id]
	for i := range w.ports {
		q := &w.out[i]
		for _, d := range q.descs[:q.n] {
			if !t.wants(w.id) {
				continue
			}
			w.beginRecord(s, fib.NoPort, d)
			r := &s.record
			r.Fate, r.Out, r.Left, r.Queue = Sent, fib.PortID(i), r.Packet, -1
			if r.Malformed == verdict.None {
				w.findSent(s)
			}
			if !matches(t.filter, r) || !t.take() {
				continue
			}
			p := &t.taps[w.id]
			p.number++
			c := w.captured(r)
			c.Packet = uint64(w.id)<<48 | p.number
			s.sent[0], s.nSent = departure{fib.PortID(i), d}, 1
			w.captureSent(s, t, &c)
			t.done.Add(1)
		}
	}
}

// findSent finds the flow of a frame that is about to leave: mostly it is looked
// up as its answer would be.
func (w *Worker) findSent(s *scratch) {
	r := &s.record
	flow, dir := w.flows.Find(s.about.Reverse(), w.now)
	if dir = dir.Opposite(); flow == nil {
		flow, dir = w.flows.Find(s.about, w.now)
	}
	if flow != nil {
		r.Found.fill(flow, dir)
		r.HasFlow = true
		r.ID, r.Generation, r.State = w.table.ID(flow), flow.Generation(), flow.State()
	}
}

// push records a frame, of which b is kept.
func (t *Capture) push(p *captureTap, c *Captured, b []byte) {
	head, n := p.head.Load(), uint64(len(b))
	start := p.at
	if start%captureBytes+n > captureBytes { // a frame lies in one piece
		start += captureBytes - start%captureBytes
	}
	if head-p.tail.Load() == captureRecords || start+n-p.freed.Load() > captureBytes {
		p.lost[c.Port][c.Point].Add(1)
		return
	}
	copy(p.bytes[start%captureBytes:], b)
	p.at = start + n
	r := &p.records[head%captureRecords]
	*r = *c
	r.end = p.at
	p.head.Store(head + 1) // publishes the record: Go's atomics order the writes before it
}
