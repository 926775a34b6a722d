package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedFile   = regexp.MustCompile("`([a-z0-9_/.-]+\\.(?:go|c|sh|yaml|service|conf|pgo))(?::[A-Za-z.]+)?`")
	namedTarget = regexp.MustCompile("(?:`|^ {4,})make ([a-z-]+)")
	target      = regexp.MustCompile(`(?m)^([a-z-]+):`)
)

// eachLine calls f with every line of README.md and docs, and where it is.
func eachLine(t *testing.T, f func(where, line string)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(files, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			f(filepath.Base(path), line)
		}
	}
}

// TestNamedFiles: files of this repository that documents name are there. Below
// internal a name may begin with the package's.
func TestNamedFiles(t *testing.T) {
	n := 0
	eachLine(t, func(where, line string) {
		for _, m := range namedFile.FindAllStringSubmatch(line, -1) {
			if !strings.Contains(m[1], "/") || strings.HasPrefix(m[1], "/") {
				continue
			}
			n++
			_, err := os.Stat(filepath.Join(root, m[1]))
			if _, below := os.Stat(filepath.Join(root, "internal", m[1])); err != nil && below != nil {
				t.Errorf("%s names %s, which is not there", where, m[1])
			}
		}
	})
	if n < 50 {
		t.Errorf("only %d files found", n)
	}
}

// TestNamedTargets: what documents have make do, it can.
func TestNamedTargets(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(string(text), -1) {
		known[m[1]] = true
	}
	n := 0
	eachLine(t, func(where, line string) {
		for _, m := range namedTarget.FindAllStringSubmatch(line, -1) {
			n++
			if !known[m[1]] {
				t.Errorf("%s: make has no target %s", where, m[1])
			}
		}
	})
	if n < 10 {
		t.Errorf("only %d targets found", n)
	}
}
