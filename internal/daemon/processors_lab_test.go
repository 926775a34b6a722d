package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/internal/control"
	"sluice/internal/lab"
	"sluice/xdp"
)

// TestWorkersHaveTheirCPUs: beside a bound worker no thread of the daemon runs on
// its CPU, and there is room beside the workers for other work.
func TestWorkersHaveTheirCPUs(t *testing.T) {
	lab.RequireRoot(t)
	cpus, err := xdp.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	program := built(t, "")
	own := cpus[len(cpus)-1]
	l := newLabWith(t, program, lab.Options{}, func(config string) string { return config + fmt.Sprintf("cpus: [%d]\n", own) })
	for range 20 { // work, so that there are threads for it
		if err := l.client.Flows(t.Context(), control.Filter{}, func(control.Flow) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	s, err := l.client.Status(t.Context())
	if err != nil || len(s.Workers) != 1 || s.Workers[0].CPU != own || s.Workers[0].BusySeconds < 0 {
		t.Fatalf("workers %+v, %v; want one on CPU %d", s.Workers, err, own)
	}
	bound, others := 0, 0
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", l.daemon.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it ended
		}
		_, allowed, _ := strings.Cut(string(text), "Cpus_allowed_list:")
		allowed, _, _ = strings.Cut(strings.TrimSpace(allowed), "\n")
		switch want := fmt.Sprint(own); {
		case allowed == want:
			bound++
		case len(cpus) == 2 && allowed != fmt.Sprint(cpus[0]):
			t.Errorf("%s may run on CPUs %s, want %d alone", task, allowed, cpus[0])
		default:
			others++
		}
	}
	if len(cpus) > 1 && (bound != 1 || others < 3) {
		t.Errorf("%d threads on the worker's CPU, %d elsewhere", bound, others)
	}
}
