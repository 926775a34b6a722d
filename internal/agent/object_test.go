package agent

import (
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"sluice/internal/ebpfobject"
)

func programsSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestObjectIsOfItsSource: the committed object and Go declarations come from
// the committed source and flags.
func TestObjectIsOfItsSource(t *testing.T) {
	ebpfobject.OfItsSource(t, "agent.sha256", "bpf/*", "generate.go", "agent_bpfel.go", "agent_bpfel.o")
}

// TestCounterNames: the names that Go publishes are those of the C enum.
func TestCounterNames(t *testing.T) {
	var names []string
	for _, e := range events {
		names = append(names, e.name)
		if e.text == "" {
			t.Errorf("%s has no text", e.name)
		}
	}
	ebpfobject.Names(t, programsSpec(t), "event", names)
}

// TestLicence: object and sources are under the licence that the documents name.
func TestLicence(t *testing.T) { ebpfobject.Licence(t, programsSpec(t), "bpf/*") }

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
