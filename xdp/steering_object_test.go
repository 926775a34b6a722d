package xdp

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// TestObjectIsOfItsSource: the committed object and Go declarations come from
// the committed source and flags. Needs no clang.
func TestObjectIsOfItsSource(t *testing.T) {
	recorded, err := os.ReadFile("steering.sha256")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(recorded)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			t.Fatalf("steering.sha256: not a line of sha256sum: %q", line)
		}
		names = append(names, name)
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s is not what the object was made of or with: run go generate ./xdp", name)
		}
	}
	sources, err := filepath.Glob("steering/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(sources, "steering_generate.go", "steering_bpfel.go", "steering_bpfel.o") {
		if !slices.Contains(names, name) {
			t.Errorf("steering.sha256 does not record %s", name)
		}
	}
}

// TestCounterNames: the names that Go publishes are those of the C enum.
func TestCounterNames(t *testing.T) {
	spec, err := loadSteer()
	if err != nil {
		t.Fatal(err)
	}
	var reasons *btf.Enum
	if err := spec.Types.TypeByName("reason", &reasons); err != nil {
		t.Fatal(err)
	}
	if got, want := len(reasons.Values), len(steeringReasons)+1; got != want {
		t.Fatalf("enum reason has %d values, want %d with REASONS", got, want)
	}
	for _, v := range reasons.Values[:len(steeringReasons)] {
		r := steeringReasons[v.Value]
		if want := strings.ReplaceAll(strings.ToLower(v.Name), "_", "-"); r.name != want {
			t.Errorf("%s is named %q, want %q", v.Name, r.name, want)
		}
		if r.text == "" {
			t.Errorf("%s has no text", v.Name)
		}
	}
}

// TestLicence: helpers reserved for GPL programs must not creep in.
func TestLicence(t *testing.T) {
	spec, err := loadSteer()
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Programs[steerProgSteer].License; got != "Apache-2.0" {
		t.Errorf("the program's licence is %q", got)
	}
}
