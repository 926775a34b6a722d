package migrate

import (
	"net/netip"
	"strings"

	"go.yaml.in/yaml/v4"
)

// ipPool takes over a pool. With natOutgoing, packets from the pool to what is in
// no pool at all are masqueraded: so every pool is an exclusion, also one that is
// disabled, which only keeps addresses from being handed out.
func (m *migration) ipPool(n *yaml.Node) error {
	spec := child(n, "spec")
	cidr := child(spec, "cidr")
	if cidr == nil {
		cidr = child(child(n, "metadata"), "cidr") // calicoctl's v1 format
	}
	if cidr == nil {
		return m.refuse(n.Line, "spec.cidr", "is missing")
	}
	p, err := netip.ParsePrefix(cidr.Value)
	if err != nil {
		return m.refuse(cidr.Line, "spec.cidr", "%q is not a prefix", cidr.Value)
	}
	m.found = true
	if !p.Addr().Is4() {
		m.warn(cidr.Line, "spec.cidr", "%s is IPv6, which is not translated here; left out", p)
		return nil
	}
	m.pools = true
	nat := child(spec, "natOutgoing")
	if old := child(spec, "nat-outgoing"); old != nil {
		m.warn(old.Line, "spec.nat-outgoing", "is the name of Calico before 3.0, natOutgoing since; taken as that")
		if nat == nil {
			nat = old
		}
	}
	m.exclude(cidr.Line, "spec.cidr", p)
	if nat != nil && nat.Value == "true" {
		m.anyNATed = true
		m.source(cidr.Line, "spec.cidr", p)
	} else {
		line := cidr.Line
		if nat != nil {
			line = nat.Line
		}
		m.warn(line, "spec.natOutgoing", "is not true: %s is not masqueraded, and the others see its true addresses", p)
	}
	m.overlay(spec)
	return nil
}

// overlay warns of pools whose packets travel in tunnels.
func (m *migration) overlay(spec *yaml.Node) {
	for _, key := range []string{"ipipMode", "vxlanMode"} {
		if mode := child(spec, key); mode != nil && mode.Value != "" && !strings.EqualFold(mode.Value, "Never") {
			m.warn(mode.Line, "spec."+key, "is %s, and there are no tunnels here: the gateway must be reached by routes", mode.Value)
		}
	}
	if child(spec, "nodeSelector") != nil && child(spec, "nodeSelector").Value != "all()" {
		m.warn(child(spec, "nodeSelector").Line, "spec.nodeSelector", "has no counterpart: the pool is a source on whatever gateway has this file")
	}
}
