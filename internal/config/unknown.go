package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// foreign explains keys of the tools that an operator comes from, the old names
// included, by their folded form. What a key is called here, and whether its
// meaning is the same, is exactly what was misread in the incident where
// native-routing-cidr was believed to be the source of masquerading.
var foreign = map[string]string{
	// Cilium, agent flags and ConfigMap.
	"enableipv4masquerade": "Cilium's key; write masquerade.enabled, and name the sources in masquerade.sources (Cilium takes every local pod)",
	"enableipv6masquerade": "Cilium's key; IPv6 is not translated here; remove it",
	"enablebpfmasquerade":  "Cilium's key; there is only one implementation here; remove it and use masquerade.enabled",
	"bpfmasquerade":        "Cilium's key; there is only one implementation here; remove it and use masquerade.enabled",
	"nativeroutingcidr":    "Cilium's old key, ipv4-native-routing-cidr since 1.11; write masquerade.native-routing-cidrs (a list of destinations that see the true source, not the sources to masquerade)",
	"ipv4nativeroutingcidr": "Cilium's key; write masquerade.native-routing-cidrs (a list of destinations that see the true source, " +
		"not the sources to masquerade)",
	"ipv6nativeroutingcidr":          "Cilium's key; IPv6 is not translated here; remove it",
	"nativeroutingcidrs":             "belongs under masquerade: write masquerade.native-routing-cidrs",
	"clusterpoolipv4cidr":            "Cilium's key; write the pod networks in masquerade.sources",
	"ipv4range":                      "Cilium's key; write the pod network in masquerade.sources",
	"enableipmasqagent":              "Cilium's key; set masquerade.ip-masq-agent-config to the file instead",
	"ipmasqagentconfigpath":          "Cilium's key; write masquerade.ip-masq-agent-config",
	"enableremotenodemasquerade":     "Cilium's key; leave a node out of masquerade.nodes to masquerade towards it",
	"enablemasqueradetoroutesource":  "Cilium's key; masquerade.addresses: [auto] takes the primary address of the interface a packet leaves by",
	"egressmasqueradeinterfaces":     "Cilium's key; give these interfaces role: outside",
	"devices":                        "Cilium's key; list the interfaces with their roles under interfaces",
	"directroutingdevice":            "Cilium's key; list the interfaces with their roles under interfaces",
	"iptablesrandomfully":            "Cilium's key; ports are kept where free and otherwise chosen at random here; remove it",
	"installiptablesrules":           "Cilium's key; no iptables rules are used here; remove it",
	"installnoconntrackiptablesrule": "Cilium's key; steered packets bypass netfilter anyway; remove it",
	"ipv4serviceloopbackaddress":     "Cilium's key; see masquerade.hairpin",
	"tunnel":                         "Cilium's key; there are no tunnels here; remove it",
	"tunnelprotocol":                 "Cilium's key; there are no tunnels here; remove it",
	"routingmode":                    "Cilium's key; routes are the kernel's; remove it",
	"autodirectnoderoutes":           "Cilium's key; routes are the kernel's; remove it",
	"kubeproxyreplacement":           "Cilium's key; see services",
	"nodeportmode":                   "Cilium's old key, bpf-lb-mode since 1.10; write services[].mode",
	"bpflbmode":                      "Cilium's key; write services[].mode",
	"nodeportalgorithm":              "Cilium's old key; write services[].algorithm",
	"bpflbalgorithm":                 "Cilium's key; write services[].algorithm",
	"nodeportacceleration":           "Cilium's old key; write interfaces[].mode",
	"bpflbacceleration":              "Cilium's key; write interfaces[].mode",
	"bpflbdsrdispatch":               "Cilium's key; write dsr.dispatch",
	"nodeportrange":                  "Cilium's key; the external ports are masquerade.port-range",
	"nodeportnatrangeext":            "Cilium's key; the external ports are masquerade.port-range",
	"bpfnatglobalmax":                "Cilium's key; flows and mappings share conntrack.max-flows",
	"bpfctglobaltcpmax":              "Cilium's key; write conntrack.max-flows",
	"bpfctglobalanymax":              "Cilium's key; write conntrack.max-flows",
	"ctglobalmaxentriestcp":          "Cilium's old key; write conntrack.max-flows",
	"ctglobalmaxentriesother":        "Cilium's old key; write conntrack.max-flows",
	"bpfcttimeoutregulartcp":         "Cilium's key; write conntrack.timeouts.tcp-established",
	"bpfcttimeoutregulartcpsyn":      "Cilium's key; write conntrack.timeouts.tcp-syn",
	"bpfcttimeoutregulartcpfin":      "Cilium's key; write conntrack.timeouts.tcp-transitory",
	"bpfcttimeoutregularany":         "Cilium's key; write conntrack.timeouts.udp",
	"bpf":                            "Cilium's Helm section; see masquerade and services",
	"loadbalancer":                   "Cilium's Helm section; see services",

	// ip-masq-agent.
	"nonmasqueradecidrs": "ip-masq-agent's key; keep that file and set masquerade.ip-masq-agent-config to its path, or write the prefixes in masquerade.native-routing-cidrs",
	"masqlinklocal":      "ip-masq-agent's key; write masquerade.masquerade-link-local",
	"masqlinklocalipv6":  "ip-masq-agent's key; IPv6 is not translated here; remove it",
	"resyncinterval":     "ip-masq-agent's key; it belongs in the file that masquerade.ip-masq-agent-config names",

	// Calico and netfilter.
	"natoutgoing":    "Calico's key; write the pool's CIDR in masquerade.sources",
	"ipipmode":       "Calico's key; there are no tunnels here; remove it",
	"vxlanmode":      "Calico's key; there are no tunnels here; remove it",
	"nfconntrackmax": "netfilter's setting; write conntrack.max-flows",
}

// fold removes what differs between the spellings of a key: case, hyphens,
// underscores and dots.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == '_' || r == '.' || r == ' ':
			return -1
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// places are the paths of every key by its folded last word, list indices left
// out.
var places = func() map[string][]string {
	m := map[string][]string{}
	for path := range keysOf(reflect.TypeFor[Config](), "") {
		name := path[strings.LastIndexByte(path, '.')+1:]
		m[fold(name)] = append(m[fold(name)], path)
	}
	for _, paths := range m {
		slices.Sort(paths)
	}
	return m
}()

// keysOf yields the path of every key under t, sections included.
func keysOf(t reflect.Type, under string) func(func(string) bool) {
	return func(yield func(string) bool) { walkKeys(t, under, yield) }
}

func walkKeys(t reflect.Type, under string, yield func(string) bool) bool {
	if t.Kind() == reflect.Slice {
		t, under = t.Elem(), under+"[]"
	}
	if t.Kind() != reflect.Struct || isLeaf(t) {
		return true
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		path := key
		if under != "" {
			path = under + "." + key
		}
		if !yield(path) || !walkKeys(f.Type, path, yield) {
			return false
		}
	}
	return true
}

// explainUnknown says what to do about a key that section has not.
func explainUnknown(section, name string, t reflect.Type) string {
	folded := fold(name)
	siblings := slices.Sorted(maps.Keys(fieldsOf(t)))
	for _, s := range siblings {
		if fold(s) == folded {
			return "is not a key; write " + s
		}
	}
	if name == "<<" {
		return "merge keys are not read; repeat the keys"
	}
	if text, ok := foreign[folded]; ok {
		return "is not a key here: " + text
	}
	if text, ok := foreign[strings.TrimSuffix(folded, "s")]; ok {
		return "is not a key here: " + text
	}
	if s := suggestion(name, siblings); s != "" {
		return "is not a key" + s
	}
	if paths := places[folded]; len(paths) == 1 {
		return "is not a key here; did you mean " + paths[0] + "?"
	}
	where := "at the top level"
	if section != "" {
		where = "of " + section
	}
	return fmt.Sprintf("is not a key; the keys %s are: %s", where, strings.Join(siblings, ", "))
}

// suggestion returns "; did you mean X?" for the word that is closest to s, or
// "" where none is close.
func suggestion(s string, words []string) string {
	best, found := max(1, len(s)/3)+1, ""
	for _, w := range words {
		if n := distance(strings.ToLower(s), w, best); n < best {
			best, found = n, w
		}
	}
	if found == "" {
		return ""
	}
	return "; did you mean " + found + "?"
}

// distance is the number of insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment), or at least limit
// where the lengths alone say so.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	before := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
