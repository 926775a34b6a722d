package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/internal/config"
)

// changeJSON is a change as `config diff -o json` prints it.
type changeJSON struct {
	Key     string `json:"key"`
	Old     string `json:"old"` // "" where an entry is added
	New     string `json:"new"` // "" where an entry is removed
	Restart bool   `json:"restart"`
}

func configDiffCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff FILE [FILE]",
		Short: "Show what a configuration changes, and what of it needs a restart",
		Long: `Diff lists what changes from the first file to the second; with one file, from
the configuration that the daemon uses to that file. It compares what files mean:
comments, order, lines and defaults that are written out make no difference.

The last column says what puts a change into force: a reload, or a restart, since
a running gateway cannot change it and reload would refuse the file. Long values,
such as a whole service, are cut; -o json has all of them.`,
		Example: `  # What would a reload do?
  sluice config diff /etc/sluice/sluice.yaml

  sluice config diff old.yaml new.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usage("a file is missing")
			case len(args) > 2:
				return usage("%q is one file too many", args[2])
			case len(args) == 2 && a.socket != "":
				return usage("--socket and a second file exclude each other")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			changes, err := a.changes(c, args)
			if err != nil {
				return err
			}
			return a.printChanges(changes)
		},
	}
}

// changes compares the two files, or the daemon's configuration with the one.
func (a *app) changes(c *cobra.Command, args []string) ([]config.Change, error) {
	after, err := a.load(args[len(args)-1])
	if err != nil {
		return nil, err
	}
	if len(args) == 2 {
		before, err := a.load(args[0])
		if err != nil {
			return nil, err
		}
		return config.Diff(before, after), nil
	}
	inForce, err := a.client().Config(c.Context())
	if err != nil {
		return nil, err
	}
	before, mistakes := config.Parse(inForce.Path, []byte(inForce.Text))
	if before == nil {
		return nil, fmt.Errorf("the daemon's configuration cannot be read by this version: %s; compare files instead", mistakes[0].Text)
	}
	return config.Diff(before, after), nil
}

// shortened keeps a value short enough for its column.
func shortened(value string) string {
	const most = 60
	if r := []rune(value); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return value
}

func (a *app) printChanges(changes []config.Change) error {
	t := newTable(a.out, left("KEY"), left("OLD"), left("NEW"), left("TAKES"))
	restart := false
	for _, c := range changes {
		if a.json() {
			if err := a.printJSON(changeJSON(c)); err != nil {
				return err
			}
			continue
		}
		takes := "reload"
		if c.Restart {
			takes, restart = "restart", true
		}
		t.row(c.Key, dash(shortened(c.Old)), dash(shortened(c.New)), takes)
	}
	if a.json() {
		return nil
	}
	if len(changes) == 0 {
		_, err := fmt.Fprintln(a.out, "no difference")
		return err
	}
	if err := t.flush(); err != nil {
		return err
	}
	last := "`sluice reload` puts it into force"
	if restart {
		last = "`systemctl restart sluice` puts it into force; reload would refuse it"
	}
	_, err := fmt.Fprintf(a.out, "\n%s\n", last)
	return err
}

// dash stands for nothing in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
