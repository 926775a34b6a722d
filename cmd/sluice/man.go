package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand(a *app) *cobra.Command {
	var directory string
	c := &cobra.Command{
		Use:   "man [--directory DIR]",
		Short: "Print or write the manual pages",
		Long: `Man prints the manual page of sluice, or with --directory writes that of every
command, as troff, into a directory.`,
		Example: `  sluice man | man -l -
  sluice man --directory /usr/local/share/man/man8`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			header, err := manHeader(os.Getenv("SOURCE_DATE_EPOCH"))
			if err != nil {
				return err
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			if directory == "" {
				return doc.GenMan(root, header, a.out)
			}
			if err := os.MkdirAll(directory, 0o755); err != nil {
				return err
			}
			if err := doc.GenManTree(root, header, directory); err != nil {
				return err
			}
			pages, err := filepath.Glob(filepath.Join(directory, "sluice*.8"))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%d pages in %s\n", len(pages), directory)
			return err
		},
	}
	c.Flags().StringVar(&directory, "directory", "", "write a page for every command into this directory")
	return c
}

// manHeader is the head of every page. Its date is SOURCE_DATE_EPOCH's where that
// is set (reproducible-builds.org), so that two builds make the same pages.
func manHeader(epoch string) (*doc.GenManHeader, error) {
	h := &doc.GenManHeader{Title: "SLUICE", Section: "8", Source: "sluice", Manual: "Sluice"}
	date := time.Now()
	if epoch != "" {
		var seconds int64
		if _, err := fmt.Sscan(epoch, &seconds); err != nil {
			return nil, usage("SOURCE_DATE_EPOCH: %q is not a number of seconds", epoch)
		}
		date = time.Unix(seconds, 0).UTC()
	}
	h.Date = &date
	return h, nil
}
