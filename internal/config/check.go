package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// check reports what is wrong between keys and with values that were readable.
// Where something was refused already it does not complain of the consequence.
func (d *decoder) check(c *Config) {
	d.checkInterfaces(c)
	d.checkAgent(&c.DSRAgent)
	d.checkMasquerade(c)
	d.checkForwards(c)
	d.checkServices(c)
	d.checkTimeouts(&c.Conntrack.Timeouts)
	d.checkRest(c)
}

func (d *decoder) checkInterfaces(c *Config) {
	const key = "interfaces"
	list := c.Interfaces
	if len(list) == 0 && len(c.DSRAgent.Interfaces) > 0 {
		return // a node that is only a backend
	}
	if len(list) == 0 && !d.failed(key) {
		d.mistake(d.line(key), key, "none is listed; list at least one, such as {name: eth1, role: inside} and {name: eth0, role: outside}")
		return
	}
	if len(list) > MaxInterfaces {
		d.mistake(d.line(key), key, "%d are listed; at most %d", len(list), MaxInterfaces)
		return
	}
	first := map[string]int{}
	for i := range list {
		f := &list[i]
		if f.Line == 0 {
			continue // was not even a section
		}
		path := fmt.Sprintf("%s[%d]", key, i)
		d.checkName(f, path)
		if line, ok := first[f.Name]; ok && f.Name != "" {
			d.mistake(f.Line, path+".name", "%s is listed twice, first on line %d; one entry per interface (role: both for a one-armed gateway)", f.Name, line)
		} else {
			first[f.Name] = f.Line
		}
		if f.Role == "" && !d.failed(path+".role") {
			d.mistake(f.Line, path+".role", "is missing; write inside, outside or both")
		}
		if f.Mode == ModeGeneric {
			d.warn(d.line(path+".mode"), path+".mode", "generic mode is slow and drops the super-frames of peers; status will be degraded")
		}
	}
	for i := range list {
		if parent, _, ok := strings.Cut(list[i].Name, "."); ok && first[parent] > 0 && parent != "" {
			d.warn(list[i].Line, fmt.Sprintf("%s[%d].name", key, i), "looks like a VLAN child of %s, which is listed as well; its frames arrive at %s first", parent, parent)
		}
	}
	if len(list) == 1 && (list[0].Role == RoleInside || list[0].Role == RoleOutside) && !d.failed(key) {
		d.warn(list[0].Line, key, "only one interface is listed, and what arrives there has nowhere to go; list another, or use role: both")
	}
}

// checkName holds a name to what the kernel allows (dev_valid_name, IFNAMSIZ).
func (d *decoder) checkName(f *Interface, path string) {
	line := d.line(path + ".name")
	path += ".name"
	switch name := f.Name; {
	case d.failed(path):
	case name == "":
		d.mistake(line, path, "is missing; write the interface's name as `ip link` shows it")
	case len(name) > 15:
		d.mistake(line, path, "%s has %d bytes; an interface's name has at most 15", quote(name), len(name))
	case name == "." || name == ".." || strings.ContainsAny(name, "/: \u00a0"):
		d.mistake(line, path, "%s is not a name that an interface can have", quote(name))
	case name == "lo":
		d.mistake(line, path, "the loopback interface cannot be routed for; list a network interface")
	}
}

func (d *decoder) checkMasquerade(c *Config) {
	m := &c.Masquerade
	const key = "masquerade"
	d.checkRules(key+".sources", m.Sources)
	d.checkRules(key+".no-nat-sources", m.NoNATSources)
	d.checkRules(key+".native-routing-cidrs", m.NativeRoutingCIDRs)
	d.checkNodes(key+".nodes", m.Nodes)
	d.checkExternals(m)
	d.checkBehaviour(c)
	d.checkRoles(c)
	d.checkExclusions(m)
	if m.OtherProtocols == OtherPass {
		d.warn(d.line(key+".other-protocols"), key+".other-protocols", "hands packets of inside hosts to the kernel untranslated; if it routes (ip_forward), they leave with their inside source")
	}
	if m.IPMasqAgentConfig != "" {
		d.checkPath(key+".ip-masq-agent-config", m.IPMasqAgentConfig, 4095)
		if d.lines[key+".masquerade-link-local"] > 0 {
			d.warn(d.line(key+".masquerade-link-local"), key+".masquerade-link-local", "has no effect while ip-masq-agent-config is set: masqLinkLocal in that file counts")
		}
	}
}

// checkRoles asks that masquerading has sources, a way in and a way out.
func (d *decoder) checkRoles(c *Config) {
	m := &c.Masquerade
	const sources = "masquerade.sources"
	if !m.Enabled {
		if len(m.Sources) > 0 && !d.failed("masquerade.enabled") {
			d.warn(d.line("masquerade.enabled"), "masquerade.enabled", "is false: the sources below are forwarded untranslated")
		}
		return
	}
	if len(m.Sources) == 0 {
		backendOnly := len(c.Interfaces) == 0 && len(c.DSRAgent.Interfaces) > 0
		if !d.failed(sources) && !backendOnly {
			d.warn(d.line(sources), sources, "is empty: nothing is masqueraded; list the inside networks, or set masquerade.enabled: false")
		}
		return
	}
	if len(c.Interfaces) == 0 || d.failed("interfaces") {
		return
	}
	in, out := false, false
	line, all := linesOf(m.Sources)[netip.PrefixFrom(netip.IPv4Unspecified(), 0)]
	for i, f := range c.Interfaces {
		if f.Role == RoleBoth && all {
			d.mistake(f.Line, fmt.Sprintf("interfaces[%d].role", i), "both takes every destination in sources for an inside one, and sources has 0.0.0.0/0 on line %d: nothing would be masqueraded; name the inside networks there", line)
		}
		in = in || f.Role != RoleOutside
		out = out || f.Role != RoleInside
	}
	if !out {
		d.mistake(d.line("interfaces"), "interfaces", "none has role outside or both, so nothing can be masqueraded; give the one towards the outside role: outside")
	}
	if !in {
		d.mistake(d.line("interfaces"), "interfaces", "none has role inside or both, so no source can arrive; give the one towards the sources role: inside")
	}
}

// checkRules reports prefixes that are given twice, or that a wider one makes
// idle, and prefixes that no packet can come from.
func (d *decoder) checkRules(key string, rules []Rule) {
	first := linesOf(rules)
	seen := make(map[netip.Prefix]bool, len(rules))
	for i, r := range rules {
		if !r.Prefix.IsValid() {
			continue
		}
		path := fmt.Sprintf("%s[%d]", key, i)
		if seen[r.Prefix] {
			d.warn(r.Line, path, "%s is listed twice, first on line %d; remove one", r.Prefix, first[r.Prefix])
			continue
		}
		seen[r.Prefix] = true
		if why := neverUnicast(r.Prefix); why != "" {
			d.mistake(r.Line, path, "%s is %s, which no packet is routed by; remove it", r.Prefix, why)
		}
		if wider, line, ok := above(first, r.Prefix); ok {
			d.warn(r.Line, path, "%s lies in %s on line %d and adds nothing", r.Prefix, wider, line)
		}
	}
}

func (d *decoder) checkNodes(key string, nodes []Node) {
	first := make(map[netip.Addr]int, len(nodes))
	for i, n := range nodes {
		if !n.Address.IsValid() {
			continue
		}
		path := fmt.Sprintf("%s[%d]", key, i)
		if line, ok := first[n.Address]; ok {
			d.warn(n.Line, path, "%s is listed twice, first on line %d; remove one", n.Address, line)
			continue
		}
		first[n.Address] = n.Line
		if why := neverUnicast(netip.PrefixFrom(n.Address, 32)); why != "" {
			d.mistake(n.Line, path, "%s is %s, which no node has; remove it", n.Address, why)
		}
	}
}

// checkExternals holds masquerade.addresses to addresses that can be told apart
// and used: of any shape, but for their number (RFC 6888 REQ-3).
func (d *decoder) checkExternals(m *Masquerade) {
	const key = "masquerade.addresses"
	if len(m.Addresses) == 0 {
		if m.Enabled && !d.failed(key) {
			d.mistake(d.line(key), key, "is empty: there is nothing to masquerade to; write [auto] for the address of the interface, or list addresses")
		}
		return
	}
	total := 0
	for i, e := range m.Addresses {
		path := fmt.Sprintf("%s[%d]", key, i)
		if e.Auto {
			if len(m.Addresses) > 1 {
				d.mistake(e.Line, path, "auto stands alone; remove it, or the other entries")
			}
			continue
		}
		if !e.Prefix.IsValid() {
			continue
		}
		if why := neverUnicast(e.Prefix); why != "" {
			d.mistake(e.Line, path, "%s is %s, which cannot be an external address; remove it", e.Prefix, why)
			continue
		}
		if total += 1 << min(32-e.Prefix.Bits(), 24); total > MaxExternals {
			d.mistake(e.Line, path, "%s makes more than %d external addresses; list fewer", e.Prefix, MaxExternals)
			return
		}
		for j, other := range m.Addresses[:i] {
			if !other.Auto && other.Prefix.Overlaps(e.Prefix) {
				d.mistake(e.Line, path, "%s overlaps %s on line %d (entry %d); list each address once", e.Prefix, other.Prefix, other.Line, j)
				break
			}
		}
		for _, s := range m.Sources {
			if s.Prefix.Overlaps(e.Prefix) {
				d.warn(e.Line, path, "%s overlaps the source %s on line %d: inside hosts cannot use an external address", e.Prefix, s.Prefix, s.Line)
				break
			}
		}
	}
}

// checkExclusions reports exclusions that leave nothing to masquerade, or that
// change nothing.
func (d *decoder) checkExclusions(m *Masquerade) {
	if !m.Enabled || len(m.Sources) == 0 {
		return
	}
	excluded, sources := linesOf(m.NoNATSources), linesOf(m.Sources)
	used := map[netip.Prefix]bool{}
	for i, s := range m.Sources {
		x, line, ok := covering(excluded, s.Prefix)
		if !ok {
			continue
		}
		d.warn(s.Line, fmt.Sprintf("masquerade.sources[%d]", i), "%s is never masqueraded: no-nat-sources has %s on line %d", s.Prefix, x, line)
		for ; ok; x, _, ok = above(excluded, x) {
			used[x] = true
		}
	}
	for i, x := range m.NoNATSources {
		if _, _, inside := covering(sources, x.Prefix); !inside && !used[x.Prefix] && x.Prefix.IsValid() {
			d.warn(x.Line, fmt.Sprintf("masquerade.no-nat-sources[%d]", i), "%s covers no source and changes nothing", x.Prefix)
		}
	}
	d.checkOwnNetworkOnly(m, sources)
	for i, x := range m.NativeRoutingCIDRs {
		if x.Prefix.IsValid() && x.Prefix.Bits() == 0 {
			d.warn(x.Line, fmt.Sprintf("masquerade.native-routing-cidrs[%d]", i), "%s is every destination: nothing is masqueraded", x.Prefix)
		}
	}
}

// checkOwnNetworkOnly reports native-routing-cidrs that name nothing but the
// sources' own networks, which are inside and never masqueraded towards. Whoever
// writes them means networks that reach the sources by routing, and leaves out
// those where servers grant access by address.
func (d *decoder) checkOwnNetworkOnly(m *Masquerade, sources map[netip.Prefix]int) {
	const key = "masquerade.native-routing-cidrs"
	if len(m.NativeRoutingCIDRs) == 0 || m.IPMasqAgentConfig != "" || d.failed(key) {
		return
	}
	for _, x := range m.NativeRoutingCIDRs {
		if _, _, own := covering(sources, x.Prefix); !own {
			return
		}
	}
	d.warn(d.line(key), key, "has nothing but the sources' own networks, so every other network sees the gateway's address; "+
		"where the sources are routed, add all networks that are to see the true source, such as 10.0.0.0/8 (ask `sluice explain` about a server)")
}

// linesOf returns the line of each prefix, the first where it stands twice.
func linesOf(rules []Rule) map[netip.Prefix]int {
	m := make(map[netip.Prefix]int, len(rules))
	for _, r := range rules {
		if _, ok := m[r.Prefix]; !ok && r.Prefix.IsValid() {
			m[r.Prefix] = r.Line
		}
	}
	return m
}

// covering returns the narrowest prefix of set that covers p, p itself included.
func covering(set map[netip.Prefix]int, p netip.Prefix) (netip.Prefix, int, bool) {
	for bits := p.Bits(); bits >= 0; bits-- {
		wider, _ := p.Addr().Prefix(bits)
		if line, ok := set[wider]; ok {
			return wider, line, true
		}
	}
	return netip.Prefix{}, 0, false
}

// above returns the narrowest prefix of set that covers p and more.
func above(set map[netip.Prefix]int, p netip.Prefix) (netip.Prefix, int, bool) {
	if p.Bits() <= 0 {
		return netip.Prefix{}, 0, false
	}
	wider, _ := p.Addr().Prefix(p.Bits() - 1)
	return covering(set, wider)
}

// shortest is what the RFCs ask of an idle time at least.
var shortest = []struct {
	key  string
	of   func(*Timeouts) Duration
	min  time.Duration
	from string
}{
	{"tcp-established", func(t *Timeouts) Duration { return t.TCPEstablished }, 2*time.Hour + 4*time.Minute, "RFC 5382 REQ-5"},
	{"tcp-transitory", func(t *Timeouts) Duration { return t.TCPTransitory }, 4 * time.Minute, "RFC 5382 REQ-5"},
	{"tcp-closing", func(t *Timeouts) Duration { return t.Closing() }, 4 * time.Minute, "RFC 5382 REQ-5"},
	{"tcp-syn", func(t *Timeouts) Duration { return t.TCPSyn }, 0, ""},
	{"tcp-close", func(t *Timeouts) Duration { return t.TCPClose }, 0, ""},
	{"tcp-time-wait", func(t *Timeouts) Duration { return t.TCPTimeWait }, 0, ""},
	{"udp", func(t *Timeouts) Duration { return t.UDP }, 2 * time.Minute, "RFC 4787 REQ-5"},
	{"udp-unreplied", func(t *Timeouts) Duration { return t.UDPUnreplied }, 0, ""},
	{"icmp", func(t *Timeouts) Duration { return t.ICMP }, 60 * time.Second, "RFC 5508 REQ-2"},
	{"other", func(t *Timeouts) Duration { return t.Other }, 0, ""},
}

func (d *decoder) checkTimeouts(t *Timeouts) {
	// The data path counts time in ticks of 100 ms; a flow that ends before
	// its reply can arrive is of no use.
	const least, most = time.Second, 30 * 24 * time.Hour
	for _, s := range shortest {
		key := "conntrack.timeouts." + s.key
		switch v := s.of(t).Std(); {
		case d.failed(key):
		case v < least || v > most:
			d.mistake(d.line(key), key, "%s is out of range; use %s to %s", Duration(v), Duration(least), Duration(most))
		case v < s.min && (s.key != "tcp-closing" || t.TCPClosing != 0):
			d.warn(d.line(key), key, "%s is under the %s that %s asks for; idle connections will be cut", Duration(v), Duration(s.min), s.from)
		}
	}
	t.UDPPorts.check(d, "conntrack.timeouts.udp-ports", least, most)
}

func (d *decoder) checkRest(c *Config) {
	if n := c.Conntrack.MaxFlows; (n < 1 || n > MaxFlows) && !d.failed("conntrack.max-flows") {
		d.mistake(d.line("conntrack.max-flows"), "conntrack.max-flows", "%d is out of range; use 1 to %d", n, MaxFlows)
	}
	first := map[int]bool{}
	for i, cpu := range c.CPUs {
		path := fmt.Sprintf("cpus[%d]", i)
		switch {
		case d.failed("cpus"):
		case cpu > 8191:
			d.mistake(d.line(path), path, "%d is not the number of a CPU; use 0 to 8191", cpu)
		case first[cpu]:
			d.mistake(d.line(path), path, "CPU %d is listed twice; remove one", cpu)
		}
		first[cpu] = true
	}
	if path := c.StateFile; path != "" && path != "auto" && !d.failed("state-file") {
		const pathMax = 4095 // linux/limits.h, less the terminating zero
		d.checkPath("state-file", path, pathMax)
	}
	if !d.failed("control.socket") {
		const sunPath = 107 // struct sockaddr_un, less the terminating zero
		d.checkPath("control.socket", c.Control.Socket, sunPath)
	}
	if !d.failed("control.metrics") {
		d.checkMetrics(c.Control.Metrics)
	}
}

// checkMetrics asks for an address and port to answer at. No host name: what it
// stands for may change, and what is listened at must not.
func (d *decoder) checkMetrics(text string) {
	const key = "control.metrics"
	if text == "" {
		return
	}
	at, err := netip.ParseAddrPort(text)
	switch {
	case err != nil || at.Port() == 0:
		d.mistake(d.line(key), key, "%s is not ADDRESS:PORT; write one such as 127.0.0.1:9469", quote(text))
	case at.Addr().IsMulticast():
		d.mistake(d.line(key), key, "%s is a multicast address; write one of this host's", at.Addr())
	case at.Addr().IsUnspecified():
		d.warn(d.line(key), key, "%s is every address of the host, outside ones too, and whoever reaches it may read; 127.0.0.1 is this host's alone", at.Addr())
	}
}

// checkPath asks for an absolute path of at most most bytes: the daemon's
// working directory is nobody's business.
func (d *decoder) checkPath(key, path string, most int) {
	switch {
	case path == "":
		d.mistake(d.line(key), key, "is empty; write an absolute path")
	case path[0] != '/':
		d.mistake(d.line(key), key, "%s is not an absolute path; begin it with /", quote(path))
	case strings.HasSuffix(path, "/"):
		d.mistake(d.line(key), key, "%s is a directory; name a file in it", quote(path))
	case len(path) > most:
		d.mistake(d.line(key), key, "has %d bytes; at most %d are possible", len(path), most)
	}
}

// neverUnicast says why no address of p can be the source or destination of a
// routed packet (RFC 6890), or "".
func neverUnicast(p netip.Prefix) string {
	for _, s := range []struct{ prefix, why string }{
		{"127.0.0.0/8", "loopback"},
		{"224.0.0.0/4", "multicast"},
		{"255.255.255.255/32", "the broadcast address"},
		{"0.0.0.0/8", "this network"},
	} {
		special := netip.MustParsePrefix(s.prefix)
		if special.Bits() <= p.Bits() && special.Overlaps(p) {
			return s.why
		}
	}
	return ""
}
