package bench

import (
	"errors"
	"testing"
)

// TestAllWaysAgree: the whole gateway, the hot work alone, the same over a map
// and the twin make the same bytes of the same packets.
func TestAllWaysAgree(t *testing.T) {
	binary, err := compileTwin(t.TempDir())
	if errors.Is(err, errNoCompiler) {
		t.Logf("without the twin: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	r, err := newRig(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	flows := makeFlows(0, 1<<10)
	if err := r.populate(flows); err != nil {
		t.Fatal(err)
	}
	for _, how := range []Distribution{Uniform, Zipf} {
		traffic := newTraffic(flows, how)
		var w *twin
		if binary != "" {
			if w, err = startTwin(t.Context(), binary, traffic, -1); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.agree(traffic, newHot(r), newMapped(r, flows), w); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if w != nil {
			if err := w.close(); err != nil {
				t.Error(err)
			}
		}
	}
}
