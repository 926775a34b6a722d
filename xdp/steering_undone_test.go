package xdp

import (
	"os"
	"testing"
)

// Undone tells what others do to an attachment, and Pinned does not claim what is
// not there.
func TestUndone(t *testing.T) {
	g := newGateway(t, 1)
	s := g.steering(t, SteeringConfig{})
	check := func(when string, detached, unpinned, pinned bool) {
		t.Helper()
		d, u, err := s.Undone(0)
		if p, where := s.Pinned(); d != detached || u != unpinned || err != nil || p != pinned {
			t.Errorf("%s: detached %v, unpinned %v, %v, pinned %v (%s)", when, d, u, err, p, where)
		}
	}
	check("not attached yet", false, false, false)
	g.attach(t, s)
	check("attached", false, false, true)
	_, dir := s.Pinned()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	check("pin removed", false, true, false)
	if id, _ := g.program(t); id == 0 {
		t.Error("the program went with its pin, while its link is open")
	}
	if err := s.Detach(0); err != nil {
		t.Fatal(err)
	}
	g.attach(t, s)
	check("attached again", false, false, true)
	if names := g.detach(t, g.nic.Ifindex); len(names) != 1 {
		t.Fatalf("detached %v", names)
	}
	check("detached by another", true, true, false)
	if id, _ := g.program(t); id != 0 {
		t.Error("the program is still there")
	}
}
