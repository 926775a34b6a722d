package agent

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
	recorded, err := os.ReadFile("agent.sha256")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(recorded)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			t.Fatalf("agent.sha256: not a line of sha256sum: %q", line)
		}
		names = append(names, name)
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s is not what the object was made of or with: run go generate ./internal/agent", name)
		}
	}
	sources, err := filepath.Glob("bpf/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(sources, "generate.go", "agent_bpfel.go", "agent_bpfel.o") {
		if !slices.Contains(names, name) {
			t.Errorf("agent.sha256 does not record %s", name)
		}
	}
}

// TestCounterNames: the names that Go publishes are those of the C enum.
func TestCounterNames(t *testing.T) {
	spec, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	var list *btf.Enum
	if err := spec.Types.TypeByName("event", &list); err != nil {
		t.Fatal(err)
	}
	if got, want := len(list.Values), len(events)+1; got != want {
		t.Fatalf("enum event has %d values, want %d with EVENTS", got, want)
	}
	for _, v := range list.Values[:len(events)] {
		r := events[v.Value]
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
	spec, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		if p.License != "Apache-2.0" {
			t.Errorf("the licence of %s is %q", name, p.License)
		}
	}
}

// TestCountersDocumented: what an operator sees is explained.
func TestCountersDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "## The DSR agent")
	if !ok {
		t.Fatal("docs/operations.md has no section on the DSR agent")
	}
	for _, e := range events {
		if !strings.Contains(section, "`"+e.name+"`") {
			t.Errorf("docs/operations.md does not explain %s", e.name)
		}
	}
}
