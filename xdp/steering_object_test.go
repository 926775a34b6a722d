package xdp

import (
	"testing"

	"github.com/cilium/ebpf"

	"sluice/internal/ebpfobject"
)

func steerSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := loadSteer()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestObjectIsOfItsSource: the committed object and Go declarations come from
// the committed source and flags.
func TestObjectIsOfItsSource(t *testing.T) {
	ebpfobject.OfItsSource(t, "steering.sha256", "steering/*", "steering_generate.go", "steering_bpfel.go", "steering_bpfel.o")
}

// TestCounterNames: the names that Go publishes are those of the C enum.
func TestCounterNames(t *testing.T) {
	var names []string
	for _, r := range steeringReasons {
		names = append(names, r.name)
		if r.text == "" {
			t.Errorf("%s has no text", r.name)
		}
	}
	ebpfobject.Names(t, steerSpec(t), "reason", names)
}

// TestLicence: object and sources are under the licence that the documents name.
func TestLicence(t *testing.T) { ebpfobject.Licence(t, steerSpec(t), "steering/*") }
