package daemon

import (
	"context"
	"fmt"
	"time"

	"sluice/internal/control"
	"sluice/internal/explain"
	"sluice/internal/filter"
	"sluice/internal/gateway"
)

// traceEvery is how often the workers' rings are emptied while a trace is on: at
// more than 25,600 chosen packets a second and worker, some are lost.
const traceEvery = 10 * time.Millisecond

// Trace implements control.Gateway.
func (d *Daemon) Trace(ctx context.Context, q control.TraceQuestion, begun func() error, yield func(*control.Traced) error) error {
	f, err := filter.Parse(q.Filter)
	if err != nil {
		return err
	}
	t := gateway.NewTrace(f, len(d.plane.threads), q.Count)
	end, err := d.beginLook(ctx, "trace", q.Filter, &looker{trace: t})
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	if err := begun(); err != nil {
		return err
	}
	tick := time.NewTicker(traceEvery)
	defer tick.Stop()
	for number := 0; number < q.Count; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, p := range d.readTrace(t) {
			number++
			p.Number = number
			if err := yield(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// readTrace words what the workers recorded. Those of one worker are in order.
func (d *Daemon) readTrace(t *gateway.Trace) (list []*control.Traced) {
	var r gateway.TraceRecord
	d.look(func() {
		now := d.inForce.Load()
		g := &explain.Gateway{Config: now.config, Snapshot: now.snapshot, Table: d.plane.table}
		for i := range d.plane.threads {
			for t.Read(i, &r) {
				p := &control.Traced{
					At: time.Now(), Worker: i, Queue: r.Queue, Length: int(r.Length), TTL: int(r.Packet.TTL), Lost: t.Lost(), Unseen: t.Unseen(),
					Explanation: explain.Trace(g, &r),
				}
				if r.ID != 0 {
					p.Flow = fmt.Sprintf("%d.%d", r.ID, r.Generation)
				}
				list = append(list, p)
			}
		}
	})
	return list
}
