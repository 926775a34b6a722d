package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// longFlag is a flag as the help lists it.
var longFlag = regexp.MustCompile(`(?m)^ .*?(--[a-z-]+)`)

// flagsOf are the flags of a command's own, but for those that all have.
func flagsOf(c *cobra.Command) (list []string) {
	for _, m := range longFlag.FindAllStringSubmatch(c.LocalNonPersistentFlags().FlagUsages()+c.PersistentFlags().FlagUsages(), -1) {
		if m[1] != "--help" && m[1] != "--version" {
			list = append(list, m[1])
		}
	}
	return list
}

// TestManPages: every command has a page with its text and flags, and two builds of one
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
		for _, flag := range flagsOf(c) {
			if !strings.Contains(strings.ReplaceAll(string(text), `\-`, "-"), flag) {
				t.Errorf("%s lacks %s", name, flag)
			}
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

// TestCompletionIsCurrent: what the shells' scripts ask the program knows every command and
// flag, and shells that are here can read the scripts.
func TestCompletionIsCurrent(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		_, flags, _ := sluice(t, append(append([]string{"__complete"}, path...), "--")...)
		for _, flag := range flagsOf(c) {
			if !strings.Contains(flags, flag) {
				t.Errorf("%v: %s is not offered: %s", path, flag, flags)
			}
		}
		_, words, _ := sluice(t, append(append([]string{"__complete"}, path...), "")...)
		for _, child := range c.Commands() {
			if child.Hidden || child.Name() == "help" {
				continue
			}
			if !strings.Contains(words, child.Name()+"\t") {
				t.Errorf("%v: %s is not offered: %s", path, child.Name(), words)
			}
			walk(child)
		}
	}
	walk(newRoot(&app{}))
	for shell, check := range map[string]string{"bash": "-n", "zsh": "-n", "fish": "--no-execute"} {
		exit, script, errOut := sluice(t, "completion", shell)
		if exit != exitFine || !strings.Contains(script, "sluice") {
			t.Errorf("%s: exit %d, %s", shell, exit, errOut)
		}
		if program, err := exec.LookPath(shell); err == nil {
			if out, err := exec.Command(program, check, file(t, script)).CombinedOutput(); err != nil {
				t.Errorf("%s cannot read its script: %v: %s", shell, err, out)
			}
		}
	}
}
