package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sluice/internal/config"
	"sluice/internal/control"
)

// app is one invocation of the program.
type app struct {
	out, errOut io.Writer
	begun       bool   // the command line was understood
	output      string // table, json
	socket      string // --socket; "" where not given
}

// newRoot returns the tree of commands.
func newRoot(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "sluice",
		Short: "A NAT and load-balancing gateway in user space, on AF_XDP",
		Long: `Sluice is a NAT and load-balancing gateway in user space: an XDP program steers packets
from the network interfaces into AF_XDP sockets, and workers track, translate, balance
and forward them.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return usage("--output: %q is neither table nor json", a.output)
		}
		a.begun = true
		return nil
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "table", "table or json")
	flags.StringVar(&a.socket, "socket", "", "the daemon's control socket (default $SLUICE_SOCKET, else "+config.DefaultSocket+")")
	root.AddCommand(
		runCommand(a), checkCommand(a), reloadCommand(a), detachCommand(a),
		statusCommand(a), flowsCommand(a), natCommand(a), servicesCommand(a), backendCommand(a), explainCommand(a), traceCommand(a), captureCommand(a), dropsCommand(a), topCommand(a), configCommand(a),
		labCommand(a), benchCommand(a), versionCommand(a), manCommand(a),
	)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.InitDefaultCompletionCmd("completion") // takes the output as it is set now
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		group(c)
	}
	return root
}

// noArgs is for commands that take flags only.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%q is one word too many: the command takes flags only", args[0])
	}
	return nil
}

// group makes a command that only has others under it.
func group(c *cobra.Command, children ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("a command is missing")
		}
		text := fmt.Sprintf("there is no command %q", c.CommandPath()+" "+args[0])
		if close := c.SuggestionsFor(args[0]); len(close) > 0 {
			text += "; did you mean " + strings.Join(close, " or ") + "?"
		}
		return usage("%s", text)
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(children...)
	return c
}

// socketPath is where the daemon is asked.
func (a *app) socketPath() string {
	return cmp.Or(a.socket, os.Getenv("SLUICE_SOCKET"), config.DefaultSocket)
}

func (a *app) client() *control.Client { return control.NewClient(a.socketPath()) }

func (a *app) json() bool { return a.output == "json" }

// printJSON writes v on one line.
func (a *app) printJSON(v any) error { return json.NewEncoder(a.out).Encode(v) }

// configFlag adds --config to c.
func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVarP(path, "config", "c", config.DefaultPath, "the configuration file")
}
