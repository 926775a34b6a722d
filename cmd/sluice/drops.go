package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

// dropLine is one counter as `drops -o json` prints it.
type dropLine struct {
	At time.Time `json:"at"`
	control.Drop
	PerSecond *float64 `json:"per_second,omitempty"` // since the line before; only with --watch
}

func dropsCommand(a *app) *cobra.Command {
	var (
		watch    bool
		all      bool
		interval time.Duration
	)
	c := &cobra.Command{
		Use:   "drops",
		Short: "Show why packets were dropped",
		Long: `Drops shows how many packets were dropped since the daemon started, by reason.
The table leaves out reasons that never occurred, unless --all asks for them; JSON
has them all.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usage("--interval: %s is too short; at least 100ms", interval)
			}
			if watch {
				return a.watchDrops(c.Context(), all, interval)
			}
			d, err := a.client().Drops(c.Context())
			if err != nil {
				return err
			}
			return a.printDrops(d, nil, all, false)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show rates, until interrupted")
	c.Flags().BoolVarP(&all, "all", "a", false, "also show reasons that never occurred")
	c.Flags().DurationVar(&interval, "interval", time.Second, "how often to look with --watch")
	return c
}

// watchDrops prints the counters every interval until ctx ends.
func (a *app) watchDrops(ctx context.Context, all bool, interval time.Duration) error {
	client := a.client()
	var before *control.Drops
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		d, err := client.Drops(ctx)
		if ctx.Err() != nil {
			return nil // the user has seen enough
		}
		if err != nil {
			return err
		}
		if err := a.printDrops(d, before, all, true); err != nil {
			return err
		}
		before = &d
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printDrops prints the counters, with rates where there is an earlier reading,
// under the time where there will be others.
func (a *app) printDrops(d control.Drops, before *control.Drops, all, watch bool) error {
	if a.json() {
		for i, r := range d.Reasons {
			line := dropLine{At: d.At, Drop: r}
			if before != nil {
				rate := perSecond(d, *before, i)
				line.PerSecond = &rate
			}
			if err := a.printJSON(line); err != nil {
				return err
			}
		}
		return nil
	}
	if watch {
		if _, err := io.WriteString(a.out, "\n"+d.At.Format(time.TimeOnly)+"\n"); err != nil {
			return err
		}
	}
	t := newTable(a.out, right("PACKETS"), right("PER SECOND"), left("REASON"), left("EXPLANATION"))
	if before == nil {
		t.hide(1)
	}
	shown := 0
	for i, r := range d.Reasons {
		if r.Packets == 0 && !all {
			continue
		}
		rate := ""
		if before != nil {
			rate = fmt.Sprintf("%.1f", perSecond(d, *before, i))
		}
		t.row(fmt.Sprint(r.Packets), rate, r.Reason, r.Explanation)
		shown++
	}
	if shown == 0 {
		_, err := fmt.Fprintln(a.out, "no packet was dropped")
		return err
	}
	return t.flush()
}

// perSecond is the rate of reason i between two readings. A daemon that was
// restarted in between counts from zero.
func perSecond(now, before control.Drops, i int) float64 {
	elapsed := now.At.Sub(before.At).Seconds()
	if i >= len(before.Reasons) || before.Reasons[i].Reason != now.Reasons[i].Reason || elapsed <= 0 {
		return 0
	}
	was, is := before.Reasons[i].Packets, now.Reasons[i].Packets
	if is < was {
		was = 0
	}
	return float64(is-was) / elapsed
}
