package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestConfigMigrate(t *testing.T) {
	cilium := file(t, "masquerade: true\nenable-bpf-masquerade: true\nnative-routing-cidr: 10.20.30.0/24\ncluster-pool-ipv4-cidr: 10.20.30.0/24\n")
	agent := file(t, "nonMasqueradeCIDRs: [10.0.0.0/8]\n")
	code, out, errOut := sluice(t, "config", "migrate", cilium, agent, "--inside", "lan0,lan1", "--outside", "wan0")
	if code != exitFine || !strings.Contains(errOut, cilium+":1: masquerade: warning: was renamed in Cilium 1.10") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	path := file(t, out)
	if code, _, errOut := sluice(t, "check", "--config", path); code != exitFine {
		t.Errorf("what migrate prints is refused: %s", errOut)
	}
	// With the agent's exclusions, the incident does not happen.
	if _, out, _ := sluice(t, "explain", "-c", path, "--src", "10.20.30.5:40000", "--dst", "10.1.2.3:3306"); !strings.HasSuffix(out, "\nforward\n") || !strings.Contains(out, "arrives on lan0") {
		t.Errorf("%s", out)
	}
	code, out, errOut = sluice(t, "config", "migrate", cilium, "-o", "json")
	var m migratedJSON
	if err := json.Unmarshal([]byte(out), &m); code != exitFine || err != nil || errOut != "" || len(m.Warnings) < 3 || m.Config["masquerade"] == nil {
		t.Errorf("exit %d, %v: %s%s", code, err, out, errOut)
	}
	for text, want := range map[string]string{"": "say nothing about masquerading", "a: b\n": "is neither a ConfigMap"} {
		if code, out, errOut := sluice(t, "config", "migrate", file(t, text)); code != exitFailed || out != "" || !strings.Contains(errOut, want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q", text, code, out, errOut)
		}
	}
	if code, _, errOut := sluice(t, "config", "migrate", "/nonexistent"); code != exitFailed || !strings.Contains(errOut, "no such file") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}
