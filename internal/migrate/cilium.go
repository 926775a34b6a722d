package migrate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"sluice/internal/config"
)

// renamed are keys under the names that they had, and what an agent makes of the
// old name now: a key that is ignored has the default's meaning, which is how
// masquerading that was switched off comes back with an upgrade.
var renamed = []struct{ old, new, history string }{
	{"masquerade", "enable-ipv4-masquerade", "was renamed in Cilium 1.10; since 1.11 the agent ignores it, and masquerades"},
	{"native-routing-cidr", "ipv4-native-routing-cidr", "was renamed in Cilium 1.11; since 1.12 the agent ignores it, and takes the cluster's pod network"},
	{"node-port-mode", "bpf-lb-mode", "is an old name, which newer agents ignore"},
	{"node-port-algorithm", "bpf-lb-algorithm", "is an old name, which newer agents ignore"},
	{"ct-global-max-entries-tcp", "bpf-ct-global-tcp-max", "is an old name, which newer agents ignore"},
	{"ct-global-max-entries-other", "bpf-ct-global-any-max", "is an old name, which newer agents ignore"},
	{"tunnel", "routing-mode", "is an old name: newer agents ignore it and have routing-mode and tunnel-protocol"},
}

// masquerading are the keys by which a mapping is known to be Cilium's.
var masquerading = []string{
	"enable-ipv4-masquerade", "masquerade", "enable-bpf-masquerade", "ipv4-native-routing-cidr", "native-routing-cidr",
	"enable-ip-masq-agent", "cluster-pool-ipv4-cidr",
}

// knowsCilium reports whether a mapping has Cilium's keys about masquerading.
func knowsCilium(n *yaml.Node) bool {
	return slices.ContainsFunc(masquerading, func(key string) bool { return child(n, key) != nil })
}

// entry is a key of the ConfigMap.
type entry struct {
	name, text string // as it stands there
	line       int
}

// cilium are the keys of one ConfigMap.
type cilium struct {
	*migration
	keys map[string]entry // by their newest names
	seen map[string]bool  // by whatever name, those that were looked at
}

// cilium takes over a ConfigMap's data.
func (m *migration) cilium(n *yaml.Node) error {
	m.found = true
	c := &cilium{migration: m, keys: map[string]entry{}, seen: map[string]bool{}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		c.keys[k.Value] = entry{k.Value, strings.TrimSpace(v.Value), k.Line}
	}
	c.rename()
	for _, step := range []func() error{c.enabled, c.sources, c.exclusions, c.conntrack, c.dispatch} {
		if err := step(); err != nil {
			return err
		}
	}
	c.nodes()
	c.devices()
	c.remarks()
	for key := range c.keys {
		if !c.seen[key] {
			m.ignored++
		}
	}
	return nil
}

// rename files keys under their newest names. Where a file has both, the new one
// counts, as it does for the agent.
func (c *cilium) rename() {
	for _, r := range renamed {
		old, ok := c.keys[r.old]
		if !ok {
			continue
		}
		delete(c.keys, r.old)
		now, both := c.keys[r.new]
		switch {
		case both && now.text != old.text:
			c.warn(old.line, r.old, "%s; %s on line %d says %q and counts, not %q", r.history, r.new, now.line, now.text, old.text)
		case both:
			c.warn(old.line, r.old, "%s; %s on line %d says the same", r.history, r.new, now.line)
		default:
			c.keys[r.new] = old
			c.warn(old.line, r.old, "%s; taken as %s: %q", r.history, r.new, old.text)
		}
	}
}

// get looks at a key; one without a value is as if it were not there.
func (c *cilium) get(key string) (entry, bool) {
	c.seen[key] = true
	e, ok := c.keys[key]
	return e, ok && e.text != ""
}

// flag is a key that is true or false.
func (c *cilium) flag(key string, def bool) (bool, entry, error) {
	e, ok := c.get(key)
	if !ok {
		return def, e, nil
	}
	v, err := strconv.ParseBool(e.text)
	if err != nil {
		return def, e, c.refuse(e.line, e.name, "%q is neither true nor false", e.text)
	}
	return v, e, nil
}

// enabled is about whether anything is masqueraded.
func (c *cilium) enabled() error {
	v4, _, err := c.flag("enable-ipv4-masquerade", true)
	if err != nil {
		return err
	}
	bpf, e, err := c.flag("enable-bpf-masquerade", false)
	if err != nil {
		return err
	}
	c.Config.Masquerade.Enabled = v4
	mode, _ := c.get("bpf-lb-mode")
	switch {
	case bpf && !v4:
		c.warn(e.line, e.name, "does nothing without enable-ipv4-masquerade: nothing is masqueraded")
	case bpf && strings.EqualFold(mode.text, "dsr"):
		c.warn(e.line, e.name, "with %s dsr, Cilium before 1.8.2 skipped the source NAT of pods by mistake: what those versions did not masquerade is masqueraded now, here too; ask `sluice explain` about servers that grant access by address", mode.name)
	case !bpf && v4:
		c.warn(e.line, "enable-bpf-masquerade", "is false: iptables masqueraded, also towards the ExternalIPs of nodes; here masquerade.nodes decides alone")
	}
	v6, e, err := c.flag("enable-ipv6-masquerade", false)
	if err == nil && v6 {
		c.warn(e.line, e.name, "IPv6 is not translated here; left out")
	}
	return err
}

// prefixes reads a list of prefixes, separated by spaces or commas.
func (c *cilium) prefixes(e entry, take func(line int, key string, p netip.Prefix)) error {
	for _, text := range strings.FieldsFunc(e.text, func(r rune) bool { return r == ' ' || r == ',' }) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return c.refuse(e.line, e.name, "%q is not a prefix", text)
		}
		take(e.line, e.name, p)
	}
	return nil
}

// sources are the pod networks. Cilium takes every local pod; a gateway that is
// not the pods' node has to be told their addresses.
func (c *cilium) sources() error {
	found := false
	for _, key := range []string{"cluster-pool-ipv4-cidr", "ipv4-range"} {
		if e, ok := c.get(key); ok && !strings.EqualFold(e.text, "auto") {
			found = true
			if err := c.prefixes(e, c.source); err != nil {
				return err
			}
		}
	}
	if !found && c.Config.Masquerade.Enabled && len(c.Config.Masquerade.Sources) == 0 {
		c.warn(0, "", "Cilium masquerades every local pod, and no key says what their networks are; write them in masquerade.sources")
	}
	return nil
}

// exclusions are the destinations that see the true source. What counts where
// the key is absent depends on the ip-masq-agent.
func (c *cilium) exclusions() error {
	agent, e, err := c.flag("enable-ip-masq-agent", false)
	if err != nil {
		return err
	}
	path, ok := c.get("ip-masq-agent-config-path")
	if agent {
		c.Config.Masquerade.IPMasqAgentConfig = "/etc/config/ip-masq-agent"
		if ok {
			c.Config.Masquerade.IPMasqAgentConfig = path.text
		}
		c.needsAgent = &config.Mistake{File: c.file, Line: e.line, Key: e.name, Warning: true,
			Text: "the file " + c.Config.Masquerade.IPMasqAgentConfig + " must be on the gateway; where it is missing or empty, the built-in list counts (all private networks)"}
	}
	native, ok := c.get("ipv4-native-routing-cidr")
	if ok {
		return c.prefixes(native, c.exclude)
	}
	if !agent && c.Config.Masquerade.Enabled {
		for _, r := range c.Config.Masquerade.Sources {
			c.exclude(0, "ipv4-native-routing-cidr", r.Prefix)
		}
		c.warn(0, "ipv4-native-routing-cidr", "is not set: Cilium then excludes the pods' own network alone, and so does masquerade.native-routing-cidrs")
	}
	return nil
}

// conntrack takes over the size of the tables and the time-outs.
func (c *cilium) conntrack() error {
	flows := 0
	for _, key := range []string{"bpf-ct-global-tcp-max", "bpf-ct-global-any-max"} {
		e, ok := c.get(key)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(e.text)
		if err != nil || n < 0 {
			return c.refuse(e.line, e.name, "%q is not a number of flows", e.text)
		}
		flows += n
	}
	if flows > 0 {
		c.Config.Conntrack.MaxFlows = min(flows, config.MaxFlows)
	}
	t := &c.Config.Conntrack.Timeouts
	for _, timeout := range []struct {
		key string
		to  []*config.Duration
	}{
		{"bpf-ct-timeout-regular-tcp", []*config.Duration{&t.TCPEstablished}},
		{"bpf-ct-timeout-regular-tcp-syn", []*config.Duration{&t.TCPSyn}},
		{"bpf-ct-timeout-regular-tcp-fin", []*config.Duration{&t.TCPTimeWait, &t.TCPClose}},
		{"bpf-ct-timeout-regular-any", []*config.Duration{&t.UDP}},
	} {
		e, ok := c.get(timeout.key)
		if !ok {
			continue
		}
		d, err := time.ParseDuration(e.text)
		if err != nil || d < 0 {
			return c.refuse(e.line, e.name, "%q is not a duration", e.text)
		}
		for _, to := range timeout.to {
			*to = config.Duration(d)
		}
	}
	return nil
}

// dispatch is how Direct Server Return tells a backend of the service. Nothing uses it
// until services are written.
func (c *cilium) dispatch() error {
	e, ok := c.get("bpf-lb-dsr-dispatch")
	if !ok {
		return nil
	}
	words := map[string]config.Dispatch{"opt": "option", "ipip": "ipip", "geneve": "geneve"}
	d, ok := words[strings.ToLower(e.text)]
	if !ok {
		return c.refuse(e.line, e.name, "%q is none of opt, ipip, geneve", e.text)
	}
	c.Config.DSR.Dispatch = d
	return nil
}

// nodes is about destinations that are nodes of the cluster.
func (c *cilium) nodes() {
	remote, e, err := c.flag("enable-remote-node-masquerade", false)
	switch {
	case err != nil, !c.Config.Masquerade.Enabled:
	case remote:
		c.warn(e.line, e.name, "is true: leave masquerade.nodes empty")
	default:
		c.warn(e.line, "enable-remote-node-masquerade", "is false, and the keys do not say which addresses the nodes have: write them in masquerade.nodes, or nodes see the gateway's address")
	}
}

// devices names the interfaces towards the outside, unless the command line did.
func (c *cilium) devices() {
	for _, key := range []string{"egress-masquerade-interfaces", "devices"} {
		e, ok := c.get(key)
		if !ok || len(c.options.Outside) > 0 {
			continue
		}
		names := strings.FieldsFunc(e.text, func(r rune) bool { return r == ' ' || r == ',' })
		if slices.ContainsFunc(names, func(s string) bool { return strings.HasSuffix(s, "+") }) {
			c.warn(e.line, e.name, "%q stands for several interfaces; name each in interfaces, with role: outside", e.text)
			continue
		}
		c.options.Outside = names
		c.warn(e.line, e.name, "taken for the interfaces towards the outside")
	}
}

// remark is what to know about a key that is not carried over. applies is for
// keys of which only some values matter.
type remark struct {
	key     string
	applies func(value string) bool
	text    string
}

func isTrue(v string) bool { return v == "true" }

var remarks = []remark{
	{"routing-mode", func(v string) bool { return v != "native" && v != "disabled" }, "is not native: packets travelled in tunnels, and there are none here; the pod networks must be routed to the gateway"},
	{"bpf-lb-mode", func(v string) bool { return v != "" }, "is about services, which are not carried over; masquerading does not depend on it here"},
	{"bpf-lb-algorithm", func(v string) bool { return v != "" }, "becomes services[].algorithm; services are not carried over, write them"},
	{"bpf-lb-maglev-table-size", func(v string) bool { return v != "16381" }, "is not 16381, the size of the table here: gateways and Cilium's nodes choose different backends"},
	{"bpf-lb-maglev-hash-seed", func(v string) bool { return v != "" && v != "jlfvgnhc2kasufai" }, "is not Cilium's default, which is the seed here: gateways and Cilium's nodes choose different backends"},
	{"enable-masquerade-to-route-source", isTrue, "the source came from the route; here it is the primary address of the interface that a packet leaves by, or those in masquerade.addresses"},
	{"enable-ipv4-egress-gateway", isTrue, "egress gateway policies are not carried over; see masquerade.addresses"},
	{"enable-egress-gateway", isTrue, "egress gateway policies are not carried over; see masquerade.addresses"},
	{"derive-masq-ip-addr-from-device", func(v string) bool { return v != "" }, "the address of that device was taken for all; write it in masquerade.addresses"},
	{"node-port-range", func(v string) bool { return v != "" }, "external ports lay above this range; here they are masquerade.port-range, less what the host listens on"},
	{"bpf-nat-global-max", func(v string) bool { return v != "" }, "there is no table of its own for NAT here: see conntrack.max-flows"},
}

// remarks tells about keys that are not carried over.
func (c *cilium) remarks() {
	for _, r := range remarks {
		if e, ok := c.get(r.key); ok && r.applies(strings.ToLower(e.text)) {
			c.warn(e.line, e.name, "%s", r.text)
		}
	}
}
