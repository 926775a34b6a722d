package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIPMasqFileFollows what a ConfigMap's volume does: the file is a link to a
// link to a directory, and that link is swapped.
func TestIPMasqFileFollows(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ip-masq-agent")
	n := 0
	swap := func(text string) {
		t.Helper()
		n++
		version := filepath.Join(dir, "..version"+string(rune('a'+n)))
		for _, err := range []error{
			os.Mkdir(version, 0o755),
			os.WriteFile(filepath.Join(version, "ip-masq-agent"), []byte(text), 0o644),
			os.Symlink(version, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink(filepath.Join("..data", "ip-masq-agent"), path); err != nil {
		t.Fatal(err)
	}
	var f IPMasqFile
	load := func(prefixes string, changed bool, problem string) {
		t.Helper()
		m, c, err := f.Load(path)
		var got []string
		for _, p := range m.NonMasqueradeCIDRs {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != prefixes && prefixes != "built-in" || prefixes == "built-in" && len(got) != len(builtIn) || c != changed {
			t.Errorf("%v, changed %v; want %s, %v", got, c, prefixes, changed)
		}
		if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("error %v, want %q", err, problem)
		}
	}
	load("built-in", true, "") // the link leads nowhere yet
	load("built-in", false, "")
	swap("nonMasqueradeCIDRs: [10.0.0.0/8]\n")
	load("10.0.0.0/8", true, "")
	load("10.0.0.0/8", false, "")
	swap("nonMasqueradeCIDRs: [10.0.0.0/9]\n") // as long as before, in the same second
	load("10.0.0.0/9", true, "")
	swap("nonMasqueradeCIDRs: [ten]\n")
	load("", true, "is not a prefix")
	load("", false, "is not a prefix")
	swap("nonMasqueradeCIDRs: [10.0.0.0/9]\n")
	load("10.0.0.0/9", true, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	load("built-in", true, "")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	load("", true, "cannot be read")
	load("", false, "cannot be read")
}
