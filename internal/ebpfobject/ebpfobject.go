// Package ebpfobject has the tests that every committed eBPF object must pass: that
// it is of its source, that Go's names are those of its C, and that it says the
// licence that its source has. It is for tests, needs neither clang nor root, and
// keeps nothing.
package ebpfobject

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

const (
	licence = "Dual BSD/GPL" // of GPL-2.0-only OR BSD-2-Clause, as linux/module.h words it
	spdx    = "// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)\n"
)

// OfItsSource tests that object and Go declarations come from the committed sources
// (a pattern of filepath.Glob) and flags, by the sums that `go generate` recorded.
func OfItsSource(t *testing.T, sums, sources string, others ...string) {
	t.Helper()
	recorded, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(recorded)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			t.Fatalf("%s: not a line of sha256sum: %q", sums, line)
		}
		names = append(names, name)
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s is not what the object was made of or with: run make generate", name)
		}
	}
	files, err := filepath.Glob(sources)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no sources at %s", sources)
	}
	for _, name := range append(files, others...) {
		if !slices.Contains(names, name) {
			t.Errorf("%s does not record %s", sums, name)
		}
	}
}

// Names tests that names are those of a C enum, in its order and in kebab-case; the
// last value of the enum is how many there are.
func Names(t *testing.T, spec *ebpf.CollectionSpec, enum string, names []string) {
	t.Helper()
	var values *btf.Enum
	if err := spec.Types.TypeByName(enum, &values); err != nil {
		t.Fatal(err)
	}
	if got, want := len(values.Values), len(names)+1; got != want {
		t.Fatalf("enum %s has %d values, want %d with that of their number", enum, got, want)
	}
	for _, v := range values.Values[:len(names)] {
		if want := strings.ReplaceAll(strings.ToLower(v.Name), "_", "-"); names[v.Value] != want {
			t.Errorf("%s is named %q, want %q", v.Name, names[v.Value], want)
		}
	}
}

// Licence tests that programs and sources say the same licence, one under which the
// kernel lends its GPL helpers.
func Licence(t *testing.T, spec *ebpf.CollectionSpec, sources string) {
	t.Helper()
	for name, p := range spec.Programs {
		if p.License != licence {
			t.Errorf("the licence of %s is %q, want %q", name, p.License, licence)
		}
	}
	files, err := filepath.Glob(sources)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), spdx) {
			t.Errorf("%s does not begin with %q", name, spdx)
		}
	}
}
