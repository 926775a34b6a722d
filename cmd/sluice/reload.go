package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func reloadCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration again",
		Long: `Reload returns when every worker uses the new configuration. Where that is not
possible it fails, says why, and nothing changes.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.client().Reload(c.Context())
			if refusal, ok := errors.AsType[*control.Refusal](err); ok {
				return a.printRefusal(refusal)
			}
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			for _, w := range r.Warnings {
				fmt.Fprintln(a.errOut, w)
			}
			what := "reloaded"
			if !r.Changed {
				what = "says what was in force already"
			}
			_, err = fmt.Fprintf(a.out, "%s: %s\n", r.Path, what)
			return err
		},
	}
}

// printRefusal prints every mistake that a reload was refused for.
func (a *app) printRefusal(r *control.Refusal) error {
	if a.json() {
		if err := a.printJSON(r); err != nil {
			return err
		}
		return errReported
	}
	for _, m := range r.Mistakes {
		fmt.Fprintln(a.errOut, m)
	}
	if len(r.Mistakes) == 0 {
		return r
	}
	fmt.Fprintln(a.errOut, "sluice: reload refused, nothing changed; correct the file and reload again")
	return errReported
}
