package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"sluice/internal/control"
)

// theIncident is the configuration behind "a database sees the gateway's address".
const theIncident = `interfaces:
  - {name: eth1, role: inside}
  - {name: eth0, role: outside}
masquerade:
  sources: [10.20.30.0/24]
  native-routing-cidrs: [10.20.30.0/24]
`

// TestExplainFile: the answer to the incident, as it is printed.
func TestExplainFile(t *testing.T) {
	path := file(t, theIncident)
	args := []string{"explain", "--config", path, "--proto", "tcp", "--src", "10.20.30.5:40000", "--dst", "10.1.2.3:3306"}
	code, out, errOut := sluice(t, args...)
	if code != exitFine || !strings.HasSuffix(out, "\n\nmasquerade to auto:40000\n") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	golden(t, "explain.golden", strings.ReplaceAll(out, path, "sluice.yaml"))
	code, out, _ = sluice(t, append(args, "-o", "json")...)
	var e control.Explanation
	if err := json.Unmarshal([]byte(out), &e); code != exitFine || err != nil || e.Verdict != "masquerade to auto:40000" || strings.Count(out, "\n") != 1 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	code, out, _ = sluice(t, "explain", "-c", path, "--src", "1.1.1.1:1", "--dst", "10.20.30.5:2")
	if code != exitFine || !strings.HasSuffix(out, "\ndrop: outside-to-inside\n") {
		t.Errorf("a drop is a verdict like others: exit %d: %s", code, out)
	}
}

func TestExplainAsksTheDaemon(t *testing.T) {
	g := &fake{}
	var asked control.Question
	g.explain = func(q control.Question) (control.Explanation, error) {
		asked = q
		if q.In != "" {
			return control.Explanation{}, errors.New("in: eth7 is not one of the interfaces")
		}
		return control.Explanation{Verdict: "forward", Protocol: q.Proto, Original: control.Tuple{Src: q.Src.Addr(), Dst: q.Dst.Addr()}}, nil
	}
	socket := serve(t, g)
	code, out, errOut := sluice(t, "explain", "--socket", socket, "--proto", "icmp", "--src", "10.0.0.5:7", "--dst", "1.1.1.1")
	if code != exitFine || !strings.HasSuffix(out, "\n\nforward\n") || asked.Proto != "icmp" || asked.Src.Port() != 7 {
		t.Errorf("exit %d: %s%s %+v", code, out, errOut, asked)
	}
	code, out, errOut = sluice(t, "explain", "--socket", socket, "--src", "10.0.0.5:7", "--dst", "1.1.1.1:2", "--in", "eth7")
	if code != exitFailed || out != "" || errOut != "sluice: in: eth7 is not one of the interfaces\n" {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}

func TestExplainUsage(t *testing.T) {
	for args, want := range map[string]string{
		"explain":                          "--src: is missing",
		"explain --src 10.0.0.5:1":         "--dst: is missing",
		"explain --src 10.0.0.5 --dst 1.1": "--src: ",
		"explain --proto tpc --src 10.0.0.5:1 --dst 1.1.1.1:1":           "--proto: ",
		"explain --socket s --config c --src 10.0.0.5:1 --dst 1.1.1.1:1": "exclude each other",
		"explain 10.0.0.5:1": "one word too many",
	} {
		code, out, errOut := sluice(t, strings.Fields(args)...)
		if code != exitUsage || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%q: exit %d, %q, %q", args, code, out, errOut)
		}
	}
}
