package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Run measures, and writes the report into the directory of the options. What
// cannot be measured here, for want of root, a compiler or a program, is listed
// in the report and is no error, unless it is all that was asked for.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	r := &Report{Version: o.Version, Started: time.Now(), Quick: o.Quick, Machine: describeMachine()}
	progress := newProgress(o.Progress)
	defer progress.end()
	if o.Part == Operator {
		if err := r.runOperator(ctx, &o, progress); err != nil {
			return nil, err
		}
	}
	if o.Part == All || o.Part == Memory {
		if err := r.runMemory(ctx, &o, progress); err != nil {
			return nil, err
		}
	}
	for _, c := range []struct {
		part    Part
		contest *contest
		into    **WireReport
	}{{Wire, &masquerading, &r.Wire}, {Services, &balancing, &r.Services}} {
		if o.Part != All && o.Part != c.part {
			continue
		}
		w, err := runWire(ctx, c.contest, &o, progress, &r.LeftOut)
		switch {
		case errors.Is(err, errNotHere) && o.Part == All:
			r.LeftOut = append(r.LeftOut, fmt.Sprintf("%s: %v", c.contest.name, err))
		case err != nil:
			return nil, err
		}
		*c.into = w
	}
	if o.Part == All || o.Part == Receivers {
		p, err := runReceivers(ctx, &o, progress, &r.LeftOut)
		switch {
		case errors.Is(err, errNotHere) && o.Part == All:
			r.LeftOut = append(r.LeftOut, fmt.Sprintf("many receivers: %v", err))
		case err != nil:
			return nil, err
		}
		r.Receivers = p
	}
	r.judge()
	r.Seconds = time.Since(r.Started).Seconds()
	r.Machine.Load[1] = load()
	return r, r.save(o.Out)
}

// errNotHere marks what this machine or this user cannot do.
var errNotHere = errors.New("cannot be measured here")

func (r *Report) runMemory(ctx context.Context, o *Options, progress *progress) error {
	m := o.memoryRun()
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	switch m.twin, err = compileTwin(dir); {
	case errors.Is(err, errNoCompiler):
		r.LeftOut = append(r.LeftOut, fmt.Sprintf("the C twin: %v", err))
	case err != nil:
		return err
	}
	if m.cpu, m.other, err = measuringCPUs(); err != nil {
		return err
	}
	progress.begin("in memory", m.steps())
	m.note = progress.note
	return pinned(m.cpu, func() error {
		if r.Memory, err = m.measure(ctx); err != nil {
			return err
		}
		r.Kinds, err = m.measureKinds(ctx)
		return err
	})
}
