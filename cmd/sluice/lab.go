package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"sluice/internal/demo"
)

func labCommand(a *app) *cobra.Command {
	o := demo.Options{Out: a.out}
	// A terminal that goes away ends a lab as ^C does, so that nothing of it
	// stays behind.
	inLab := func(f func(context.Context, demo.Options) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("a lab is made of network namespaces, which only root may make; run the command with sudo")
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP)
			defer stop()
			return f(ctx, o)
		}
	}
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
		RunE:  inLab(demo.Run),
	}, &cobra.Command{
		Use:   "dsr",
		Short: "Show Direct Server Return, packet by packet, with a check of each, and clean up",
		Args:  noArgs,
		RunE:  inLab(demo.RunDSR),
	}, &cobra.Command{
		Use:   "up",
		Short: "Keep a lab up, with commands to try, until interrupted",
		Args:  noArgs,
		RunE:  inLab(demo.Up),
	}, &cobra.Command{
		Use:   "down",
		Short: "End the labs that are up, and remove what dead ones left",
		Args:  noArgs,
		RunE:  inLab(demo.Down),
	})
	c.PersistentFlags().IntVar(&o.Queues, "queues", 1, "queues of the gateway's interfaces")
	c.PersistentFlags().StringVar(&o.Driver, "driver", "", "the gateway's driver: native or asavie")
	return c
}
