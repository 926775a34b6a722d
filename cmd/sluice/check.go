package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/internal/config"
)

// mistakeJSON is a mistake as `check -o json` prints it.
type mistakeJSON struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Key     string `json:"key"`
	Text    string `json:"text"`
	Warning bool   `json:"warning"`
}

func checkCommand(a *app) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration file",
		Long: `Check reads a configuration file and prints every mistake in it, each as
FILE:LINE: key: what is wrong and what to do. It asks no daemon, needs no rights
and never looks at the machine. Warnings are about what is legal but surely not
meant; they do not fail the check.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, mistakes := config.Load(path)
			if err := a.printMistakes(mistakes); err != nil {
				return err
			}
			if config.Refused(mistakes) {
				return errReported
			}
			if a.json() {
				return nil
			}
			_, err := fmt.Fprintf(a.out, "%s: ok\n", path)
			return err
		},
	}
	configFlag(c, &path)
	return c
}

// printMistakes reports to standard error, or as JSON lines where those are
// asked for.
func (a *app) printMistakes(mistakes []config.Mistake) error {
	for _, m := range mistakes {
		if a.json() {
			if err := a.printJSON(mistakeJSON(m)); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintln(a.errOut, m)
	}
	return nil
}
