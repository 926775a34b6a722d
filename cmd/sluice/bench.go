package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/bench"
)

func benchCommand(a *app) *cobra.Command {
	o := bench.Options{Version: buildVersion().Version, Progress: a.errOut}
	measure := func(part bench.Part) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, _ []string) error {
			o.Part = part
			r, err := bench.Run(c.Context(), o)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			_, err = fmt.Fprintf(a.out, "%s\nWritten to %s: report.html, report.json, report.txt\n", r.Text(), o.Out)
			return err
		}
	}
	c := group(&cobra.Command{
		Use:   "bench",
		Short: "Measure the gateway on this machine, against others",
		Long: `The benchmarks run in memory and in network namespaces of their own; they touch
nothing else. A full run takes under ten minutes and wants an otherwise idle
machine. The goals are reported, and missing one is no error.`,
	}, &cobra.Command{
		Use:   "all",
		Short: "Everything; over veth only as root",
		Args:  noArgs,
		RunE:  measure(bench.All),
	}, &cobra.Command{
		Use:   "memory",
		Short: "Nanoseconds per packet in memory, against C and Go's map",
		Args:  noArgs,
		RunE:  measure(bench.Memory),
	}, &cobra.Command{
		Use:   "wire",
		Short: "Packets, CPU and latency over veth, against the kernel and a bare forwarder (root)",
		Args:  noArgs,
		RunE:  measure(bench.Wire),
	}, &cobra.Command{
		Use:   "receivers",
		Short: "A thousand TCP connections that begin to receive at once, against the kernel (root)",
		Args:  noArgs,
		RunE:  measure(bench.Receivers),
	}, &cobra.Command{
		Use:   "operator",
		Short: "What flows list, capture, top and trace cost a gateway at full load (root; no part of all)",
		Args:  noArgs,
		RunE:  measure(bench.Operator),
	}, &cobra.Command{
		Use:   "services",
		Short: "The same of services: DSR and SNAT, against the kernel's DNAT (root)",
		Args:  noArgs,
		RunE:  measure(bench.Services),
	})
	flags := c.PersistentFlags()
	flags.StringVar(&o.Out, "out", "bench/out", "directory for the report")
	flags.BoolVar(&o.Quick, "quick", false, "a minute instead, with too few samples to quote")
	flags.IntVar(&o.Pairs, "pairs", 0, "samples of each peer over veth (default 20)")
	flags.DurationVar(&o.Sample, "sample", 0, "length of a sample over veth (default 500ms)")
	return c
}
