package config

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// base is compared with changed copies of itself.
const base = `interfaces:
  - {name: eth1, role: inside}
  - {name: eth0, role: outside}
masquerade:
  sources: [10.20.30.0/24, 10.20.40.0/24]
  nodes: [192.0.2.10]
`

func TestDiff(t *testing.T) {
	for _, tc := range []struct {
		name, a, b string
		want       []Change
	}{
		{"the same", base, base, nil},
		{"other words, other lines, another order of a set", base, `# a comment
masquerade: {nodes: [192.0.2.10], sources: [10.20.40.0/24, 10.20.30.0/24], hairpin: true}
interfaces: [{name: eth1, role: inside, mode: auto, queues: all}, {name: eth0, role: outside}]
`, nil},
		{"a scalar", base, base + "  hairpin: false\n", []Change{{"masquerade.hairpin", "true", "false", false}}},
		{"a duration", base, base + "conntrack: {timeouts: {udp: 10m}}\n", []Change{{"conntrack.timeouts.udp", "5m", "10m", false}}},
		{"time-outs by port", base, base + "conntrack: {timeouts: {udp-ports: {53: 17s, 3478-3481: 10m}}}\n", []Change{{"conntrack.timeouts.udp-ports", "{}", "{'53': 17s, 3478-3481: 10m}", false}}},
		{"their order", base + "conntrack: {timeouts: {udp-ports: {53: 17s, 5060: 3m}}}\n", base + "conntrack: {timeouts: {udp-ports: {5060: 180s, 53: 17s}}}\n", nil},
		{"entries", base, `interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside}]
masquerade: {sources: [10.20.30.0/24, 10.9.0.0/16], native-routing-cidrs: [10.0.0.0/8], addresses: [203.0.113.0/30]}
`, []Change{
			{"masquerade.sources", "10.20.40.0/24", "", false},
			{"masquerade.sources", "", "10.9.0.0/16", false},
			{"masquerade.native-routing-cidrs", "", "10.0.0.0/8", false},
			{"masquerade.nodes", "192.0.2.10", "", false},
			{"masquerade.addresses", "auto", "", false},
			{"masquerade.addresses", "", "203.0.113.0/30", false},
		}},
		{"text that was empty", base, base + "  ip-masq-agent-config: /etc/agent\n", []Change{{"masquerade.ip-masq-agent-config", `""`, "/etc/agent", false}}},
		{"interfaces", base, `interfaces: [{name: eth0, role: outside, mode: copy}, {name: eth1, role: inside}, {name: eth2, role: inside, queues: 2}]
masquerade: {sources: [10.20.30.0/24, 10.20.40.0/24], nodes: [192.0.2.10]}
`, []Change{
			{"interfaces[eth0].mode", "auto", "copy", true},
			{"interfaces[eth2]", "", "{name: eth2, role: inside, mode: auto, queues: 2, vlan: 0}", true},
			{"interfaces", "eth1, eth0", "eth0, eth1", true},
		}},
		{"an interface gone", base, `interfaces: [{name: eth0, role: both}]
masquerade: {sources: [10.20.30.0/24, 10.20.40.0/24], nodes: [192.0.2.10]}
`, []Change{
			{"interfaces[eth1]", "{name: eth1, role: inside, mode: auto, queues: all, vlan: 0}", "", true},
			{"interfaces[eth0].role", "outside", "both", true},
		}},
		{"CPUs have an order", base + "cpus: [1, 2]\n", base + "cpus: [2, 1]\n", []Change{{"cpus", "[1, 2]", "[2, 1]", true}}},
		{"memory and sockets", base, base + "conntrack: {max-flows: 1000}\ncontrol: {socket: /run/s}\non-failure: pass\n", []Change{
			{"conntrack.max-flows", "1048576", "1000", true},
			{"on-failure", "drop", "pass", false},
			{"control.socket", DefaultSocket, "/run/s", true},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, mistakes := Parse("a", []byte(tc.a))
			b, more := Parse("b", []byte(tc.b))
			if a == nil || b == nil {
				t.Fatal(mistakes, more)
			}
			if d := cmp.Diff(tc.want, Diff(a, b)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			var back []Change
			for _, c := range Diff(b, a) {
				back = append(back, Change{c.Key, c.New, c.Old, c.Restart})
			}
			if len(back) != len(tc.want) {
				t.Errorf("backwards there are %d changes: %+v", len(back), back)
			}
		})
	}
}

// TestDiffServices: lists of sections in lists of sections. Services are not in
// this version; their keys are.
func TestDiffServices(t *testing.T) {
	a, b := Default(), Default()
	a.Services = []Service{{Name: "web", Port: 80, Backends: []Backend{{Port: 1, Weight: 1}, {Port: 2, Weight: 1}}}, {Name: "old"}}
	b.Services = []Service{{Name: "web", Port: 81, Backends: []Backend{{Port: 2, Weight: 3}}}}
	var keys []string
	for _, c := range Diff(a, b) {
		keys = append(keys, c.Key)
	}
	want := []string{"services[web].port", "services[web].backends[invalid IP:1]", "services[web].backends[invalid IP:2].weight", "services[old]"}
	if d := cmp.Diff(want, keys); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// TestNeedsRestartKeysExist: a key that is renamed or gone must leave the list.
func TestNeedsRestartKeysExist(t *testing.T) {
	known := map[string]bool{}
	for path := range keysOf(reflect.TypeFor[Config](), "") {
		known[path] = true
	}
	for _, key := range needsRestart {
		if !known[key] {
			t.Errorf("%s is no key", key)
		}
	}
}
