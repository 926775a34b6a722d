package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"sluice/internal/control"
	"sluice/internal/gateway"
)

// lookGrace is how long a trace or capture waits for others to end: the daemon
// learns a moment later than its client that one has.
const lookGrace = 200 * time.Millisecond

// looker is a trace or a capture that is on.
type looker struct {
	control.Look
	trace   *gateway.Trace
	capture *gateway.Capture
}

// looks are the traces and captures that are on. It may be used from any goroutine.
type looks struct {
	mu    sync.Mutex
	on    []*looker
	ended chan struct{} // closed when one ends; nil while nobody waits
}

// begin adds a looker, unless there are as many of its kind as there may be; then
// it returns what is closed when one ends.
func (l *looks) begin(x *looker) (wait <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, other := range l.on {
		if other.Kind == x.Kind {
			n++
		}
	}
	if n >= gateway.MaxLooks {
		if l.ended == nil {
			l.ended = make(chan struct{})
		}
		return l.ended
	}
	l.on = append(l.on, x)
	return nil
}

// end takes a looker away.
func (l *looks) end(x *looker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.on = slices.DeleteFunc(l.on, func(other *looker) bool { return other == x })
	if l.ended != nil {
		close(l.ended)
		l.ended = nil
	}
}

// list tells of those that are on, the oldest first.
func (l *looks) list() (list []control.Look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.on {
		list = append(list, x.Look)
	}
	return list
}

// forWorkers are those that are on as workers take them.
func (l *looks) forWorkers(workers int) *gateway.Looks {
	var traces []*gateway.Trace
	var captures []*gateway.Capture
	for _, x := range l.on {
		if x.trace != nil {
			traces = append(traces, x.trace)
		} else {
			captures = append(captures, x.capture)
		}
	}
	return gateway.NewLooks(workers, traces, captures)
}

// beginLook has the workers serve a trace or capture, until end is called, which
// may be called twice.
func (d *Daemon) beginLook(ctx context.Context, kind, filter string, x *looker) (end func(), err error) {
	x.Look = control.Look{Kind: kind, Filter: filter, Since: time.Now()}
	x.Peer, _ = control.PeerOf(ctx)
	late := time.After(lookGrace)
	for wait := d.looks.begin(x); wait != nil; wait = d.looks.begin(x) {
		select {
		case <-wait:
		case <-late:
			return nil, control.TooManyLooks(kind, d.looks.list())
		}
	}
	d.serveLooks()
	// Packets hold what users say to each other: who looked at them is on record.
	d.log.Info(kind+" begins", "filter", filter, "by", x.Peer)
	var once sync.Once
	return func() {
		once.Do(func() {
			d.looks.end(x)
			d.serveLooks()
			d.log.Info(kind+" ends", "by", x.Peer, "after", time.Since(x.Since).Round(time.Millisecond))
		})
	}, nil
}

// serveLooks hands the workers what is on now.
func (d *Daemon) serveLooks() {
	d.look(func() {
		// Under the lock, so that of two changes the later one stays.
		d.looks.mu.Lock()
		defer d.looks.mu.Unlock()
		l := d.looks.forWorkers(len(d.plane.threads))
		for _, t := range d.plane.threads {
			t.worker.SetLooks(l)
		}
	})
}
