package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestManPages: every command has a page with its text, and two builds of one
// commit make the same pages.
func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir, again := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, again} {
		if exit, _, errOut := sluice(t, "man", "--directory", d); exit != 0 {
			t.Fatal(errOut)
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".8"
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			return
		}
		if !strings.Contains(string(text), "Nov 2023") {
			t.Errorf("%s is not of SOURCE_DATE_EPOCH", name)
		}
		if second, err := os.ReadFile(filepath.Join(again, name)); err != nil || string(second) != string(text) {
			t.Errorf("%s differs from one run to the next: %v", name, err)
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(newRoot(&app{}))
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if exit, _, errOut := sluice(t, "man"); exit != 2 || !strings.Contains(errOut, "SOURCE_DATE_EPOCH") {
		t.Errorf("exit %d: %s", exit, errOut)
	}
}
