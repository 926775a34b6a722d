package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// session is a block of a document, ```console, that shows commands after "$ "
// and what they print. A line "…" stands for any lines.
type session struct {
	where   string
	command string
	shown   []string
}

// transcript is a document's files (```yaml NAME) and sessions, from the top.
type transcript struct {
	path  string
	lines []string
	steps []func(t *testing.T) // write a file, or run a command
	files map[string]string
	all   []session
}

// readTranscript reads a document.
func readTranscript(t *testing.T, path string) *transcript {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &transcript{path: path, lines: strings.Split(string(text), "\n"), files: map[string]string{}}
	for i := 0; i < len(d.lines); i++ {
		kind, ok := strings.CutPrefix(strings.TrimSpace(d.lines[i]), "```")
		if !ok {
			continue
		}
		indent := len(d.lines[i]) - len(strings.TrimLeft(d.lines[i], " "))
		first := i + 1
		for i++; i < len(d.lines) && strings.TrimSpace(d.lines[i]) != "```"; i++ {
		}
		if i == len(d.lines) {
			t.Fatalf("%s:%d: the block does not end", path, first)
		}
		name, file := strings.CutPrefix(kind, "yaml ")
		switch {
		case file:
			d.files[name] = outdented(d.lines[first:i], indent)
			d.steps = append(d.steps, d.write(name, d.files[name]))
		case kind == "console":
			d.addSessions(t, first, i, indent)
		}
	}
	return d
}

// outdented is a block in a list without the list's indentation.
func outdented(lines []string, indent int) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line[min(indent, len(line)):] + "\n")
	}
	return b.String()
}

func (d *transcript) write(name, text string) func(*testing.T) {
	return func(t *testing.T) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// addSessions reads the commands in lines from to to.
func (d *transcript) addSessions(t *testing.T, from, to, indent int) {
	t.Helper()
	for i := from; i < to; {
		where := filepath.Base(d.path) + ":" + strconv.Itoa(i+1)
		command, ok := strings.CutPrefix(strings.TrimSpace(d.lines[i]), "$ sluice ")
		if !ok {
			t.Fatalf("%s: %q is not a command of sluice after \"$ \"", where, d.lines[i])
		}
		s := session{where: where, command: command}
		for i++; i < to && !strings.HasPrefix(strings.TrimSpace(d.lines[i]), "$ "); i++ {
			s.shown = append(s.shown, strings.TrimRight(d.lines[i][min(indent, len(d.lines[i])):], " "))
		}
		d.all = append(d.all, s)
		d.steps = append(d.steps, func(t *testing.T) { d.run(t, s) })
	}
}

// asksNobody are the commands that neither ask a daemon nor change the machine.
var asksNobody = []string{"check", "explain", "config", "version", "man", "completion"}

// run compares what a command prints, on either output, with what is shown.
func (d *transcript) run(t *testing.T, s session) {
	args := words(s.command)
	if !slices.Contains(asksNobody, args[0]) {
		t.Fatalf("%s: the output of `sluice %s` cannot be held to the program here; show it in another kind of block", s.where, args[0])
	}
	var out strings.Builder
	if code := run(t.Context(), args, &out, &out); code == exitUsage {
		t.Errorf("%s: exit %d: %s", s.where, code, out.String())
	}
	got := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	for i := range got {
		got[i] = strings.TrimRight(got[i], " ")
	}
	for len(s.shown) > 0 && s.shown[len(s.shown)-1] == "" {
		s.shown = s.shown[:len(s.shown)-1]
	}
	if !showsAs(s.shown, got) {
		t.Errorf("%s: sluice %s\nshown:\n%s\nprinted:\n%s", s.where, s.command, strings.Join(s.shown, "\n"), strings.Join(got, "\n"))
	}
}

// showsAs reports whether got is what is shown, where "…" is any lines.
func showsAs(shown, got []string) bool {
	for i, line := range shown {
		if line == "…" {
			for skip := range len(got) - i + 1 {
				if showsAs(shown[i+1:], got[i+skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(got) || got[i] != line {
			return false
		}
	}
	return len(shown) == len(got)
}

func TestShowsAs(t *testing.T) {
	for _, tt := range []struct {
		shown, got string
		want       bool
	}{
		{"a b", "a b", true},
		{"a b", "a", false},
		{"a", "a b", false},
		{"… c", "a b c", true},
		{"… b", "a b c", false},
		{"a …", "a", true},
		{"a … c … e", "a b c d e", true},
		{"a … c … f", "a b c d e", false},
	} {
		if got := showsAs(strings.Fields(tt.shown), strings.Fields(tt.got)); got != tt.want {
			t.Errorf("%q shown for %q: %v", tt.shown, tt.got, got)
		}
	}
}

// TestDocumentsShowWhatIsPrinted runs the sessions of every document, on the
// files that it shows, and compares every line that they show.
func TestDocumentsShowWhatIsPrinted(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range append(files, "../../README.md") {
		d := readTranscript(t, path)
		n += len(d.all)
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, step := range d.steps {
				step(t)
			}
		})
	}
	if n < 10 {
		t.Errorf("only %d commands with their output were found", n)
	}
}

// TestDocumentsShowGoodFiles: a configuration that a document shows has no
// mistake, unless it is there to show some (wrong….yaml). What begins otherwise
// than a configuration is another tool's.
func TestDocumentsShowGoodFiles(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range append(files, "../../README.md") {
		for name, text := range readTranscript(t, path).files {
			if !strings.HasPrefix(text, "interfaces:") {
				continue
			}
			n++
			var out strings.Builder
			code := run(t.Context(), []string{"check", "--config", file(t, text)}, &out, &out)
			if want := strings.HasPrefix(name, "wrong"); (code != exitFine) != want {
				t.Errorf("%s: %s: exit %d: %s", path, name, code, out.String())
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d configurations were found", n)
	}
}
