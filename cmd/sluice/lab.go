package main

import (
	"github.com/spf13/cobra"

	"sluice/internal/demo"
)

func labCommand(a *app) *cobra.Command {
	o := demo.Options{Out: a.out}
	c := group(&cobra.Command{
		Use:   "lab",
		Short: "Try the gateway in a network of namespaces",
		Long: `A lab is a network of namespaces on this machine: clients inside, servers outside,
the gateway between them. It touches nothing else, needs root, and is removed
completely when it ends.`,
	}, &cobra.Command{
		Use:   "demo",
		Short: "Send real traffic through a gateway, print what happened, clean up",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return demo.Run(c.Context(), o) },
	}, &cobra.Command{
		Use:   "up",
		Short: "Keep a lab up, with commands to try, until interrupted",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return demo.Up(c.Context(), o) },
	}, &cobra.Command{
		Use:   "down",
		Short: "End the labs that are up, and remove what dead ones left",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return demo.Down(c.Context(), o) },
	})
	c.PersistentFlags().IntVar(&o.Queues, "queues", 1, "queues of the gateway's interfaces")
	return c
}
