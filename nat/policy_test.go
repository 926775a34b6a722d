package nat

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// addr is an address in host byte order.
func addr(s string) uint32 {
	b := netip.MustParseAddr(s).As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func rules(line int, list ...string) (out []Rule) {
	for i, s := range list {
		out = append(out, Rule{netip.MustParsePrefix(s), line + i})
	}
	return out
}

// TestPolicyRules has a case for each rule and for each pair of rules whose
// order decides which is named.
func TestPolicyRules(t *testing.T) {
	base := func(edit func(*PolicyConfig)) PolicyConfig {
		c := PolicyConfig{
			Enabled: true, EnabledLine: 1,
			Sources:       rules(10, "10.20.30.0/24", "10.20.0.0/16"),
			NoNATSources:  rules(20, "10.20.30.128/25"),
			NativeRouting: rules(30, "10.0.0.0/8", "198.51.100.0/24"),
			Nodes:         []NodeRule{{netip.MustParseAddr("192.0.2.10"), 40}, {netip.MustParseAddr("10.9.9.9"), 41}},
			LinkLocalLine: 50,
		}
		edit(&c)
		return c
	}
	plain := func(*PolicyConfig) {}
	agent := func(masqLinkLocal bool, list ...string) func(*PolicyConfig) {
		return func(c *PolicyConfig) {
			c.IPMasq = &IPMasqConfig{MasqLinkLocal: masqLinkLocal}
			for _, s := range list {
				c.IPMasq.NonMasquerade = append(c.IPMasq.NonMasquerade, netip.MustParsePrefix(s))
			}
		}
	}
	const pod, other, excluded = "10.20.30.5", "172.31.0.1", "10.20.30.200"
	for _, tc := range []struct {
		name     string
		edit     func(*PolicyConfig)
		src, dst string
		want     Decision
	}{
		{"masquerade is the rule where no other applies", plain, pod, "1.1.1.1", Decision{true, RuleMasquerade, 10}},
		{"masquerade names the most specific source", plain, "10.20.31.1", "1.1.1.1", Decision{true, RuleMasquerade, 11}},
		{"disabled comes before everything", func(c *PolicyConfig) { c.Enabled = false }, pod, "1.1.1.1", Decision{false, RuleDisabled, 1}},
		{"not a source", plain, other, "1.1.1.1", Decision{false, RuleNotASource, 0}},
		{"not a source before a destination that is excluded", plain, other, "10.1.1.1", Decision{false, RuleNotASource, 0}},
		{"no sources, nothing masqueraded", func(c *PolicyConfig) { c.Sources = nil }, pod, "1.1.1.1", Decision{false, RuleNotASource, 0}},
		{"no-nat source", plain, excluded, "1.1.1.1", Decision{false, RuleNoNATSource, 20}},
		{"no-nat source before native routing", plain, excluded, "10.1.1.1", Decision{false, RuleNoNATSource, 20}},
		{"no-nat source that is not a source", func(c *PolicyConfig) { c.NoNATSources = rules(20, other+"/32") }, other, "1.1.1.1", Decision{false, RuleNotASource, 0}},
		{"native routing", plain, pod, "198.51.100.7", Decision{false, RuleNativeRouting, 31}},
		{"native routing before node", plain, pod, "10.9.9.9", Decision{false, RuleNativeRouting, 30}},
		{"native routing before ip-masq-agent", agent(false, "10.0.0.0/8"), pod, "10.1.1.1", Decision{false, RuleNativeRouting, 30}},
		{"node", plain, pod, "192.0.2.10", Decision{false, RuleNode, 40}},
		{"the node's neighbour is no node", plain, pod, "192.0.2.11", Decision{true, RuleMasquerade, 10}},
		{"ip-masq-agent before node", agent(false, "192.0.2.0/24"), pod, "192.0.2.10", Decision{false, RuleIPMasqAgent, 0}},
		{"ip-masq-agent with host bits set", agent(false, "203.0.113.77/24"), pod, "203.0.113.1", Decision{false, RuleIPMasqAgent, 0}},
		{"ip-masq-agent's list alone counts", agent(false), pod, "192.168.1.1", Decision{true, RuleMasquerade, 10}},
		{"link-local", plain, pod, "169.254.169.254", Decision{false, RuleLinkLocal, 50}},
		{"link-local ends at 169.254.255.255", plain, pod, "169.255.0.0", Decision{true, RuleMasquerade, 10}},
		{"link-local begins at 169.254.0.0", plain, pod, "169.253.255.255", Decision{true, RuleMasquerade, 10}},
		{"masquerade-link-local", func(c *PolicyConfig) { c.MasqueradeLinkLocal = true }, pod, "169.254.169.254", Decision{true, RuleMasquerade, 10}},
		{"ip-masq-agent adds link-local", agent(false), pod, "169.254.1.1", Decision{false, RuleIPMasqAgent, 0}},
		{"ip-masq-agent's masqLinkLocal", agent(true), pod, "169.254.1.1", Decision{true, RuleMasquerade, 10}},
		{"ip-masq-agent's word overrides masquerade-link-local", func(c *PolicyConfig) {
			c.MasqueradeLinkLocal = true
			agent(false)(c)
		}, pod, "169.254.1.1", Decision{false, RuleIPMasqAgent, 0}},
		{"ip-masq-agent's own link-local entry", agent(true, "169.254.1.0/24"), pod, "169.254.1.1", Decision{false, RuleIPMasqAgent, 0}},
		{"the first of two equal prefixes is named", func(c *PolicyConfig) { c.NativeRouting = rules(30, "9.0.0.0/8", "9.0.0.0/8") }, pod, "9.9.9.9", Decision{false, RuleNativeRouting, 30}},
		{"0.0.0.0/0 as native routing masquerades nothing", func(c *PolicyConfig) { c.NativeRouting = rules(30, "0.0.0.0/0") }, pod, "1.1.1.1", Decision{false, RuleNativeRouting, 30}},
		{"an IPv6 prefix of the agent's matches nothing", agent(false, "::/0"), pod, "1.1.1.1", Decision{true, RuleMasquerade, 10}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := NewPolicy(base(tc.edit))
			if got := p.Decide(addr(tc.src), addr(tc.dst)); got != tc.want {
				t.Errorf("Decide(%s, %s) = %+v, want %+v", tc.src, tc.dst, got, tc.want)
			}
		})
	}
}

// TestPolicyIncident replays the masquerade incident: pods whose addresses are
// routable inside the company, a native-routing CIDR that only covers the node's
// own pods, and a database outside of it that suddenly sees the node's address.
func TestPolicyIncident(t *testing.T) {
	c := PolicyConfig{Enabled: true, Sources: rules(2, "10.20.30.0/24"), NativeRouting: rules(3, "10.20.30.0/24")}
	pod, database := addr("10.20.30.7"), addr("10.50.0.3")
	if d := NewPolicy(c).Decide(pod, database); !d.Masquerade || d.Rule != RuleMasquerade || d.Line != 2 {
		t.Errorf("as configured then: %+v, want masquerade by line 2", d)
	}
	c.NativeRouting = rules(3, "10.0.0.0/8")
	if d := NewPolicy(c).Decide(pod, database); d.Masquerade || d.Rule != RuleNativeRouting || d.Line != 3 {
		t.Errorf("with the whole company excluded: %+v, want native-routing by line 3", d)
	}
	c.Enabled = false
	if d := NewPolicy(c).Decide(pod, addr("1.1.1.1")); d.Masquerade || d.Rule != RuleDisabled {
		t.Errorf("with the remedy of the time: %+v, want disabled", d)
	}
}

// naive is the policy as a reader of the contract would write it down: lists
// walked in order, most specific prefix, first line.
func naive(c PolicyConfig, src, dst uint32) Decision {
	match := func(list []Rule, a uint32) (int32, bool) {
		best := -1
		for i, r := range list {
			if r.Prefix.Contains(address(a)) && (best < 0 || r.Prefix.Bits() > list[best].Prefix.Bits()) {
				best = i
			}
		}
		if best < 0 {
			return 0, false
		}
		return int32(list[best].Line), true
	}
	isLinkLocal := netip.MustParsePrefix("169.254.0.0/16").Contains(address(dst))
	if !c.Enabled {
		return Decision{Rule: RuleDisabled, Line: int32(c.EnabledLine)}
	}
	source, ok := match(c.Sources, src)
	if !ok {
		return Decision{Rule: RuleNotASource}
	}
	if line, ok := match(c.NoNATSources, src); ok {
		return Decision{Rule: RuleNoNATSource, Line: line}
	}
	if line, ok := match(c.NativeRouting, dst); ok {
		return Decision{Rule: RuleNativeRouting, Line: line}
	}
	if c.IPMasq != nil {
		for _, prefix := range c.IPMasq.NonMasquerade {
			if prefix.Contains(address(dst)) {
				return Decision{Rule: RuleIPMasqAgent}
			}
		}
		if isLinkLocal && !c.IPMasq.MasqLinkLocal {
			return Decision{Rule: RuleIPMasqAgent}
		}
	}
	for _, n := range c.Nodes {
		if n.Address == address(dst) {
			return Decision{Rule: RuleNode, Line: int32(n.Line)}
		}
	}
	if c.IPMasq == nil && isLinkLocal && !c.MasqueradeLinkLocal {
		return Decision{Rule: RuleLinkLocal, Line: int32(c.LinkLocalLine)}
	}
	return Decision{Masquerade: true, Rule: RuleMasquerade, Line: source}
}

func TestPolicyAgainstNaive(t *testing.T) {
	// Few distinct networks, so that lists overlap and rules meet.
	address4 := rapid.Custom(func(t *rapid.T) uint32 {
		base := rapid.SampledFrom([]uint32{10 << 24, 10<<24 | 1<<16, 192<<24 | 168<<16, linkLocal, 1 << 24}).Draw(t, "network")
		return base | rapid.SampledFrom([]uint32{0, 1, 2, 0x80, 0xff, 0x100, 0x1ff, 0xffff}).Draw(t, "host")
	})
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		bits := rapid.SampledFrom([]int{0, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32}).Draw(t, "bits")
		return netip.PrefixFrom(address(address4.Draw(t, "prefix")), bits).Masked()
	})
	list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
		return Rule{prefix.Draw(t, "rule"), rapid.IntRange(1, 999).Draw(t, "line")}
	}), 0, 6)
	nodes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) NodeRule {
		return NodeRule{address(address4.Draw(t, "node")), rapid.IntRange(1, 999).Draw(t, "line")}
	}), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		c := PolicyConfig{
			Enabled: rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "enabled"), EnabledLine: 1,
			Sources: list.Draw(t, "sources"), NoNATSources: list.Draw(t, "no-nat-sources"),
			NativeRouting: list.Draw(t, "native-routing-cidrs"), Nodes: nodes.Draw(t, "nodes"),
			MasqueradeLinkLocal: rapid.Bool().Draw(t, "masquerade-link-local"), LinkLocalLine: 2,
		}
		if rapid.Bool().Draw(t, "ip-masq-agent") {
			c.IPMasq = &IPMasqConfig{rapid.SliceOfN(prefix, 0, 6).Draw(t, "nonMasqueradeCIDRs"), rapid.Bool().Draw(t, "masqLinkLocal")}
		}
		p := NewPolicy(c)
		for range 20 {
			src, dst := address4.Draw(t, "src"), address4.Draw(t, "dst")
			if got, want := p.Decide(src, dst), naive(c, src, dst); got != want {
				t.Fatalf("Decide(%s, %s) = %+v, want %+v", address(src), address(dst), got, want)
			}
		}
	})
}

func TestPolicyInSources(t *testing.T) {
	p := NewPolicy(PolicyConfig{Sources: rules(1, "10.1.0.0/16")})
	if !p.InSources(addr("10.1.2.3")) || p.InSources(addr("10.2.2.3")) {
		t.Error("InSources does not follow `sources` while masquerading is disabled")
	}
}

func TestRuleWords(t *testing.T) {
	seen := map[string]bool{}
	for k := range RuleKinds {
		if k.String() == "" || seen[k.String()] {
			t.Errorf("rule %d has no word of its own: %q", k, k)
		}
		seen[k.String()] = true
	}
	if RuleKinds.String() != "unknown-rule" {
		t.Errorf("beyond the last rule: %q", RuleKinds)
	}
}

func TestPolicyAllocs(t *testing.T) {
	p := NewPolicy(PolicyConfig{Enabled: true, Sources: rules(1, "10.0.0.0/8"), NativeRouting: rules(2, "10.0.0.0/8"), IPMasq: &IPMasqConfig{NonMasquerade: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("172.16.0.0/12")}}})
	src, dst := addr("10.0.0.1"), addr("1.1.1.1")
	if n := testing.AllocsPerRun(100, func() {
		p.Decide(src, dst)
		p.InSources(src)
	}); n != 0 {
		t.Errorf("Decide allocates %v times", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := NewPolicy(PolicyConfig{Enabled: true, Sources: rules(1, "10.20.0.0/16"), NativeRouting: rules(2, "10.0.0.0/8"), IPMasq: &IPMasqConfig{NonMasquerade: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("172.16.0.0/12")}}})
	src, dst := addr("10.20.30.5"), addr("1.1.1.1")
	for b.Loop() {
		p.Decide(src, dst)
	}
}
