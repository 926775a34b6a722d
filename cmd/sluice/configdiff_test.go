package main

import (
	"encoding/json"
	"strings"
	"testing"
)

const changedConfig = "interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside, mode: copy}]\n" +
	"masquerade: {sources: [10.20.30.0/24], native-routing-cidrs: [10.0.0.0/8], hairpin: false}\n"

// TestConfigDiffCutsLongValues: the table stays readable where a service is
// added, and JSON has all of it.
func TestConfigDiffCutsLongValues(t *testing.T) {
	before := file(t, goodConfig)
	after := file(t, goodConfig+"services: [{name: web, address: 198.51.100.80, port: 80, backends: [{address: 10.20.30.11, port: 8080}]}]\n")
	code, out, _ := sluice(t, "config", "diff", before, after)
	if code != exitFine || !strings.Contains(out, "{name: web, address: 198.51.100.80, ") || !strings.Contains(out, "…  reload\n") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, line := range strings.Split(out, "\n") {
		if len([]rune(line)) > 120 {
			t.Errorf("%d columns: %s", len([]rune(line)), line)
		}
	}
	if _, out, _ = sluice(t, "config", "diff", "-o", "json", before, after); !strings.Contains(out, "10.20.30.11") || strings.Contains(out, "…") {
		t.Errorf("JSON: %s", out)
	}
}

func TestConfigDiff(t *testing.T) {
	before, after := file(t, goodConfig), file(t, changedConfig)
	code, out, errOut := sluice(t, "config", "diff", before, after)
	if code != exitFine || errOut != "" {
		t.Errorf("exit %d: %s", code, errOut)
	}
	golden(t, "diff.golden", out)
	if _, out, _ = sluice(t, "config", "diff", before, before); out != "no difference\n" {
		t.Errorf("%q", out)
	}
	code, out, _ = sluice(t, "config", "diff", before, after, "-o", "json")
	var c changeJSON
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[0]), &c); code != exitFine || err != nil || len(lines) != 3 ||
		c != (changeJSON{"interfaces[eth0].mode", "auto", "copy", true}) {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	if code, _, errOut = sluice(t, "config", "diff", before, file(t, "driver: dpdk\n")); code != exitFailed || !strings.Contains(errOut, ":1: driver: ") {
		t.Errorf("a file that is refused: exit %d, %q", code, errOut)
	}
}

// TestConfigDiffDaemon compares a file with what is in force.
func TestConfigDiffDaemon(t *testing.T) {
	g := &fake{config: goodConfig}
	socket := serve(t, g)
	reloads := file(t, goodConfig+"on-failure: pass\n")
	code, out, errOut := sluice(t, "config", "diff", reloads, "--socket", socket)
	if code != exitFine || !strings.Contains(out, "on-failure  drop  pass  reload\n") || !strings.Contains(out, "`sluice reload`") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	g.config = "a-key-of-tomorrow: 1\n"
	if code, _, errOut = sluice(t, "config", "diff", reloads, "--socket", socket); code != exitFailed || !strings.Contains(errOut, "cannot be read by this version") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	for args, want := range map[string]string{"config diff": "a file is missing", "config diff a b c": "one file too many", "config diff a b --socket s": "exclude each other"} {
		if code, _, errOut = sluice(t, strings.Fields(args)...); code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d, %s", args, code, errOut)
		}
	}
}

func TestConfigSchema(t *testing.T) {
	code, out, errOut := sluice(t, "config", "schema")
	if code != exitFine || errOut != "" {
		t.Errorf("exit %d: %s", code, errOut)
	}
	golden(t, "schema.golden", out)
	if !json.Valid([]byte(out)) {
		t.Error("not JSON")
	}
}
