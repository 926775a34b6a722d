package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

// release is the version that the build was given (-ldflags "-X main.release=v1.2.3").
var release string

// buildVersion says what this program was built from.
func buildVersion() control.Version {
	v := control.Version{Version: release, Go: runtime.Version(), Arch: runtime.GOARCH}
	dirty := false
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	if dirty && v.Commit != "" {
		v.Commit += "-dirty"
	}
	return v
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			if a.json() {
				return a.printJSON(v)
			}
			_, err := fmt.Fprintln(a.out, "sluice "+describeVersion(v))
			return err
		},
	}
}

func describeVersion(v control.Version) string {
	s := v.Version
	if v.Commit != "" {
		s += " (" + shortCommit(v.Commit) + ")"
	}
	return s + " " + v.Go + " linux/" + v.Arch
}

// shortCommit cuts a hash to what people read, and keeps the mark of a tree that
// was not clean.
func shortCommit(s string) string {
	const short, hash = 12, 40
	if len(s) < hash {
		return s
	}
	return s[:short] + s[hash:]
}
