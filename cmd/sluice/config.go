package main

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"sluice/internal/config"
)

func configCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "config",
		Short: "Show, compare and migrate configurations",
	}, configExampleCommand(a), configShowCommand(a), configDiffCommand(a), configSchemaCommand(a), configMigrateCommand(a))
}

func configExampleCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print a configuration with every key, its default and what it does",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				c, _ := config.Parse("example", config.Example())
				return a.printJSON(config.Document(c))
			}
			_, err := a.out.Write(config.Example())
			return err
		},
	}
}

func configShowCommand(a *app) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "show",
		Short: "Print what a configuration file amounts to, defaults filled in",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load(path)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(config.Document(c))
			}
			text, err := config.Show(c)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.out, text)
			return err
		},
	}
	configFlag(c, &path)
	return c
}

func configSchemaCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file",
		Long: `Schema prints a JSON Schema (2020-12) of the configuration file, for editors and
for whatever writes such files. It knows keys, types and words; rules between keys
are what ` + "`sluice check`" + ` is for.`,
		Example: `  sluice config schema > /etc/sluice/schema.json

  # in the first line of sluice.yaml, for editors with the YAML language server:
  # yaml-language-server: $schema=/etc/sluice/schema.json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			e := json.NewEncoder(a.out)
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			return e.Encode(config.Schema())
		},
	}
}
