package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"sluice/internal/config"
	"sluice/internal/migrate"
)

// maxSource is the largest file that is migrated from.
const maxSource = 16 << 20

// migratedJSON is what `config migrate -o json` prints.
type migratedJSON struct {
	Config   map[string]any `json:"config"`
	Warnings []mistakeJSON  `json:"warnings"`
}

func configMigrateCommand(a *app) *cobra.Command {
	var o migrate.Options
	c := &cobra.Command{
		Use:   "migrate [FILE...]",
		Short: "Make a configuration out of Cilium's, ip-masq-agent's or Calico's",
		Long: `Migrate reads a Cilium ConfigMap or its keys alone, the old names included, an
ip-masq-agent file, and Calico IPPools, all of one cluster, from files or from
standard input, and prints the configuration that they amount to.

Warnings on standard error tell of each key whose meaning changed from one version
to the next, of what cannot be carried over, and of what is surely not meant. Read
them: a configuration that was wrong for years and worked by accident does so no
longer after a migration.`,
		Example: `  kubectl -n kube-system get configmap cilium-config -o yaml | sluice config migrate --inside eth1 --outside eth0

  kubectl get ippools -o yaml > pools.yaml
  sluice config migrate pools.yaml > sluice.yaml && sluice check --config sluice.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"-"}
			}
			var sources []migrate.Source
			for _, path := range args {
				s, err := readSource(c.InOrStdin(), path)
				if err != nil {
					return err
				}
				sources = append(sources, s)
			}
			r, err := migrate.Read(sources, o)
			if err != nil {
				return err
			}
			return a.printMigrated(r)
		},
	}
	c.Flags().StringSliceVar(&o.Inside, "inside", nil, "interfaces towards the sources, such as eth1,eth2")
	c.Flags().StringSliceVar(&o.Outside, "outside", nil, "interfaces towards the outside")
	return c
}

// readSource reads a file, or standard input for -.
func readSource(stdin io.Reader, path string) (migrate.Source, error) {
	name, in := path, stdin
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return migrate.Source{}, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSource+1))
	if err == nil && len(text) > maxSource {
		err = fmt.Errorf("%s: is larger than %d bytes, which no such file is", name, maxSource)
	}
	return migrate.Source{Name: name, Text: text}, err
}

func (a *app) printMigrated(r *migrate.Result) error {
	if a.json() {
		out := migratedJSON{Config: config.Document(r.Config), Warnings: []mistakeJSON{}}
		for _, w := range r.Warnings {
			out.Warnings = append(out.Warnings, mistakeJSON(w))
		}
		return a.printJSON(out)
	}
	if err := a.printMistakes(r.Warnings); err != nil {
		return err
	}
	_, err := io.WriteString(a.out, r.Text)
	return err
}
