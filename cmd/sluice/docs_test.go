package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

// shown is a command line that a document shows.
type shown struct {
	where string // file:line
	args  []string
	block bool // in a block to copy from, not in a sentence
}

var (
	codeBlock = regexp.MustCompile("^(?: {4,}|\t)(?:sudo )?(?:bin/)?sluice (.*)")
	codeSpan  = regexp.MustCompile("`(?:sudo )?(?:bin/)?sluice ([^`]+)`")
)

// documentLines are the lines of README.md and of each of docs, each by its file:line.
func documentLines(t *testing.T) (files [][]documentLine) {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var lines []documentLine
		for i, line := range strings.Split(string(text), "\n") {
			lines = append(lines, documentLine{filepath.Base(path) + ":" + strconv.Itoa(i+1), line})
		}
		files = append(files, lines)
	}
	return files
}

type documentLine struct{ where, text string }

// documents reads every command line that README.md and docs show.
func documents(t *testing.T) (all []shown) {
	t.Helper()
	for _, lines := range documentLines(t) {
		fenced := false
		for _, l := range lines {
			where, line := l.where, l.text
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
				continue
			}
			if fenced {
				line = "    " + line
			}
			if m := codeBlock.FindStringSubmatch(line); m != nil {
				all = append(all, shown{where, words(m[1]), true})
				continue
			}
			for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
				all = append(all, shown{where, words(m[1]), false})
			}
		}
	}
	if len(all) < 20 {
		t.Fatalf("only %d command lines found", len(all))
	}
	return all
}

// words are the arguments of a line, less its comment and what it is piped into.
// Quotes are dropped: the commands that take a quoted argument take its words, too.
func words(line string) []string {
	for _, end := range []string{" #", " | ", " > ", " && "} {
		line, _, _ = strings.Cut(line, end)
	}
	return strings.Fields(strings.ReplaceAll(line, "'", ""))
}

// TestDocumentsShowRealCommands: every command line that a document shows is
// one, by its command, its flags and the number of its arguments.
func TestDocumentsShowRealCommands(t *testing.T) {
	for _, s := range documents(t) {
		root := newRoot(&app{})
		c, rest, err := root.Find(s.args)
		switch {
		case err != nil:
			t.Errorf("%s: %q: %v", s.where, s.args, err)
		case s.block && c.HasSubCommands():
			t.Errorf("%s: %q lacks a command of %s", s.where, s.args, c.CommandPath())
		default:
			if err = c.ParseFlags(rest); err == nil && !c.HasSubCommands() {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err == nil && c.HasSubCommands() && len(c.Flags().Args()) > 0 {
				err = usage("there is no command %q", c.Flags().Arg(0))
			}
			if err != nil {
				t.Errorf("%s: %q: %v", s.where, s.args, err)
			}
		}
	}
}

// documented is the service that the documents have commands for.
func documented() []control.Service {
	s := web()
	for i := range s[0].Backends {
		s[0].Backends[i].Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 20, 30, byte(11 + i)}), 8080)
	}
	return s
}

// TestDocumentsShowCommandsThatRun: all that do not change the machine are run,
// against a daemon of the test's and with a file of the test's. In a sentence a
// command may lack its arguments, and is then only its name.
func TestDocumentsShowCommandsThatRun(t *testing.T) {
	nat := natted()
	socket := serve(t, &fake{
		pools: nat.pools, mappings: nat.mappings, services: documented(),
		drops:  func() control.Drops { return control.Drops{} },
		reload: func() (control.ReloadResult, error) { return control.ReloadResult{}, nil },
		explain: func(control.Question) (control.Explanation, error) {
			return control.Explanation{Verdict: "forward"}, nil
		},
		capture: onePacket,
		config:  goodConfig,
	})
	t.Setenv("SLUICE_SOCKET", socket)
	config := file(t, goodConfig)
	ran := 0
	all := documents(t)
	t.Chdir(t.TempDir()) // some write files
	for _, s := range all {
		c, rest, err := newRoot(&app{}).Find(s.args)
		if slices.Contains([]string{"run", "detach", "lab", "bench"}, s.args[0]) || !s.block && (err != nil || c.HasSubCommands() || len(rest) == 0) {
			continue
		}
		args := slices.Clone(s.args)
		if len(args) == 1 && args[0] == "check" { // of the file in /etc
			args = append(args, "--config", "FILE")
		}
		for i := range args {
			if strings.HasSuffix(args[i], ".yaml") || args[i] == "FILE" {
				args[i] = config
			}
		}
		ctx, stop := t.Context(), context.CancelFunc(func() {})
		if slices.Contains(args, "--watch") || slices.Contains(args, "watch") {
			ctx, stop = context.WithTimeout(ctx, 200*time.Millisecond)
		}
		var out, errOut strings.Builder
		if code := run(ctx, args, &out, &errOut); code != exitFine {
			t.Errorf("%s: %q: exit %d, %s", s.where, s.args, code, errOut.String())
		}
		stop()
		ran++
	}
	if ran < 60 {
		t.Errorf("only %d commands were run", ran)
	}
}
