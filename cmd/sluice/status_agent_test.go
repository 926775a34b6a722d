package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/control"
)

// TestStatusOfBackend: a node that is a DSR agent alone shows nothing of a gateway.
func TestStatusOfBackend(t *testing.T) {
	s := &control.Status{
		Version: control.Version{Version: "v1.2.3"}, PID: 7, UptimeSeconds: 61,
		Config: control.ConfigStatus{Path: "/etc/sluice/sluice.yaml", Loaded: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		DSRAgent: &control.DSRAgent{
			Interfaces: []string{"eth0"}, ReplyInterfaces: []string{"eth0", "veth0"}, StrictFilter: []string{"eth0"}, Hook: "tcx",
			Pinned: true, Path: "/sys/fs/bpf/sluice/1/agent", Flows: control.Usage{Used: 3, Capacity: 1024},
			Counters: []control.Counter{{Name: "learned", Packets: 3}, {Name: "own-side"}},
		},
		Degraded: []control.Degradation{{What: "DSR agent: interface eth9 is not there", Remedy: "bring it up"}},
	}
	var b bytes.Buffer
	writeStatus(&b, s, false)
	want := `DSR agent:     DEGRADED for 1 reason, see the end
Version:       ` + describeVersion(s.Version) + `, pid 7, up ` + span(61) + `
Configuration: /etc/sluice/sluice.yaml, read ` + clock(s.Config.Loaded) + `

DSR agent:
  requests on       eth0
  replies on        eth0, veth0
  flows             ` + usageOf(s.DSRAgent.Flows) + `
  programs          tcx, pinned at /sys/fs/bpf/sluice/1/agent
  strict rp_filter  eth0
  COUNTER  PACKETS
  learned        3

Degraded:
  - DSR agent: interface eth9 is not there
    bring it up
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
