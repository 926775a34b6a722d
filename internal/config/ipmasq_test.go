package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestIPMasq(t *testing.T) {
	list := strings.Join(builtIn, " ")
	for name, tc := range map[string]struct {
		text      string
		cidrs     string
		linkLocal bool
		resync    time.Duration
	}{
		"empty: the built-in list":     {"", list, false, defaultResync},
		"blank: the built-in list":     {"\n  \n", list, false, defaultResync},
		"YAML":                         {"nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 172.16.0.0/12\nmasqLinkLocal: true\nresyncInterval: 30s\n", "10.0.0.0/8 172.16.0.0/12", true, 30 * time.Second},
		"JSON":                         {`{"nonMasqueradeCIDRs": ["10.0.0.0/8"], "masqLinkLocal": false, "resyncInterval": "1m"}`, "10.0.0.0/8", false, time.Minute},
		"in another case":              {`{"NonMasqueradeCIDRs":["10.96.0.0/12"],"MasqLinkLocal":true,"ResyncInterval":"1m0s"}`, "10.96.0.0/12", true, time.Minute},
		"host bits are masked":         {"nonMasqueradeCIDRs: [10.1.2.3/8]", "10.0.0.0/8", false, defaultResync},
		"IPv6 is another table's":      {"nonMasqueradeCIDRs: [fd00::/8, 10.0.0.0/8]\nmasqLinkLocalIPv6: true", "10.0.0.0/8", false, defaultResync},
		"present: no built-in list":    {"masqLinkLocal: true", "", true, defaultResync},
		"no prefixes":                  {"nonMasqueradeCIDRs: []", "", false, defaultResync},
		"nothing where the list stood": {"nonMasqueradeCIDRs:\n", "", false, defaultResync},
		"unknown keys are the agent's": {"cidrLimit: 64\nnonMasqueradeCIDRs: [10.0.0.0/8]", "10.0.0.0/8", false, defaultResync},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ParseIPMasq("f", []byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := words(m.NonMasqueradeCIDRs); got != tc.cidrs {
				t.Errorf("prefixes %q, want %q", got, tc.cidrs)
			}
			if m.MasqLinkLocal != tc.linkLocal || m.ResyncInterval != tc.resync {
				t.Errorf("got %v, %v", m.MasqLinkLocal, m.ResyncInterval)
			}
		})
	}
}

func TestIPMasqBroken(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"bad prefix":      {"nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.0.0.0/33\n", `f:3: nonMasqueradeCIDRs: "10.0.0.0/33"`},
		"not YAML":        {"nonMasqueradeCIDRs: [", "f: is not an ip-masq-agent file"},
		"wrong type":      {"nonMasqueradeCIDRs: 10.0.0.0/8", "f: is not an ip-masq-agent file"},
		"not keys":        {"- 10.0.0.0/8\n", "f: is not an ip-masq-agent file"},
		"twice":           {"masqLinkLocal: true\nMasqLinkLocal: false\n", "f: is not an ip-masq-agent file"},
		"list in list":    {"nonMasqueradeCIDRs: [[10.0.0.0/8]]", "f:1: "},
		"bad interval":    {"resyncInterval: soon", "f:1: resyncInterval"},
		"binary":          {"nonMasqueradeCIDRs: \xff", "not UTF-8"},
		"too many":        {"nonMasqueradeCIDRs: [" + strings.Repeat("10.0.0.0/8,", maxIPMasqCIDRs+1) + "]", "at most 16384"},
		"several in file": {"a: 1\n---\nb: 1\n", "f: is not an ip-masq-agent file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseIPMasq("f", []byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tc.want)
			}
		})
	}
}

func TestLoadIPMasq(t *testing.T) {
	dir := t.TempDir()
	m, err := LoadIPMasq(filepath.Join(dir, "none"))
	if err != nil || len(m.NonMasqueradeCIDRs) != len(builtIn) {
		t.Errorf("a missing file gives %v, %v; want the built-in list", m, err)
	}
	if _, err := LoadIPMasq(dir); err == nil {
		t.Error("a directory was read")
	}
	path := filepath.Join(dir, "agent")
	if err := os.WriteFile(path, []byte("nonMasqueradeCIDRs: [10.0.0.0/8]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := LoadIPMasq(path); err != nil || words(m.NonMasqueradeCIDRs) != "10.0.0.0/8" {
		t.Errorf("got %v, %v", m, err)
	}
}

func words(list []netip.Prefix) string {
	var s []string
	for _, p := range list {
		s = append(s, p.String())
	}
	return strings.Join(s, " ")
}
