package main

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"sluice/internal/control"
	"sluice/internal/daemon"
)

func explainCommand(a *app) *cobra.Command {
	var path string
	text := map[string]*string{}
	c := &cobra.Command{
		Use:   "explain --src ADDRESS:PORT --dst ADDRESS:PORT",
		Short: "Say what becomes of a packet, and why",
		Long: `Explain prints every decision about a packet in the order in which it is made,
with the line of the configuration that made it, and last the verdict: forward,
masquerade to A:P, balance to B:P (snat or dsr), drop: REASON, or pass to kernel. It
sends nothing and changes nothing. For any verdict the exit code is 0.

Without --config the daemon is asked: by its routes, neighbours, flows and
addresses as they are now, through the functions that decide for packets. TCP is
taken to open a connection, unless the packet belongs to a flow; --flags says what
the segment is, as for one of a connection that began before the gateway did.

With --config a file alone is read. Then the first outside interface is assumed
to be the way out, and nothing about the machine is known: A is auto where it is
the address of an interface.

P is * where the port is taken and a free one will be searched for.`,
		Example: `  # Why does the database see the gateway's address?
  sluice explain --proto tcp --src 10.20.30.5:40000 --dst 10.1.2.3:3306

  # Would this file change it?
  sluice explain --config new.yaml --proto tcp --src 10.20.30.5:40000 --dst 10.1.2.3:3306

  # A connection that is older than the gateway: does it go on?
  sluice explain --src 10.20.30.5:40000 --dst 1.1.1.1:443 --flags ack

  # Ping, by identifier; the verdict alone
  sluice explain --proto icmp --src 10.20.30.5:7 --dst 1.1.1.1 -o json | jq -r .verdict`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := url.Values{}
			for name, value := range text {
				if *value != "" {
					v.Set(name, *value)
				}
			}
			q, err := control.ParseQuestion(v)
			if err != nil {
				return usage("--%w", err)
			}
			e, err := a.explanation(c, path, q)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(e)
			}
			return a.printExplanation(&e)
		},
	}
	c.Flags().StringVarP(&path, "config", "c", "", "ask a configuration file instead of the daemon")
	for _, flag := range []struct{ name, value, help string }{
		{"proto", "tcp", "tcp, udp, icmp, gre, esp, sctp and so on, or a number"},
		{"src", "", "source of the packet, ADDRESS:PORT; for ICMP ADDRESS:IDENTIFIER"},
		{"dst", "", "destination of the packet, ADDRESS:PORT"},
		{"flags", "", "of a TCP segment: syn, ack, rst, fin, psh, urg, with commas between several (default: it opens a connection, unless it belongs to a flow)"},
		{"in", "", "interface it arrives on (default the one that leads back to its source)"},
	} {
		text[flag.name] = c.Flags().String(flag.name, flag.value, flag.help)
	}
	return c
}

// explanation asks whoever is to be asked.
func (a *app) explanation(c *cobra.Command, path string, q control.Question) (control.Explanation, error) {
	if !c.Flags().Changed("config") {
		return a.client().Explain(c.Context(), q)
	}
	if a.socket != "" {
		return control.Explanation{}, usage("--config and --socket exclude each other: ask a file or the daemon")
	}
	cfg, err := a.load(path)
	if err != nil {
		return control.Explanation{}, err
	}
	return daemon.ExplainFile(cfg, q)
}

// printExplanation prints the decisions as a table, and the verdict alone on the
// last line.
func (a *app) printExplanation(e *control.Explanation) error {
	fmt.Fprintf(a.out, "%s %s to %s, by %s\n", e.Protocol, endpoint(e.Original, true), endpoint(e.Original, false), e.Config)
	for _, s := range e.Assumptions {
		fmt.Fprintf(a.out, "assumed: %s\n", s)
	}
	fmt.Fprintln(a.out)
	return a.printDecisions(e, "")
}

// printDecisions prints the decisions as a table, and the verdict.
func (a *app) printDecisions(e *control.Explanation, indent string) error {
	t := newTable(a.out, left("STAGE"), right("LINE"), left("DECISION"))
	t.indent = indent
	for _, d := range e.Decisions {
		line := "-"
		if d.Line > 0 {
			line = strconv.Itoa(d.Line)
		}
		t.row(d.Stage, line, d.Text)
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "\n%s%s\n", indent, e.Verdict)
	return err
}

// endpoint words one end of a packet.
func endpoint(t control.Tuple, source bool) string {
	addr, port := t.Dst, t.Dport
	if source {
		addr, port = t.Src, t.Sport
	}
	if port == 0 { // a protocol without ports, or a later fragment
		return addr.String()
	}
	return fmt.Sprintf("%s:%d", addr, port)
}
