// Package migrate makes a configuration out of those of the tools that an
// operator comes from: the keys of a Cilium ConfigMap, the names that they had in
// older versions included, an ip-masq-agent file, and Calico's IP pools.
//
// It owns what those keys mean, what they mean here, and the warnings about each
// whose meaning changed from one version to the next: a configuration that was
// wrong for years and worked by accident must not be carried over in silence. It
// reads no file and asks no cluster.
//
// It follows Cilium's pkg/option and Documentation/operations/upgrade.rst, its
// pkg/ipmasq, and Calico's IPPool resource.
package migrate

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"sluice/internal/config"
)

// Source is one file to migrate from.
type Source struct {
	Name string // that warnings carry
	Text []byte // YAML or JSON, of one document or more
}

// Options are what no source says.
type Options struct {
	Inside, Outside []string // interfaces; empty: names to be corrected
}

// Result is the configuration that the sources amount to.
type Result struct {
	Config   *config.Config
	Text     string           // of its file, without what is default
	Warnings []config.Mistake // about the sources, in their order, then about Text
}

// migration is a Result in the making.
type migration struct {
	Result
	options Options
	file    string // at hand

	found      bool            // a source said something about masquerading
	agent      bool            // an ip-masq-agent file was among the sources
	needsAgent *config.Mistake // what to say if none was
	pools      bool            // Calico's were
	anyNATed   bool            // one of them is natOutgoing
	ignored    int             // keys that have no bearing on a gateway
}

// outputName is what warnings about the new file call it.
const outputName = "sluice.yaml"

// Read migrates the sources, all of one gateway. It fails where a source cannot
// be read, or is none that it knows.
func Read(sources []Source, o Options) (*Result, error) {
	m := &migration{options: o}
	m.Config = config.Default()
	for _, s := range sources {
		if err := m.read(s); err != nil {
			return nil, err
		}
	}
	if !m.found {
		return nil, errors.New("the sources say nothing about masquerading; give a Cilium ConfigMap, an ip-masq-agent file or Calico IPPools")
	}
	return m.finish()
}

// warn notes what to know about a key of the source at hand.
func (m *migration) warn(line int, key, format string, args ...any) {
	m.Warnings = append(m.Warnings, config.Mistake{File: m.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...), Warning: true})
}

// refuse is an error about a key of the source at hand.
func (m *migration) refuse(line int, key, format string, args ...any) error {
	return errors.New(config.Mistake{File: m.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)}.String())
}

// read migrates every document of a source.
func (m *migration) read(s Source) error {
	m.file = s.Name
	loader, err := yaml.NewLoader(bytes.NewReader(s.Text))
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	for {
		var n yaml.Node
		switch err := loader.Load(&n); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: is not YAML: %s", s.Name, strings.Join(strings.Fields(err.Error()), " "))
		}
		root := &n
		if n.Kind == yaml.DocumentNode {
			root = n.Content[0]
		}
		if err := m.document(root, s.Text); err != nil {
			return err
		}
	}
}

// document migrates one object. text is that of the file it is in.
func (m *migration) document(n *yaml.Node, text []byte) error {
	if n.Kind != yaml.MappingNode {
		return m.refuse(n.Line, "", "is not a mapping of keys")
	}
	kind := child(n, "kind")
	switch {
	case kind == nil && isIPMasq(n):
		return m.ipMasq(n.Line, text)
	case kind == nil && knowsCilium(n):
		return m.cilium(n)
	case kind == nil && isHelm(n):
		return m.refuse(n.Line, "", "has values of Cilium's Helm chart; give what they render to: `kubectl -n kube-system get configmap cilium-config -o yaml`")
	case kind == nil:
		return m.refuse(n.Line, "", "is neither a ConfigMap, Cilium's keys, an ip-masq-agent file nor an IPPool")
	case strings.HasSuffix(kind.Value, "List"):
		return m.list(child(n, "items"))
	case strings.EqualFold(kind.Value, "ConfigMap"):
		return m.configMap(n)
	case strings.EqualFold(kind.Value, "IPPool"):
		return m.ipPool(n)
	}
	return m.refuse(kind.Line, "kind", "%s is none of ConfigMap and IPPool", kind.Value)
}

// isIPMasq reports whether a mapping is an ip-masq-agent file.
func isIPMasq(n *yaml.Node) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if config.IPMasqKey(n.Content[i].Value) {
			return true
		}
	}
	return false
}

// isHelm reports whether a mapping is a values file of Cilium's chart.
func isHelm(n *yaml.Node) bool {
	return slices.ContainsFunc([]string{"bpf", "enableIPv4Masquerade", "ipMasqAgent", "ipv4NativeRoutingCIDR", "kubeProxyReplacement", "routingMode"},
		func(key string) bool { return child(n, key) != nil })
}

func (m *migration) list(items *yaml.Node) error {
	if items == nil || items.Kind != yaml.SequenceNode {
		return nil
	}
	for _, item := range items.Content {
		if err := m.document(item, nil); err != nil {
			return err
		}
	}
	return nil
}

// configMap tells Cilium's from ip-masq-agent's, which holds the file as text.
func (m *migration) configMap(n *yaml.Node) error {
	data := child(n, "data")
	if data == nil || data.Kind != yaml.MappingNode {
		return m.refuse(n.Line, "data", "is missing")
	}
	for i := 0; i+1 < len(data.Content); i += 2 {
		value := data.Content[i+1]
		if text := strings.ToLower(value.Value); strings.Contains(text, "nonmasqueradecidrs") || strings.Contains(text, "masqlinklocal") {
			return m.ipMasq(value.Line, []byte(value.Value))
		}
	}
	if !knowsCilium(data) {
		return m.refuse(data.Line, "data", "has none of Cilium's keys about masquerading, and no ip-masq-agent file")
	}
	return m.cilium(data)
}

// ipMasq takes over the exclusions of an ip-masq-agent file.
func (m *migration) ipMasq(line int, text []byte) error {
	agent, err := config.ParseIPMasq(m.file, text)
	if err != nil {
		return err
	}
	m.found, m.agent = true, true
	m.warn(line, "nonMasqueradeCIDRs", "become masquerade.native-routing-cidrs; to keep the file instead, and have its changes followed, set masquerade.ip-masq-agent-config to its path")
	if len(agent.NonMasqueradeCIDRs) == 0 {
		m.warn(line, "nonMasqueradeCIDRs", "is empty, and a file that is there has no built-in list: every destination is masqueraded towards, private ones too")
	}
	for _, p := range agent.NonMasqueradeCIDRs {
		m.exclude(line, "nonMasqueradeCIDRs", p)
	}
	m.Config.Masquerade.LinkLocal = agent.MasqLinkLocal
	return nil
}

// exclude adds a destination that sees the true source.
func (m *migration) exclude(line int, key string, p netip.Prefix) {
	m.add(&m.Config.Masquerade.NativeRoutingCIDRs, line, key, p)
}

// source adds a network to masquerade.
func (m *migration) source(line int, key string, p netip.Prefix) {
	m.add(&m.Config.Masquerade.Sources, line, key, p)
}

// add adds a prefix to a list, unless it says nothing new there.
func (m *migration) add(to *[]config.Rule, line int, key string, p netip.Prefix) {
	switch {
	case !p.Addr().Is4():
		m.warn(line, key, "%s is IPv6, which is not translated here; left out", p)
		return
	case p != p.Masked():
		m.warn(line, key, "%s has host bits set; taken as %s", p, p.Masked())
	}
	p = p.Masked()
	if !slices.ContainsFunc(*to, func(r config.Rule) bool { return r.Prefix == p }) {
		*to = append(*to, config.Rule{Prefix: p})
	}
}

// finish makes the text, and has it checked as any file is.
func (m *migration) finish() (*Result, error) {
	m.Config.Masquerade.Sources = widest(m.Config.Masquerade.Sources)
	m.Config.Masquerade.NativeRoutingCIDRs = widest(m.Config.Masquerade.NativeRoutingCIDRs)
	if m.pools && !m.anyNATed {
		m.Config.Masquerade.Enabled = false
	}
	m.interfaces()
	if m.agent {
		m.Config.Masquerade.IPMasqAgentConfig = "" // its content stands in the list
	} else if m.needsAgent != nil {
		m.Warnings = append(m.Warnings, *m.needsAgent)
	}
	m.sortWarnings()
	body, err := config.Brief(m.Config)
	if err != nil {
		return nil, err
	}
	m.Text = m.header() + body
	c, mistakes := config.Parse(outputName, []byte(m.Text))
	if c == nil {
		return nil, fmt.Errorf("the sources amount to a configuration that is refused: %s", mistakes[0])
	}
	m.Config = c
	m.Warnings = append(m.Warnings, mistakes...)
	return &m.Result, nil
}

// widest leaves out the prefixes that lie in another one and add nothing.
func widest(rules []config.Rule) []config.Rule {
	all := slices.Clone(rules)
	return slices.DeleteFunc(rules, func(r config.Rule) bool {
		return slices.ContainsFunc(all, func(w config.Rule) bool {
			return w.Prefix.Bits() < r.Prefix.Bits() && w.Prefix.Contains(r.Prefix.Addr())
		})
	})
}

// sortWarnings puts them in the order of the sources, then of their lines; what
// is about a key that is not there comes last.
func (m *migration) sortWarnings() {
	var files []string
	for _, w := range m.Warnings {
		if !slices.Contains(files, w.File) {
			files = append(files, w.File)
		}
	}
	last := func(line int) int {
		if line == 0 {
			return math.MaxInt
		}
		return line
	}
	slices.SortStableFunc(m.Warnings, func(a, b config.Mistake) int {
		return cmp.Or(slices.Index(files, a.File)-slices.Index(files, b.File), cmp.Compare(last(a.Line), last(b.Line)))
	})
}

// interfaces lists those that were named, or names to be corrected.
func (m *migration) interfaces() {
	add := func(names []string, role config.Role) {
		for _, name := range names {
			m.Config.Interfaces = append(m.Config.Interfaces, config.Interface{Name: name, Role: role, Mode: config.ModeAuto})
		}
	}
	inside, outside := m.options.Inside, m.options.Outside
	if len(inside) == 0 {
		inside = []string{"eth1"}
	}
	if len(outside) == 0 {
		outside = []string{"eth0"}
	}
	add(inside, config.RoleInside)
	add(outside, config.RoleOutside)
}

func (m *migration) header() string {
	text := "# Made by `sluice config migrate`. Defaults are left out: `sluice config show` has them.\n"
	if len(m.options.Inside) == 0 || len(m.options.Outside) == 0 {
		text += "# Correct the names of the interfaces: no source says which side is which.\n"
	}
	if m.ignored > 0 {
		text += fmt.Sprintf("# %d keys of the sources have no bearing on a gateway and were left out.\n", m.ignored)
	}
	return text + "\n"
}

// child is the value of a key of a mapping, nil where it is not there.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
