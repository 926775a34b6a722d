package main

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

// tracedPackets are a connection's first packet, and one that was dropped.
func tracedPackets() []control.Traced {
	a := netip.MustParseAddr
	at := time.Date(2026, 5, 4, 12, 30, 0, 123e6, time.UTC)
	return []control.Traced{
		{Number: 1, At: at, Worker: 0, Queue: -1, Length: 74, TTL: 64, Flow: "31.1", Explanation: control.Explanation{
			Verdict: "masquerade to 192.0.2.1:2001", Action: "masquerade", Protocol: "tcp", In: "eth1", Out: "eth0",
			Original: control.Tuple{Src: a("10.20.30.5"), Dst: a("198.51.100.9"), Sport: 40000, Dport: 443},
			Decisions: []control.Decision{
				{Stage: "arrival", Line: 2, Text: "arrives on eth1, role inside"},
				{Stage: "flow", Text: "belongs to no flow: it would begin one"},
				{Stage: "departure", Text: "leaves by eth0 as 192.0.2.1:2001 to 198.51.100.9:443, TTL 63"},
			},
		}},
		{Number: 2, At: at.Add(7 * time.Millisecond), Worker: 1, Queue: 3, Length: 20, Lost: 3, Explanation: control.Explanation{
			Verdict: "drop: frame-too-short", Action: "drop", Reason: "frame-too-short", In: "eth0",
			Decisions: []control.Decision{
				{Stage: "arrival", Line: 3, Text: "arrives on eth0, role outside"},
				{Stage: "drop", Text: "the frame ends before its IPv4 header does"},
			},
		}},
	}
}

func TestTrace(t *testing.T) {
	var asked control.TraceQuestion
	g := &fake{trace: func(q control.TraceQuestion) ([]control.Traced, error) { asked = q; return tracedPackets(), nil }}
	socket := serve(t, g)
	code, out, errOut := sluice(t, "trace", "--socket", socket, "-n", "2", "host", "10.20.30.5", "or", "dropped")
	if code != exitFine || errOut != "tracing 2 packets, for 1m0s at most\ntraced 2 of 2; 3 came too fast to be shown, choose fewer with a filter\n" {
		t.Errorf("exit %d: %s", code, errOut)
	}
	golden(t, "trace.golden", out)
	if want := (control.TraceQuestion{Filter: "host 10.20.30.5 or dropped", Count: 2, Timeout: time.Minute}); asked != want {
		t.Errorf("asked %+v", asked)
	}
	code, out, _ = sluice(t, "trace", "--socket", socket, "-o", "json", "--timeout", "5s")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var p control.Traced
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &p); code != exitFine || err != nil || len(lines) != 2 || p.Reason != "frame-too-short" || p.Lost != 3 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	g.trace = func(control.TraceQuestion) ([]control.Traced, error) {
		return nil, control.TooManyLooks("trace", []control.Look{{Kind: "trace", Peer: control.Peer{PID: 4711}}, {Kind: "capture"}})
	}
	if code, out, errOut = sluice(t, "trace", "--socket", socket); code != exitFailed || out != "" || !strings.Contains(errOut, "traces: as many are on as there can be, 1: pid 4711 (uid 0) since ") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	g.trace = func(control.TraceQuestion) ([]control.Traced, error) { return nil, errors.New("no") }
	if code, _, errOut = sluice(t, "trace", "--socket", socket); code != exitFailed || errOut != "sluice: no\n" {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// TestTraceUsage: a filter is refused where it is typed, with no daemon asked.
func TestTraceUsage(t *testing.T) {
	for args, want := range map[string]string{
		"trace host 10.0.0.5 adn port 443": `filter, position 15: found "adn", expected and, or, or the end`,
		"trace tcp port":                   `filter, position 9: found the end, expected a port`,
		"trace -n 0":                       "--count: 0 is not 1 to 1000000",
		"trace --timeout 2h":               "--timeout: 2h0m0s is not",
	} {
		code, out, errOut := sluice(t, strings.Fields(args)...)
		if code != exitUsage || out != "" || !strings.Contains(errOut, want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q", args, code, out, errOut)
		}
	}
}
