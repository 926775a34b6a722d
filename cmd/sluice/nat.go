package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func natCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "nat",
		Short: "Show external addresses and mappings",
	}, natPoolsCommand(a), natListCommand(a), natWhoCommand(a))
}

func natPoolsCommand(a *app) *cobra.Command {
	top := control.TopSources
	c := &cobra.Command{
		Use:   "pools",
		Short: "Show how much of each external address is in use, and by whom",
		Long: `Pools shows for each external address the ports in use by protocol, how the search
for ports went since the start, the new flows that were refused for want of one, and
the inside addresses with most ports.`,
		Example: `  sluice nat pools --top 20`,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if top < 0 || top > control.MaxTopSources {
				return usage("--top: %d is not 0 to %d", top, control.MaxTopSources)
			}
			p, err := a.client().Pools(c.Context(), top)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(p)
			}
			var b bytes.Buffer
			writePools(&b, &p)
			_, err = b.WriteTo(a.out)
			return err
		},
	}
	c.Flags().IntVar(&top, "top", top, "how many of the inside addresses with most ports")
	return c
}

func writePools(w *bytes.Buffer, p *control.Pools) {
	fmt.Fprintf(w, "External addresses, ports %s:\n", p.PortRange)
	t := newTable(w, left("ADDRESS"), left("OF"), right("TCP"), right(""), right("UDP"), right(""), right("ICMP"), right("RESTING"), right("REFUSED"), right("PORTS EACH"))
	t.indent = "  "
	for _, x := range p.Addresses {
		t.row(x.Address.String(), describeAddress(&x), strconv.Itoa(x.InUse.TCP), shareOf(x.InUse.TCP, x.Capacity),
			strconv.Itoa(x.InUse.UDP), shareOf(x.InUse.UDP, x.Capacity), strconv.Itoa(x.InUse.ICMP),
			strconv.Itoa(x.Resting.TCP+x.Resting.UDP+x.Resting.ICMP), number(x.Refused), portsOf(&x))
	}
	flush(t)
	s := &p.Ports
	fmt.Fprintf(w, "\nMappings:   %s, of %s\n", usageOf(p.Mappings), plural(p.Inside, "inside address"))
	fmt.Fprintf(w, "Ports:      %d kept, %d searched, %d retries, %d times none was free\n", s.Kept, s.Searched, s.Retries, s.Exhausted)
	if s.Shared+s.Waited > 0 {
		fmt.Fprintf(w, "            %d shared, %d packets held for a search\n", s.Shared, s.Waited)
	}
	refused := newTable(w, right("REFUSED"), left("REASON"), left("EXPLANATION"))
	refused.indent = "  "
	for _, f := range p.Failures {
		if f.Packets > 0 {
			refused.row(number(f.Packets), f.Reason, f.Explanation)
		}
	}
	if len(refused.rows) > 0 {
		section(w, "Refused")
		flush(refused)
	}
	if len(p.Sources) == 0 {
		return
	}
	section(w, "Inside addresses with most ports")
	busiest := newTable(w, right("PORTS"), right("FLOWS"), left("ADDRESS"), left("EXTERNAL"))
	busiest.indent = "  "
	for _, x := range p.Sources {
		busiest.row(strconv.Itoa(x.Ports), strconv.Itoa(x.Flows), x.Address.String(), x.External.String())
	}
	flush(busiest)
}

// describeAddress says whose an external address is, and what it is for where that
// is not masquerading.
func describeAddress(x *control.ExternalAddress) string {
	of := x.Interface
	if of == "" {
		of = "pool"
	}
	switch x.Use {
	case control.ForServices:
		of += ", for services"
	case control.ForForwards:
		of = "port-forwards"
	}
	if x.Shared {
		of += ", shared with the host"
	}
	return of
}

func portsOf(x *control.ExternalAddress) string {
	if x.Capacity == 0 {
		return "-"
	}
	return strconv.Itoa(x.Capacity)
}

func shareOf(used, capacity int) string {
	if capacity <= 0 {
		return ""
	}
	return percent(float64(used) / float64(capacity))
}

func natListCommand(a *app) *cobra.Command {
	text := map[string]*string{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the mappings of inside to external endpoints",
		Long: `List prints the mappings, one a line: which
inside endpoint is which external one, how many flows use it, and how old it is.`,
		Example: `  sluice nat list --inside 10.0.0.5
  sluice nat list --external 192.0.2.1 --proto udp -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := url.Values{}
			for name, text := range text {
				if c.Flags().Changed(name) {
					v.Set(name, *text)
				}
			}
			filter, err := control.ParseMappingFilter(v)
			if err != nil {
				return usage("--%w", err)
			}
			out := bufio.NewWriterSize(a.out, 64<<10)
			enc := json.NewEncoder(out)
			err = a.client().Mappings(c.Context(), filter, func(m *control.Mapping) error {
				if a.json() {
					return enc.Encode(m)
				}
				return writeMapping(out, m)
			})
			if flush := out.Flush(); err == nil {
				err = flush
			}
			return err
		},
	}
	for _, flag := range []struct{ name, help string }{
		{"proto", "tcp, udp or icmp"}, {"inside", "inside address or prefix"}, {"external", "external address or prefix"},
	} {
		text[flag.name] = c.Flags().String(flag.name, "", flag.help)
	}
	return c
}

func writeMapping(w io.Writer, m *control.Mapping) error {
	note := ""
	if m.Peer != "" {
		note = " towards=" + m.Peer
	}
	if m.Shared {
		note += " [SHARED]"
	}
	if m.Draining {
		note += " [DRAINING]"
	}
	_, err := fmt.Fprintf(w, "%-5s %-21s <-> %-21s flows=%d age=%s%s\n",
		m.Protocol, m.Inside, m.External, m.Flows, span(float64(m.AgeSeconds)), note)
	return err
}

func natWhoCommand(a *app) *cobra.Command {
	var proto string
	c := &cobra.Command{
		Use:   "who EXTERNAL:PORT",
		Short: "Show which inside endpoint holds an external one",
		Long: `Who answers a complaint about an external address and port: which inside endpoint
holds it now, and since when. Without --proto it looks at TCP, UDP and ICMP. The exit
code is 1 where nobody does.

It cannot tell of the past: compare the time in the complaint with the mapping's. This
version has no NAT log of its own (nat-log is reserved); where you must be able to say
who held a port last week, keep the output of sluice flows watch -o json.`,
		Example: `  sluice nat who 192.0.2.1:40123 --proto tcp`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("it takes one argument, EXTERNAL:PORT")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			e, err := control.ParseEndpoint(args[0], proto)
			if err != nil {
				return usage("%w", err)
			}
			h, err := a.client().Who(c.Context(), e)
			if err != nil {
				return err
			}
			return a.printHolders(&h)
		},
	}
	c.Flags().StringVar(&proto, "proto", "", "tcp, udp or icmp")
	return c
}

func (a *app) printHolders(h *control.Holders) error {
	if a.json() {
		if err := a.printJSON(h); err != nil {
			return err
		}
	}
	for i := range h.Holders {
		if a.json() {
			break
		}
		m := &h.Holders[i]
		if err := writeMapping(a.out, m); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(a.out, "      since %s, last flow began %s\n", clock(m.Created), clock(m.LastFlow)); err != nil {
			return err
		}
	}
	if len(h.Holders) > 0 {
		return nil
	}
	if !a.json() {
		fmt.Fprintf(a.errOut, "sluice: nobody holds %s now; who did before, only a kept `sluice flows watch -o json` can tell\n", h.External)
	}
	return errReported
}
