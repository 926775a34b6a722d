package daemon

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// TestPortTimeoutsLab: questions and answers by two ports, of which one has a
// time-out of its own after a reload. Its flow ends by it, the other one's goes on.
func TestPortTimeoutsLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newPuntLab(t, program)
	client := l.udp(l.Client1, lab.Client1Address+":40000")
	for _, port := range []string{":53", ":5353"} {
		server := l.udp(l.Server1, lab.Server1Address+port)
		l.arrives(client, lab.Server1Address+port, server, lab.GatewayOutside+":40000")
		l.arrives(server, lab.GatewayOutside+":40000", client, lab.Server1Address+port)
	}
	// timeouts are what the answered flows have left, by the server's port.
	timeouts := func() map[uint16]int64 {
		t.Helper()
		m := map[uint16]int64{}
		err := l.client.Flows(context.Background(), control.Filter{Proto: "udp", State: "replied"}, func(f control.Flow) error {
			m[f.Original.Dport] = f.TimeoutSeconds
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := timeouts(); len(m) != 2 || m[53] < 200 || m[5353] < 200 {
		t.Errorf("before the reload the flows have %v seconds, want 300 at most", m)
	}
	text, err := os.ReadFile(l.file)
	if err != nil {
		t.Fatal(err)
	}
	l.reload(strings.Replace(string(text), "udp-unreplied:", "udp-ports: {53: 2s}, udp-unreplied:", 1))
	if m := timeouts(); m[53] > 2 || m[5353] < 200 {
		t.Errorf("after it they have %v seconds, want 2 at most for port 53", m)
	}
	s, err := l.client.Status(context.Background())
	if err != nil || len(s.Timeouts.UDPPorts) != 1 || s.Timeouts.UDPPorts["53"] != 2 {
		t.Errorf("status: %v, %v", s.Timeouts.UDPPorts, err)
	}
	l.await("the end of the flow to port 53", func() bool { return len(timeouts()) == 1 })
	if m := timeouts(); m[5353] == 0 || m[5353] < int64(5*time.Minute/time.Second)-60 {
		t.Errorf("left are %v", m)
	}
}
