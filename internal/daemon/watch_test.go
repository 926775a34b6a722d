package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// quietDaemon is a daemon with a flow table and a clock, and nothing else.
func quietDaemon(t testing.TB, flows int) *Daemon {
	t.Helper()
	c := config.Default()
	c.StateFile, c.Conntrack.MaxFlows = "", flows
	s, err := openState(c, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	clock, err := xdp.NewClock()
	if err != nil {
		t.Fatal(err)
	}
	return &Daemon{log: slog.New(slog.DiscardHandler), plane: &plane{state: s, table: s.table, threads: []*thread{{clock: clock}}}}
}

// addFlow makes UDP flow i of a table.
func addFlow(t testing.TB, d *Daemon, w *conntrack.Worker, i uint32) *conntrack.Flow {
	t.Helper()
	original := conntrack.Tuple{Src: 0x0a000000 + i>>12, Dst: 0x01010101, SrcPort: uint16(i&0xfff) + 1, DstPort: 53, Proto: packet.ProtoUDP}
	now, _ := d.times()
	f, _, _, r := w.Create(&conntrack.NewFlow{Original: original, Reply: original.Reverse()}, now)
	if f == nil {
		t.Fatal(r)
	}
	return f
}

// TestWatchers: every watcher is told everything, in order, from when it begins;
// one that does not read is told how much it missed; and with the last one the
// workers write no more.
func TestWatchers(t *testing.T) {
	d := quietDaemon(t, 1<<17)
	w := d.plane.table.Worker(0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const flows = 3 * watchedEvents / 2 // each begins and ends: three times what waits for one client
	var seen, missed, slowMissed, slowSeen atomic.Int64
	release := make(chan struct{})
	begun, done := make(chan struct{}, 2), make(chan error, 2)
	enough := errors.New("enough")
	watch := func(yield func(*control.FlowEvent) error) {
		done <- d.WatchFlows(ctx, control.Filter{}, func() error { begun <- struct{}{}; return nil }, yield)
	}
	go watch(func(e *control.FlowEvent) error {
		if missed.Add(int64(e.Lost)); e.Event != control.EventLost {
			seen.Add(1)
		}
		if seen.Load()+missed.Load() >= 2*flows {
			return enough
		}
		return nil
	})
	go watch(func(e *control.FlowEvent) error {
		<-release
		if slowMissed.Add(int64(e.Lost)); e.Event != control.EventLost {
			slowSeen.Add(1)
		}
		if slowSeen.Load()+slowMissed.Load() >= 2*flows {
			return enough
		}
		return nil
	})
	<-begun
	<-begun
	for i := range uint32(flows) {
		f := addFlow(t, d, w, i)
		w.Retire(f, verdict.FlowFlushed)
		w.Quiesce()
		for i%1024 == 1023 && seen.Load()+missed.Load() < int64(2*i) && ctx.Err() == nil {
			time.Sleep(100 * time.Microsecond)
		}
	}
	if err := <-done; !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if missed.Load() != 0 || seen.Load() != 2*flows {
		t.Errorf("who reads at once saw %d of %d and missed %d", seen.Load(), 2*flows, missed.Load())
	}
	close(release)
	if err := <-done; !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if slowMissed.Load() == 0 || slowSeen.Load()+slowMissed.Load() != 2*flows {
		t.Errorf("who did not read saw %d and missed %d of %d", slowSeen.Load(), slowMissed.Load(), 2*flows)
	}
	// Nobody watches: events are not kept for whoever comes next.
	w.Retire(addFlow(t, d, w, 1), verdict.None)
	var e [8]conntrack.Event
	for _, r := range d.plane.table.Rings() {
		if n, _ := r.Read(e[:]); n != 0 {
			t.Errorf("%d events nobody asked for", n)
		}
		r.Close()
	}
}

func TestFlush(t *testing.T) {
	d := quietDaemon(t, 1<<12)
	w := d.plane.table.Worker(0)
	for i := range uint32(3000) {
		addFlow(t, d, w, i)
	}
	w.Offline()
	port := uint16(7)
	for _, tc := range []struct {
		filter control.Filter
		want   int
	}{{control.Filter{Sport: &port}, 1}, {control.Filter{Sport: &port}, 0}, {control.Filter{Proto: "tcp"}, 0}, {control.Filter{}, 2999}} {
		if f, err := d.FlushFlows(t.Context(), tc.filter); err != nil || f.Flushed != tc.want {
			t.Errorf("%+v: %d ended, %v; want %d", tc.filter, f.Flushed, err, tc.want)
		}
	}
	if n := d.plane.table.Count().Flows; n != 0 {
		t.Errorf("%d flows are left", n)
	}
}
