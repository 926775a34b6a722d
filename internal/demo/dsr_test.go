package demo

import (
	"strings"
	"syscall"
	"testing"

	"sluice/internal/lab"
)

// TestDSR is `make demo-dsr`: the sequence of Direct Server Return, every check
// passed, nothing left.
func TestDSR(t *testing.T) {
	c := startLab(t, "dsr")
	err := c.wait()
	t.Logf("\n%s%s", c.text.Bytes(), c.errs.Bytes())
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"9a 08 00 7d 02 00 12 ac", "9a 08 01 7d 02 00 12 ac", "all 25 checks passed"} {
		if !strings.Contains(c.text.String(), want) {
			t.Errorf("the table does not say %q", want)
		}
	}
	if left := c.namespaces(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDSRInterrupted ends it in the middle: both daemons end, nothing is left. It is
// over so soon that it may have ended by itself: then it is begun again.
func TestDSRInterrupted(t *testing.T) {
	for range 10 {
		c := startLab(t, "dsr")
		c.await(t, "TCP request, mode dsr")
		daemons := children(t, c.cmd.Process.Pid)
		c.cmd.Process.Signal(syscall.SIGINT)
		err := c.wait()
		if left := c.namespaces(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		for _, pid := range daemons {
			awaitEnd(t, pid)
		}
		if strings.Contains(c.text.String(), "stopped after") {
			if err == nil || len(daemons) != 2 {
				t.Errorf("%v; child processes %v, want gateway and agent", err, daemons)
			}
			return
		}
		t.Logf("not interrupted: %v\n%s%s", err, c.text.Bytes(), c.errs.Bytes())
	}
	t.Error("it always ended before it was interrupted")
}

// TestDSRChecksFail: each check of a capture fails where the capture shows what must
// not be, and where it shows nothing.
func TestDSRChecksFail(t *testing.T) {
	lab.RequireRoot(t)
	top := lab.Start(t, lab.Options{})
	pod, err := top.DSRBackend()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pod.Close() })
	x := (&dsrLab{running: &running{top: top}}).exchange("tcp4", dsrHostPort, lab.Client1Address)
	node := x.backend.String()
	vip, client := x.vip().String(), lab.Server1Address+":40000"
	bare, wrong := frame(t, client, node, nil, true), frame(t, client, node, x.option()[:6], true)
	late := frame(t, client, node, x.option(), false)
	received := func(f []byte) []lab.Recorded { return []lab.Recorded{{Frame: f}} }
	for _, c := range []struct {
		name string
		run  func() (outcome, error)
		p    places
	}{
		{"nothing arrives", func() (outcome, error) { return x.arrives(t.Context()) }, places{}},
		{"no SYN arrives", func() (outcome, error) { return x.arrives(t.Context()) }, places{client: []lab.Recorded{{Frame: frame(t, client, vip, nil, false), Outgoing: true}}}},
		{"nothing is dispatched", func() (outcome, error) { return x.dispatched(t.Context()) }, places{}},
		{"a SYN without the option", func() (outcome, error) { return x.dispatched(t.Context()) }, places{requests: received(bare)}},
		{"a SYN with another option", func() (outcome, error) { return x.dispatched(t.Context()) }, places{requests: received(wrong)}},
		{"a later segment with the option", func() (outcome, error) { return x.bare(t.Context()) }, places{requests: received(late)}},
		{"no later segment", func() (outcome, error) { return x.bare(t.Context()) }, places{requests: received(bare)}},
		{"no reply", func() (outcome, error) { return x.direct(t.Context()) }, places{}},
		{"a reply by another MAC address", func() (outcome, error) { return x.direct(t.Context()) }, places{client: received(frame(t, vip, client, nil, true)), direct: received(frame(t, vip, client, nil, true))}},
		{"a reply inside", func() (outcome, error) { return x.passedBy(t.Context()) }, places{requests: received(frame(t, node, client, nil, true)), outside: received(bare)}},
		{"a reply outside", func() (outcome, error) { return x.passedBy(t.Context()) }, places{requests: received(bare), outside: received(frame(t, vip, client, nil, true))}},
		{"no reply by the gateway", func() (outcome, error) { return x.byGateway(t.Context()) }, places{requests: received(bare)}},
	} {
		x.p = c.p
		if o, err := c.run(); err == nil {
			t.Errorf("%s: passed: %+v", c.name, o)
		}
	}
	x.p = places{requests: received(frame(t, client, node, x.option(), true))}
	if _, err := x.dispatched(t.Context()); err != nil {
		t.Errorf("a SYN with the option: %v", err)
	}
}
