package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func flowsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "flows",
		Short: "List, count, watch and end flows",
	}, flowsListCommand(a), flowsCountCommand(a), flowsWatchCommand(a), flowsFlushCommand(a))
}

// flowFilter are the flags that choose flows.
type flowFilter struct {
	text   map[string]*string
	natted bool
}

func (f *flowFilter) add(c *cobra.Command) {
	f.text = map[string]*string{}
	for _, flag := range []struct{ name, help string }{
		{"proto", "tcp, udp, icmp, gre, esp, sctp and so on, or a number"},
		{"src", "source address or prefix of the original direction"},
		{"dst", "destination address or prefix of the original direction"},
		{"sport", "source port of the original direction; for ICMP the identifier"},
		{"dport", "destination port of the original direction"},
		{"state", "state, such as established"},
		{"service", "name of a service"},
	} {
		f.text[flag.name] = c.Flags().String(flag.name, "", flag.help)
	}
	c.Flags().BoolVar(&f.natted, "natted", false, "only flows whose addresses or ports are translated")
}

// filter reads the flags as the daemon reads a query, so that both refuse the
// same.
func (f *flowFilter) filter(c *cobra.Command) (control.Filter, error) {
	v := url.Values{}
	for name, text := range f.text {
		if c.Flags().Changed(name) {
			v.Set(name, *text)
		}
	}
	filter, err := control.ParseFilter(v)
	if err != nil {
		return control.Filter{}, usage("--%w", err)
	}
	filter.Natted = f.natted
	return filter, nil
}

func flowsListCommand(a *app) *cobra.Command {
	var f flowFilter
	c := &cobra.Command{
		Use:   "list",
		Short: "List the live flows",
		Long: `List prints the live flows, one a line, as they are read from the table: a flow
that begins or ends meanwhile may or may not be there. The table's lines are those
of conntrack -L: protocol, seconds until it ends, state, the original tuple with
its packets and bytes, and the tuple of the replies as they arrive.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.filter(c)
			if err != nil {
				return err
			}
			out := bufio.NewWriterSize(a.out, 64<<10)
			enc := json.NewEncoder(out)
			err = a.client().Flows(c.Context(), filter, func(flow control.Flow) error {
				if a.json() {
					return enc.Encode(&flow)
				}
				return writeFlow(out, &flow)
			})
			if flush := out.Flush(); err == nil {
				err = flush
			}
			return err
		},
	}
	f.add(c)
	return c
}

func flowsCountCommand(a *app) *cobra.Command {
	var f flowFilter
	c := &cobra.Command{
		Use:   "count",
		Short: "Count the live flows",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.filter(c)
			if err != nil {
				return err
			}
			n, err := a.client().CountFlows(c.Context(), filter)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(n)
			}
			_, err = fmt.Fprintln(a.out, n.Count)
			return err
		},
	}
	f.add(c)
	return c
}

// writeFlow prints a flow the way conntrack does.
func writeFlow(w io.Writer, f *control.Flow) error {
	var b strings.Builder
	wordFlow(&b, f)
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func wordFlow(b *strings.Builder, f *control.Flow) {
	fmt.Fprintf(b, "%-6s %6d %-16s", f.Protocol, f.TimeoutSeconds, f.State)
	writeTuple(b, f.Protocol, f.Original, f.Packets.Original, f.Bytes.Original)
	// Events are told before their packet is counted: who answered a SYN has replied.
	if f.Reply != nil && f.Packets.Reply == 0 && f.State != "syn-received" {
		b.WriteString(" [UNREPLIED]")
	}
	if f.Reply != nil {
		writeTuple(b, f.Protocol, *f.Reply, f.Packets.Reply, f.Bytes.Reply)
	}
	b.WriteString(" kind=" + f.Kind)
	if f.Service != "" {
		b.WriteString(" service=" + f.Service)
	}
	if f.Backend != "" {
		b.WriteString(" backend=" + f.Backend)
	}
}

func writeTuple(b *strings.Builder, protocol string, t control.Tuple, packets, bytes uint64) {
	fmt.Fprintf(b, " src=%s dst=%s", t.Src, t.Dst)
	switch protocol {
	case "icmp":
		fmt.Fprintf(b, " id=%d", t.Sport)
	case "tcp", "udp":
		fmt.Fprintf(b, " sport=%d dport=%d", t.Sport, t.Dport)
	}
	fmt.Fprintf(b, " packets=%d bytes=%d", packets, bytes)
}
