package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/control"
	"sluice/internal/filter"
)

func traceCommand(a *app) *cobra.Command {
	q := control.TraceQuestion{}
	c := &cobra.Command{
		Use:   "trace [FILTER]",
		Short: "Show what becomes of live packets, decision by decision",
		Long: `Trace shows packets as the workers deal with them: every decision in the order in
which it was made, in the words of explain, and last the verdict. It ends after as
many packets as -n asks for, after --timeout, or when interrupted.

FILTER is a part of tcpdump's language; without one every packet is shown:

  host A, net P          with src or dst before it: that side only; host may be left out
  port N, portrange N-N  likewise; with tcp or udp before it: that protocol only
  tcp, udp, icmp, proto N
  tcp[tcpflags] & tcp-syn != 0   flags of TCP, as tcpdump names them
  dropped, reason WORD   what was dropped, for any reason or that one
  not, and, or, ( )      and and or bind alike, from the left, as in tcpdump

A word is true of a packet that it is true of as it arrives or as it leaves, and a
packet is shown if the filter is true of it or of its flow's other direction: so
the inside address of a connection finds its replies, too.`,
		Example: `  # Both directions of what a host does on the web
  sluice trace -n 20 host 10.20.30.5 and tcp port 443

  # What is being dropped, but for scans of unmapped ports
  sluice trace 'dropped and not (reason no-mapping or reason filtered)'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			q.Filter = strings.Join(args, " ")
			if _, err := filter.Parse(q.Filter); err != nil {
				return usage("%w", err)
			}
			if err := q.Check(); err != nil {
				return usage("--%w", err)
			}
			return a.trace(c.Context(), q)
		},
	}
	c.Flags().IntVarP(&q.Count, "count", "n", 10, "how many packets")
	c.Flags().DurationVar(&q.Timeout, "timeout", time.Minute, "how long at most")
	return c
}

// trace prints packets until the trace or ctx ends. How it went is said on
// standard error, so that the output is packets only.
func (a *app) trace(ctx context.Context, q control.TraceQuestion) error {
	var n int
	var lost, unseen uint64
	err := a.client().Trace(ctx, q, func() {
		fmt.Fprintf(a.errOut, "tracing %d packets, for %s at most\n", q.Count, q.Timeout)
	}, func(t *control.Traced) error {
		n, lost, unseen = t.Number, t.Lost, t.Unseen
		if a.json() {
			return a.printJSON(t)
		}
		return a.printTraced(t)
	})
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return err
	}
	text := fmt.Sprintf("traced %d of %d", n, q.Count)
	if lost > 0 {
		text += fmt.Sprintf("; %d came too fast to be shown, choose fewer with a filter", lost)
	}
	if unseen > 0 {
		text += fmt.Sprintf("; %d went by while a worker was behind and looked at none", unseen)
	}
	fmt.Fprintln(a.errOut, text)
	return nil
}

// printTraced prints a packet as printExplanation does, under a line of its own.
func (a *app) printTraced(t *control.Traced) error {
	what := "not IPv4, or malformed"
	if t.Protocol != "" {
		what = fmt.Sprintf("%s %s to %s, TTL %d", t.Protocol, endpoint(t.Original, true), endpoint(t.Original, false), t.TTL)
	}
	flow := ""
	if t.Flow != "" {
		flow = ", flow " + t.Flow
	}
	if t.Number > 1 {
		fmt.Fprintln(a.out)
	}
	queue := ""
	if t.Queue >= 0 {
		queue = fmt.Sprintf(" queue %d", t.Queue)
	}
	fmt.Fprintf(a.out, "#%d %s worker %d%s, %d bytes: %s%s\n", t.Number, t.At.Local().Format("15:04:05.000"), t.Worker, queue, t.Length, what, flow)
	return a.printDecisions(&t.Explanation, "  ")
}
