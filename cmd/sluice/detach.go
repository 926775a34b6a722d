package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"sluice/internal/config"
	"sluice/internal/daemon"
)

// detached is an interface as `detach -o json` prints it.
type detached struct {
	Interface string `json:"interface"`
}

func detachCommand(a *app) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "detach",
		Short: "Take the steering program away",
		Long: `Detach takes the steering program and its pins off the interfaces of this network
namespace, so that the kernel gets their packets again: off all of them, or with
--config off those that the file lists. The programs of the DSR agent go, too, and are
listed as dsr-agent. It needs no daemon, and does not stop one that runs: that one is
degraded then, until it is restarted. Nothing attached is no error.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all := !c.Flags().Changed("config")
			var listed []string
			agentListed := false
			if !all {
				cfg, err := a.load(path)
				if err != nil {
					return err
				}
				agentListed = len(cfg.DSRAgent.Interfaces) > 0
				for _, f := range cfg.Interfaces {
					listed = append(listed, f.Name)
				}
			}
			if os.Geteuid() != 0 {
				return errors.New("detach: only root may change XDP programs; run the command with sudo")
			}
			names, err := daemon.Detach(all, listed)
			if all || agentListed {
				there, agentErr := daemon.DetachAgent()
				if there {
					names = append(names, "dsr-agent")
				}
				err = errors.Join(err, agentErr)
			}
			return errors.Join(a.printDetached(names, err == nil), err)
		},
	}
	c.Flags().StringVarP(&path, "config", "c", "", "only the interfaces that this configuration file lists")
	return c
}

// load reads a configuration for a command that cannot go on without one.
// Warnings are for `check` to tell.
func (a *app) load(path string) (*config.Config, error) {
	c, mistakes := config.Load(path)
	if c != nil {
		return c, nil
	}
	if err := a.printMistakes(mistakes); err != nil {
		return nil, err
	}
	return nil, errReported
}

func (a *app) printDetached(names []string, complete bool) error {
	slices.Sort(names)
	for _, name := range names {
		var err error
		if a.json() {
			err = a.printJSON(detached{name})
		} else {
			_, err = fmt.Fprintf(a.out, "detached from %s\n", name)
		}
		if err != nil {
			return err
		}
	}
	if len(names) == 0 && complete && !a.json() {
		_, err := fmt.Fprintln(a.out, "nothing was attached")
		return err
	}
	return nil
}
