package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// direct is a module that go.mod requires for the program's own sake.
var direct = regexp.MustCompile(`(?m)^\t(\S+) (v\S+)$`)

// TestDependencies: docs/dependencies.md has a row for every module that go.mod
// requires directly and something imports, with its version, and the packages
// that the row names import it.
func TestDependencies(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	modules := direct.FindAllStringSubmatch(string(mod), -1)
	if len(modules) < 5 {
		t.Fatalf("only %d modules found in go.mod", len(modules))
	}
	importers := importersOf(t, modules)
	for _, m := range modules {
		if importers[m[1]] == nil {
			continue
		}
		row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(m[1]+" "+m[2]) + ` \| (.*?) \|`).FindStringSubmatch(string(text))
		if row == nil {
			t.Errorf("docs/dependencies.md has no row for %s %s", m[1], m[2])
			continue
		}
		for _, span := range codeSpan.FindAllStringSubmatch(row[1], -1) {
			if !slices.Contains(importers[m[1]], span[1]) {
				t.Errorf("docs/dependencies.md: %s does not import %s", span[1], m[1])
			}
		}
	}
}

// importersOf lists, for each of modules, the packages that import it, tests
// included.
func importersOf(t *testing.T, modules [][]string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg, _ := filepath.Rel(root, filepath.Dir(path))
		for _, spec := range file.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			for _, m := range modules {
				if module := m[1]; (path == module || strings.HasPrefix(path, module+"/")) && !slices.Contains(all[module], pkg) {
					all[module] = append(all[module], pkg)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
