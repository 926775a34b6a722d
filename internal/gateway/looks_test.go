package gateway

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/internal/fib"
	"sluice/internal/filter"
)

// allCaptured is what a capture took, without the times.
func allCaptured(t *Capture) (list []frameSeen) {
	for {
		var s frameSeen
		var ok bool
		if s.bytes, ok = t.Read(0, &s.Captured, nil); !ok {
			return list
		}
		s.At, s.end = 0, 0
		list = append(list, s)
	}
}

// TestSeveralLooksAtOnce: of as many traces and captures as there may be, each
// sees what it sees alone.
func TestSeveralLooksAtOnce(t *testing.T) {
	addresses := []uint32{client, client2, server, excluded, external, router, gatewayInside}
	filters := []string{"", "dropped", "host 10.0.0.5", "port 1", "not icmp", "reason no-mapping or tcp"}
	rapid.Check(t, func(rt *rapid.T) {
		crowd := newRig(t)
		var traces, singleTraces []*Trace
		var captures, singleCaptures []*Capture
		var alone []*rig
		look := func(traces []*Trace, captures []*Capture) {
			r := newRig(t)
			r.worker.SetLooks(NewLooks(1, traces, captures))
			alone = append(alone, r)
		}
		for range rapid.IntRange(0, MaxLooks).Draw(rt, "traces") {
			f, _ := filter.Parse(rapid.SampledFrom(filters).Draw(rt, "trace filter")) // they are right
			n := rapid.SampledFrom([]int{3, 1000}).Draw(rt, "n")
			traces, singleTraces = append(traces, NewTrace(f, 1, n)), append(singleTraces, NewTrace(f, 1, n))
			look(singleTraces[len(singleTraces)-1:], nil)
		}
		for range rapid.IntRange(0, MaxLooks).Draw(rt, "captures") {
			f, _ := filter.Parse(rapid.SampledFrom(filters).Draw(rt, "capture filter"))
			c := CaptureConfig{
				Filter: f, Workers: 1, Count: rapid.SampledFrom([]int{0, 2}).Draw(rt, "count"), Clock: func() int64 { return 1 },
				Snaplen: rapid.SampledFrom([]int{0, 20, 60}).Draw(rt, "snaplen"),
			}
			for p := range c.Points {
				c.Points[p] = rapid.Bool().Draw(rt, "point")
			}
			captures, singleCaptures = append(captures, NewCapture(c)), append(singleCaptures, NewCapture(c))
			look(nil, singleCaptures[len(singleCaptures)-1:])
		}
		crowd.worker.SetLooks(NewLooks(1, traces, captures))
		for range rapid.IntRange(1, 5).Draw(rt, "bursts") {
			frames := anyFrames(rt, t, addresses)
			on := fib.PortID(rapid.IntRange(0, 1).Draw(rt, "port"))
			for _, r := range append(alone, crowd) {
				r.send(on, frames...)
				r.now++
			}
		}
		for i := range captures {
			if d := cmp.Diff(allCaptured(singleCaptures[i]), allCaptured(captures[i]), cmp.Exporter(func(reflect.Type) bool { return true })); d != "" {
				rt.Fatalf("capture %d, alone and with others: %s", i, d)
			}
		}
		for i := range traces {
			if a, b := outcomes(singleTraces[i]), outcomes(traces[i]); !slices.Equal(a, b) {
				rt.Fatalf("trace %d, alone: %v, with others: %v", i, a, b)
			}
		}
	})
}

// outcomes are the packets of a trace, told apart by what became of them.
func outcomes(t *Trace) (list []TraceRecord) {
	var r TraceRecord
	for t.Read(0, &r) {
		list = append(list, TraceRecord{In: r.In, Length: r.Length, Packet: r.Packet, Fate: r.Fate, Reason: r.Reason, Error: r.Error, ID: r.ID, State: r.State, Left: r.Left})
	}
	return list
}

// behind is a port with a backlog.
type behind struct {
	*port
	frames int
}

func (b *behind) Backlog() int { return b.frames }

// TestLooksGiveWay: a worker that is behind with its packets looks at none, and
// says how many went by; what it forwards stays the same.
func TestLooksGiveWay(t *testing.T) {
	r := newRig(t)
	capture, read := r.capturing("host 10.0.0.5", CaptureConfig{}, PointRX)
	trace, readTrace := r.traced("host 10.0.0.5", 100)
	p := &behind{r.ports[insidePort], maxBacklog}
	r.worker.ports[insidePort] = p
	frame := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	other := from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, frame, other)
	if n, m := len(read()), len(readTrace()); n != 1 || m != 1 || capture.Unseen(insidePort) != 0 || trace.Unseen() != 0 {
		t.Errorf("with a backlog that is allowed: %d captured, %d traced, %d and %d unseen", n, m, capture.Unseen(insidePort), trace.Unseen())
	}
	before := r.ports[outsidePort].sent()
	p.frames++
	r.send(insidePort, frame, other)
	after := r.ports[outsidePort].sent()
	if len(after) != 2 || !slices.EqualFunc(before, after, bytes.Equal) {
		t.Errorf("%d frames left, of the 2 that went by", len(after))
	}
	if n, m := len(read()), len(readTrace()); n != 0 || m != 0 || capture.Unseen(insidePort) != 2 || trace.Unseen() != 2 || capture.Unseen(outsidePort) != 0 {
		t.Errorf("behind: %d captured, %d traced, %d and %d unseen, want 2", n, m, capture.Unseen(insidePort), trace.Unseen())
	}
}
