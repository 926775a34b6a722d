package bench

import (
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/lab"
)

// TestUserTime: work in user mode shows, after some ticks; what is no stat file
// says nothing.
func TestUserTime(t *testing.T) {
	before := userTime("/proc/self/stat")
	for deadline := time.Now().Add(20 * time.Second); userTime("/proc/self/stat")-before < 50*time.Millisecond; {
		if time.Now().After(deadline) {
			t.Fatal("20 s of work do not show")
		}
	}
	for _, path := range []string{"", "/proc/no/stat", "/proc/self/comm"} {
		if got := userTime(path); got != 0 {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// TestSplit: the forwarder's program has its time, and its thread its own; where
// the kernel forwards alone there is no program.
func TestSplit(t *testing.T) {
	lab.RequireRoot(t)
	s, err := newSite(&Options{Binary: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(s.dir)
	w := &wireRun{processor: newProcessor(), o: &Options{Sample: 50 * time.Millisecond}, contest: &masquerading}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, peer := range []Peer{PeerKernel, PeerForwarder} {
		if err := w.start(t.Context(), s, peer); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.split(t.Context()); err != nil {
		t.Fatal(err)
	}
	kernel, forwarder := w.lanes[0], w.lanes[1]
	if len(kernel.inProgram) != 0 || kernel.worker() != "" {
		t.Errorf("the kernel alone has a program: %v", kernel.inProgram)
	}
	if len(forwarder.inProgram) != splitRounds {
		t.Fatalf("%d samples, want %d", len(forwarder.inProgram), splitRounds)
	}
	for _, r := range forwarder.inProgram {
		if r.value <= 0 || r.value > 1e5 {
			t.Errorf("%v ns a packet in the program", r.value)
		}
	}
	if _, err := os.Stat(forwarder.worker()); err != nil || !strings.Contains(forwarder.worker(), "/task/") {
		t.Errorf("%q: %v", forwarder.worker(), err)
	}
}
