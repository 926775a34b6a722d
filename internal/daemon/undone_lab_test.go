package daemon

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A daemon whose steering program somebody takes off, or whose pin somebody
// removes, says so and what to do; a restart mends it.
func TestUndoneAttachmentIsReported(t *testing.T) {
	l := newRestartLab(t)
	l.start()
	if s := l.status(); len(s.Degraded) > 0 || !s.Steering.Pinned {
		t.Fatalf("before: degraded %v, steering %+v", s.Degraded, s.Steering)
	}
	for _, undo := range []struct {
		name, what string
		by         func() ([]byte, error)
	}{
		{"the pin is removed", "the pin of the steering program was removed", func() ([]byte, error) {
			return nil, os.RemoveAll(l.status().Steering.Path)
		}},
		{"detach", "the steering program was taken off", func() ([]byte, error) {
			return l.Gateway.Exec(l.program, "detach")
		}},
	} {
		if out, err := undo.by(); err != nil {
			t.Fatalf("%s: %v\n%s", undo.name, err, out)
		}
		l.awaitDegraded(undo.what)
		s := l.status()
		if s.Steering.Pinned {
			t.Errorf("%s: pinned at %s", undo.name, s.Steering.Path)
		}
		for _, d := range s.Degraded {
			if !strings.Contains(d.Remedy, "systemctl restart sluice") {
				t.Errorf("%s: %q has the remedy %q", undo.name, d.What, d.Remedy)
			}
		}
		if log := l.stop(syscall.SIGTERM); !strings.Contains(log, undo.what) || !strings.Contains(log, "stopped: the kernel has the packets again") {
			t.Errorf("%s: the log says\n%s", undo.name, log)
		}
		l.start()
		if s := l.status(); len(s.Degraded) > 0 || !s.Steering.Pinned {
			t.Errorf("%s, after a restart: degraded %v, steering %+v", undo.name, s.Degraded, s.Steering)
		}
	}
}

// awaitDegraded waits until status has a reason with these words for each of the
// lab's two interfaces.
func (l *restartLab) awaitDegraded(what string) {
	l.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		told := 0
		s := l.status()
		for _, d := range s.Degraded {
			if strings.Contains(d.What, what) {
				told++
			}
		}
		if told == 2 {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("no %q among %v", what, s.Degraded)
		}
	}
}
