package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func flowsWatchCommand(a *app) *cobra.Command {
	var f flowFilter
	c := &cobra.Command{
		Use:   "watch",
		Short: "Watch flows begin, change state and end",
		Long: `Watch prints the events of flows as they happen, until interrupted, in the manner
of conntrack -E: NEW, UPDATE (of the state) and DESTROY with the reason. Forwarding
waits for nobody: a reader that is too slow loses events, and is told how many.`,
		Example: `  sluice flows watch --src 10.0.0.5
  sluice flows watch --proto tcp --dport 443 -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.filter(c)
			if err != nil {
				return err
			}
			err = a.client().WatchFlows(c.Context(), filter, func() {}, func(e *control.FlowEvent) error {
				if a.json() {
					return a.printJSON(e)
				}
				return writeEvent(a.out, e)
			})
			if c.Context().Err() != nil {
				return nil // the user has seen enough
			}
			return err
		},
	}
	f.add(c)
	return c
}

// writeEvent prints an event the way conntrack -E -o timestamp does.
func writeEvent(w io.Writer, e *control.FlowEvent) error {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s] %9s ", e.At.Local().Format("2006-01-02 15:04:05.0"), "["+strings.ToUpper(e.Event)+"]")
	if e.Event == control.EventLost {
		fmt.Fprintf(&b, "%d events came faster than they were read\n", e.Lost)
		_, err := io.WriteString(w, b.String())
		return err
	}
	wordFlow(&b, &e.Flow)
	if e.Reason != "" {
		fmt.Fprintf(&b, " reason=%s age=%s", e.Reason, max(e.At.Sub(e.Created), 0).Round(time.Second))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func flowsFlushCommand(a *app) *cobra.Command {
	var f flowFilter
	var all bool
	c := &cobra.Command{
		Use:   "flush",
		Short: "End flows",
		Long: `Flush ends the live flows that the filter matches, or all of them with --all, and
prints how many. It needs root or the daemon's user. The next packet of a UDP or ICMP
flow begins another; what is left of a TCP connection is dropped.`,
		Example: `  sluice flows flush --src 10.0.0.5
  sluice flows flush --proto udp --dport 53
  sluice flows flush --all`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.filter(c)
			switch {
			case err != nil:
				return err
			case all && !filter.All():
				return usage("--all: it excludes a filter; give one or the other")
			case !all && filter.All():
				return usage("no filter is given, which would end every flow; give one, or --all")
			}
			done, err := a.client().FlushFlows(c.Context(), filter, all)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(done)
			}
			_, err = fmt.Fprintf(a.out, "%s ended\n", plural(done.Flushed, "flow"))
			return err
		},
	}
	f.add(c)
	c.Flags().BoolVar(&all, "all", false, "every flow")
	return c
}
