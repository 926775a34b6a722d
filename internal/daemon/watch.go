package daemon

import (
	"context"
	"sync"
	"time"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/verdict"
)

const (
	// flowEvents is how many events a worker keeps until they are read, some
	// milliseconds at the highest rates.
	flowEvents = 4096

	// watchedEvents is how many events wait for one client of `flows watch`.
	watchedEvents = 1 << 15

	// How often the workers' rings are looked at while somebody watches: where
	// they had something, and where they had not.
	busyLook, idleLook = time.Millisecond, 20 * time.Millisecond
)

// flowWatch hands the events of the workers' rings, each of which can have but
// one reader, to any number of clients. It reads only while there are any: the
// workers write none otherwise.
type flowWatch struct {
	life sync.Mutex         // held while a client comes or goes
	stop context.CancelFunc // ends the reader; nil while there is none
	gone chan struct{}      // closed when the reader has ended

	mu      sync.Mutex
	clients map[*watcher]struct{}
}

// watcher is one client: what it was not told yet.
type watcher struct {
	mu    sync.Mutex
	queue []conntrack.Event
	lost  uint64
	ready chan struct{} // has a value when there is something
}

// put hands events over; those that there is no room for are lost to this client.
func (w *watcher) put(events []conntrack.Event, lost uint64) {
	w.mu.Lock()
	room := min(len(events), watchedEvents-len(w.queue))
	w.queue = append(w.queue, events[:room]...)
	w.lost += lost + uint64(len(events)-room)
	w.mu.Unlock()
	if len(events) == 0 && lost == 0 {
		return
	}
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// take moves what is there into into.
func (w *watcher) take(into []conntrack.Event) (events []conntrack.Event, lost uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, lost = append(into[:0], w.queue...), w.lost
	w.queue, w.lost = w.queue[:0], 0
	return events, lost
}

// watch adds a client. The first one has the rings read.
func (d *Daemon) watch() *watcher {
	w := &watcher{ready: make(chan struct{}, 1)}
	f := &d.watching
	f.life.Lock()
	defer f.life.Unlock()
	f.mu.Lock()
	if f.clients == nil {
		f.clients = map[*watcher]struct{}{}
	}
	f.clients[w] = struct{}{}
	f.mu.Unlock()
	if f.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		f.stop, f.gone = stop, make(chan struct{})
		lost := d.readEvents(nil) // from here on there are events
		go d.readRings(ctx, f.gone, lost)
	}
	return w
}

// unwatch removes a client. With the last one the rings are closed.
func (d *Daemon) unwatch(w *watcher) {
	f := &d.watching
	f.life.Lock()
	defer f.life.Unlock()
	f.mu.Lock()
	delete(f.clients, w)
	last := len(f.clients) == 0
	f.mu.Unlock()
	if !last {
		return
	}
	f.stop()
	<-f.gone
	f.stop = nil
	d.look(func() {
		for _, r := range d.plane.table.Rings() {
			r.Close()
		}
	})
}

// readRings hands on what the rings have until ctx ends. lost is what each had
// lost before.
func (d *Daemon) readRings(ctx context.Context, gone chan<- struct{}, lost []uint64) {
	defer close(gone)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		any := false
		d.readEvents(func(ring int, events []conntrack.Event, total uint64) {
			any = any || len(events) > 0
			d.watching.mu.Lock()
			defer d.watching.mu.Unlock()
			for w := range d.watching.clients {
				w.put(events, total-lost[ring])
			}
			lost[ring] = total
		})
		if any {
			timer.Reset(busyLook)
		} else {
			timer.Reset(idleLook)
		}
	}
}

// readEvents empties the rings into f, and returns what each has lost so far.
func (d *Daemon) readEvents(f func(ring int, events []conntrack.Event, lost uint64)) (lost []uint64) {
	var buffer [256]conntrack.Event
	d.look(func() {
		for i, r := range d.plane.table.Rings() {
			n, total := r.Read(buffer[:])
			for n > 0 || f != nil && total > 0 {
				if f != nil {
					f(i, buffer[:n], total)
				}
				if n < len(buffer) {
					break
				}
				n, total = r.Read(buffer[:])
			}
			lost = append(lost, total)
		}
	})
	return lost
}

// WatchFlows implements control.Gateway.
func (d *Daemon) WatchFlows(ctx context.Context, filter control.Filter, begun func() error, yield func(*control.FlowEvent) error) error {
	w := d.watch()
	defer d.unwatch(w)
	if err := begun(); err != nil {
		return err
	}
	var events []conntrack.Event
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.ready:
		}
		var lost uint64
		events, lost = w.take(events)
		var boot time.Time
		d.look(func() { _, boot = d.times() })
		for i := range events {
			e := d.eventOf(&events[i], boot)
			if !filter.Match(&e.Flow) {
				continue
			}
			if err := yield(&e); err != nil {
				return err
			}
		}
		if lost > 0 {
			if err := yield(&control.FlowEvent{Event: control.EventLost, At: time.Now(), Lost: lost}); err != nil {
				return err
			}
		}
	}
}

var eventWords = [...]string{conntrack.EventNew: control.EventNew, conntrack.EventState: control.EventUpdate, conntrack.EventEnd: control.EventDestroy}

// eventOf words an event for the control socket.
func (d *Daemon) eventOf(e *conntrack.Event, boot time.Time) control.FlowEvent {
	s := conntrack.Snapshot{
		ID: e.ID, Generation: e.Generation, Original: e.Original, Reply: e.Reply, Kind: e.Kind, State: e.State,
		Service: e.Service, Backend: e.Backend, Created: e.Created, LastSeen: e.At, Packets: e.Packets, Bytes: e.Bytes,
	}
	out := control.FlowEvent{Event: eventWords[e.Type], At: wallTime(e.At, boot)}
	if e.Type != conntrack.EventEnd {
		s.Timeout = d.plane.table.Timeout(e.State, &e.Original)
	} else if out.Reason = "silence"; e.Reason != verdict.None {
		out.Reason = e.Reason.String()
	}
	out.Flow = flowOf(&s, e.At, boot)
	d.balanced(&out.Flow, &s)
	return out
}
