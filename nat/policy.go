package nat

import (
	"encoding/binary"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Rule is a prefix of the configuration and the line it stands in, which
// Decision hands back.
type Rule struct {
	Prefix netip.Prefix
	Line   int
}

// NodeRule is an address of the configuration and the line it stands in.
type NodeRule struct {
	Address netip.Addr
	Line    int
}

// PolicyConfig is what a Policy is compiled from. Host bits of prefixes are
// ignored, and so are IPv6 prefixes, which an ip-masq-agent file may hold. Where
// a list names a prefix twice, the first line counts.
type PolicyConfig struct {
	Enabled     bool
	EnabledLine int // of masquerade.enabled, 0 where it is the default

	Sources       []Rule     // only these are masqueraded
	NoNATSources  []Rule     // and of these, not those
	NativeRouting []Rule     // destinations that see the true source
	Nodes         []NodeRule // cluster nodes, likewise

	// IPMasq is the content of an ip-masq-agent configuration file, nil where
	// none is configured. Its word on link-local destinations replaces
	// MasqueradeLinkLocal.
	IPMasq *IPMasqConfig

	MasqueradeLinkLocal bool
	LinkLocalLine       int // of masquerade.masquerade-link-local
}

// IPMasqConfig is ip-masq-agent's configuration.
type IPMasqConfig struct {
	NonMasquerade []netip.Prefix // nonMasqueradeCIDRs
	MasqLinkLocal bool           // false: link-local is one of them
}

// linkLocal is RFC 3927's prefix: 169.254.0.0/16.
const (
	linkLocal     uint32 = 169<<24 | 254<<16
	linkLocalMask uint32 = 0xffff0000
)

// RuleKind names the rule that decided. The rules are asked in the order of
// their values, so that every kind below the one in a Decision was asked and did
// not apply: that is what `explain` prints.
type RuleKind uint8

// The rules, in Policy.Decide's order.
const (
	RuleDisabled RuleKind = iota
	RuleNotASource
	RuleNoNATSource
	RuleNativeRouting
	RuleIPMasqAgent
	RuleNode
	RuleLinkLocal
	RuleMasquerade
	RuleKinds // the number of rules
)

var ruleWords = [RuleKinds]string{
	RuleDisabled:      "disabled",
	RuleNotASource:    "not-a-source",
	RuleNoNATSource:   "no-nat-source",
	RuleNativeRouting: "native-routing",
	RuleIPMasqAgent:   "ip-masq-agent",
	RuleNode:          "node",
	RuleLinkLocal:     "link-local",
	RuleMasquerade:    "masquerade",
}

// String returns the rule's kebab-case word, which is never renamed.
func (k RuleKind) String() string {
	if k >= RuleKinds {
		return "unknown-rule"
	}
	return ruleWords[k]
}

// Decision is what the policy says about one source and destination, and why.
// Line is where the deciding rule stands in the configuration; 0 where that is a
// default, the absence of a rule, or the ip-masq-agent's file. A masqueraded
// packet has the line of the `sources` entry it matched.
type Decision struct {
	Masquerade bool
	Rule       RuleKind
	Line       int32
}

// prefixes maps a prefix to the line it stands in. The table takes care of host
// bits, and keeps IPv4 and IPv6 apart.
type prefixes struct{ table bart.Fast[int32] }

func (p *prefixes) add(prefix netip.Prefix, line int) {
	if _, ok := p.table.Get(prefix); !ok {
		p.table.Insert(prefix, int32(line))
	}
}

func (p *prefixes) addAll(rules []Rule) {
	for _, r := range rules {
		p.add(r.Prefix, r.Line)
	}
}

// Policy is the compiled masquerade policy: immutable, shared by all workers,
// asked once a flow. The same Decide serves packets and `explain`.
type Policy struct {
	enabled   bool
	linkLocal bool // masquerade link-local destinations

	enabledLine, linkLocalLine int32

	sources, noNAT, native, ipMasq, nodes prefixes
}

// NewPolicy compiles c. It keeps nothing of c.
func NewPolicy(c PolicyConfig) *Policy {
	p := &Policy{
		enabled: c.Enabled, enabledLine: int32(c.EnabledLine),
		linkLocal: c.MasqueradeLinkLocal, linkLocalLine: int32(c.LinkLocalLine),
	}
	p.sources.addAll(c.Sources)
	p.noNAT.addAll(c.NoNATSources)
	p.native.addAll(c.NativeRouting)
	for _, n := range c.Nodes {
		p.nodes.add(netip.PrefixFrom(n.Address, n.Address.BitLen()), n.Line)
	}
	if c.IPMasq != nil {
		for _, prefix := range c.IPMasq.NonMasquerade {
			p.ipMasq.add(prefix, 0)
		}
		if !c.IPMasq.MasqLinkLocal {
			p.ipMasq.add(netip.PrefixFrom(address(linkLocal), 16), 0)
		}
		p.linkLocal = true // the agent's list has the last word on it
	}
	return p
}

// address is the netip form of an address in host byte order.
func address(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

// Decide says whether a packet from src to dst, both in host byte order, that is
// about to leave by an outside interface is masqueraded, and by which rule: some
// destinations see the true source (RFC 6888 REQ-6). It may be asked for a packet that begins a flow only: the reply test (Cilium's
// test 2) is the flow table's, which, unlike Cilium's, does not take a flow
// that has expired for one that is alive.
//
// The numbers are those of the tests in __snat_v4_needs_masquerade. Tests 4 to
// 7 all end in "no NAT", as do 8 and 9 for a source that is not ours: so asking
// for the source first changes no verdict, only which rule is named when several
// apply, and spares transit traffic the four destination tables. Tests 1 (the
// node's own address as source) and 3 (egress gateway) have no counterpart: the
// host's own packets never come to a worker.
func (p *Policy) Decide(src, dst uint32) Decision {
	if !p.enabled {
		return Decision{Rule: RuleDisabled, Line: p.enabledLine}
	}
	from, to := address(src), address(dst)
	source, ok := p.sources.table.Lookup(from) // tests 8 and 9: only local endpoints
	if !ok {
		return Decision{Rule: RuleNotASource}
	}
	if line, ok := p.noNAT.table.Lookup(from); ok { // test 5: the endpoint is flagged "no SNAT"
		return Decision{Rule: RuleNoNATSource, Line: line}
	}
	if line, ok := p.native.table.Lookup(to); ok { // test 4: the SNAT-exclusion CIDR
		return Decision{Rule: RuleNativeRouting, Line: line}
	}
	if line, ok := p.ipMasq.table.Lookup(to); ok { // test 6, with masqLinkLocal
		return Decision{Rule: RuleIPMasqAgent, Line: line}
	}
	if line, ok := p.nodes.table.Lookup(to); ok { // test 7b: remote nodes, native routing
		return Decision{Rule: RuleNode, Line: line}
	}
	if !p.linkLocal && dst&linkLocalMask == linkLocal { // as test 6 does, where no agent speaks
		return Decision{Rule: RuleLinkLocal, Line: p.linkLocalLine}
	}
	return Decision{Masquerade: true, Rule: RuleMasquerade, Line: source} // test 8
}

// InSources reports whether addr is in `sources`: whether, on a one-armed
// interface, it counts as inside. It does not depend on `enabled`.
func (p *Policy) InSources(addr uint32) bool {
	return p.sources.table.Contains(address(addr))
}

// IPMasq lists the destinations that the ip-masq-agent file excludes, link-local
// among them where it does, in the order of their addresses.
func (p *Policy) IPMasq() (list []netip.Prefix) {
	for prefix := range p.ipMasq.table.AllSorted() {
		list = append(list, prefix)
	}
	return list
}
