package plant

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// root is the module's directory, from this package.
const root = "../.."

// always are the faults that every run of the tests tries, by name: the quick ones.
var always = []string{"a wrong header checksum is let in", "an ICMP error's own checksum is forgotten"}

// TestFaultsHaveTheirPlace: each fault can still be planted, and each names a test
// that there is.
func TestFaultsHaveTheirPlace(t *testing.T) {
	names := map[string]bool{}
	for _, f := range faults {
		if names[f.name] {
			t.Errorf("two faults are called %q", f.name)
		}
		names[f.name] = true
		text, err := os.ReadFile(filepath.Join(root, f.file))
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if n := strings.Count(string(text), f.old); n != 1 {
			t.Errorf("%s: %s has its text %d times, not once: find the place again", f.name, f.file, n)
		}
		if f.old == f.new {
			t.Errorf("%s: nothing would change", f.name)
		}
		if dir, test := f.where(); !stands(t, dir, "func "+test+"(t *testing.T)") {
			t.Errorf("%s: %s has no %s", f.name, dir, test)
		}
	}
	for _, name := range always {
		if !names[name] {
			t.Errorf("there is no fault called %q", name)
		}
	}
	if len(faults) < 20 {
		t.Errorf("%d faults", len(faults))
	}
}

// where splits the name of the test that must notice.
func (f *fault) where() (dir, test string) {
	i := strings.LastIndexByte(f.test, '.')
	return f.test[:i], f.test[i+1:]
}

// stands reports whether a test file of a package has the text.
func stands(t *testing.T, dir, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}

// TestFaultsAreNoticed plants them one at a time. With SLUICE_FAULTS=all it tries
// every one, else a few.
func TestFaultsAreNoticed(t *testing.T) {
	all := os.Getenv("SLUICE_FAULTS") == "all"
	for _, f := range faults {
		if !all && !contains(always, f.name) {
			continue
		}
		t.Run(f.name, func(t *testing.T) { f.noticed(t) })
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// noticed fails where the test that must notice the fault passes with it.
func (f *fault) noticed(t *testing.T) {
	dir, test := f.where()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=2m", "-run=^"+test+"$", "-overlay="+f.overlay(t), "./"+dir)
	run.Dir = root
	out, err := run.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s takes too long to say", f.test)
	case err == nil:
		t.Errorf("%s passes all the same:\n%s", f.test, out)
	case !strings.Contains(string(out), "--- FAIL: "+test) && !strings.Contains(string(out), "panic: "):
		t.Errorf("the fault was not tried:\n%s", out)
	}
}

// overlay writes the changed file beside the source, and what tells the compiler to
// take it instead.
func (f *fault) overlay(t *testing.T) string {
	t.Helper()
	source, err := filepath.Abs(filepath.Join(root, f.file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	changed, list := filepath.Join(t.TempDir(), "changed.go"), filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), f.old, f.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}
