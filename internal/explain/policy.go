package explain

import (
	"fmt"
	"net/netip"
	"strings"

	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/nat"
)

// tellPolicy words the policy's answer about src and dst: every rule that was
// asked and did not apply, then the one that did.
func (a *account) tellPolicy(src, dst uint32, d nat.Decision) {
	for rule := nat.RuleKind(0); rule < d.Rule; rule++ {
		if line, text := a.passedOver(rule, src, dst); text != "" {
			a.decide(stagePolicy, line, "%s", text)
		}
	}
	a.decide(stagePolicy, int(d.Line), "%s (%s)", a.applied(d.Rule, src, dst), d.Rule)
	a.e.Decisions[len(a.e.Decisions)-1].Rule = d.Rule.String()
}

// passedOver says why a rule did not apply.
func (a *account) passedOver(rule nat.RuleKind, src, dst uint32) (line int, text string) {
	m := &a.Config.Masquerade
	from, to := fib.Addr(src), fib.Addr(dst)
	switch rule {
	case nat.RuleDisabled:
		return a.Config.Line("masquerade.enabled"), "masquerade.enabled is true"
	case nat.RuleNotASource:
		r, _ := covering(m.Sources, src)
		return r.Line, fmt.Sprintf("%s is in masquerade.sources (%s)", from, r.Prefix)
	case nat.RuleNoNATSource:
		return a.without("no-nat-sources", m.NoNATSources, from)
	case nat.RuleNativeRouting:
		return a.without("native-routing-cidrs", m.NativeRoutingCIDRs, to)
	case nat.RuleIPMasqAgent:
		if m.IPMasqAgentConfig == "" {
			return 0, ""
		}
		return a.Config.Line("masquerade.ip-masq-agent-config"),
			fmt.Sprintf("%s is in none of the nonMasqueradeCIDRs of %s (%s)", to, m.IPMasqAgentConfig, some(a.Snapshot.Policy.IPMasq()))
	case nat.RuleNode:
		if len(m.Nodes) == 0 {
			return 0, ""
		}
		return a.Config.Line("masquerade.nodes"), fmt.Sprintf("%s is none of masquerade.nodes", to)
	case nat.RuleLinkLocal:
		if !linkLocal.Contains(to) {
			return 0, ""
		}
		if m.IPMasqAgentConfig != "" {
			return a.Config.Line("masquerade.ip-masq-agent-config"), fmt.Sprintf("%s is link-local, and masqLinkLocal is true in %s", to, m.IPMasqAgentConfig)
		}
		return a.Config.Line("masquerade.masquerade-link-local"), fmt.Sprintf("%s is link-local, and masquerade.masquerade-link-local is true", to)
	}
	return 0, ""
}

// applied says what the rule that decided says.
func (a *account) applied(rule nat.RuleKind, src, dst uint32) string {
	m := &a.Config.Masquerade
	from, to := fib.Addr(src), fib.Addr(dst)
	const keeps = ": not masqueraded"
	switch rule {
	case nat.RuleDisabled:
		return "masquerade.enabled is false" + keeps
	case nat.RuleNotASource:
		if len(m.Sources) == 0 {
			return "masquerade.sources is empty" + keeps
		}
		return fmt.Sprintf("%s is in none of masquerade.sources (%s)", from, some(prefixes(m.Sources))) + keeps
	case nat.RuleNoNATSource:
		r, _ := covering(m.NoNATSources, src)
		return fmt.Sprintf("%s is in masquerade.no-nat-sources (%s)", from, r.Prefix) + keeps
	case nat.RuleNativeRouting:
		r, _ := covering(m.NativeRoutingCIDRs, dst)
		return fmt.Sprintf("%s is in masquerade.native-routing-cidrs (%s)", to, r.Prefix) + keeps
	case nat.RuleIPMasqAgent:
		return fmt.Sprintf("%s is excluded by %s", to, m.IPMasqAgentConfig) + keeps
	case nat.RuleNode:
		return fmt.Sprintf("%s is in masquerade.nodes", to) + keeps
	case nat.RuleLinkLocal:
		return fmt.Sprintf("%s is link-local, and masquerade.masquerade-link-local is false", to) + keeps
	}
	return fmt.Sprintf("masqueraded: %s is a source and no exclusion matches %s; for %s to see the true source, add its network to masquerade.native-routing-cidrs", from, to, to)
}

// without says that a list of prefixes has none with addr.
func (a *account) without(key string, rules []config.Rule, addr netip.Addr) (line int, text string) {
	if len(rules) == 0 {
		return a.Config.Line("masquerade." + key), "masquerade." + key + " is empty"
	}
	return a.Config.Line("masquerade." + key), fmt.Sprintf("%s is in none of masquerade.%s (%s)", addr, key, some(prefixes(rules)))
}

// linkLocal is RFC 3927's prefix.
var linkLocal = netip.MustParsePrefix("169.254.0.0/16")

// covering is the longest of the prefixes that contains addr, the first of equal
// ones, as the compiled policy has it.
func covering(rules []config.Rule, addr uint32) (best config.Rule, ok bool) {
	for _, r := range rules {
		if r.Prefix.Contains(fib.Addr(addr)) && (!ok || r.Prefix.Bits() > best.Prefix.Bits()) {
			best, ok = r, true
		}
	}
	return best, ok
}

func prefixes(rules []config.Rule) (list []netip.Prefix) {
	for _, r := range rules {
		list = append(list, r.Prefix)
	}
	return list
}

// some lists prefixes, not more than a line takes.
func some(list []netip.Prefix) string {
	const most = 6
	var words []string
	for _, p := range list[:min(len(list), most)] {
		words = append(words, p.String())
	}
	if n := len(list) - most; n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(words, ", ")
}
