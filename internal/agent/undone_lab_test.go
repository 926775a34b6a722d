package agent

import (
	"slices"
	"testing"
	"time"
)

// TestTakenOff: programs that another process detaches are named, until the agent
// starts again.
func TestTakenOff(t *testing.T) {
	r := newRig(t)
	a := r.start(r.config())
	if s := a.Status(); len(s.TakenOff) > 0 || len(s.Interfaces) == 0 {
		t.Fatalf("before: %+v", s)
	}
	if there, err := detachIn(r.node); !there || err != nil {
		t.Fatalf("detached: %v, %v", there, err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		s := a.Status()
		missing := slices.DeleteFunc(slices.Clone(s.Interfaces), func(name string) bool { return slices.Contains(s.TakenOff, name) })
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not noticed: %+v", s)
		}
	}
	a.stop()
	a = r.start(r.config())
	if s := a.Status(); len(s.TakenOff) > 0 {
		t.Errorf("after a restart: %+v", s)
	}
	a.stop()
}
