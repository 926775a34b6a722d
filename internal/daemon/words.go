package daemon

import (
	"net"
	"net/netip"
	"time"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/gateway"
	"sluice/nat"
	"sluice/xdp"
)

// role is the gateway's word for a configured role.
func role(r config.Role) gateway.Role {
	switch r {
	case config.RoleInside:
		return gateway.RoleInside
	case config.RoleOutside:
		return gateway.RoleOutside
	case config.RoleBoth:
		return gateway.RoleBoth
	}
	return gateway.RoleNone
}

// failure is the steering program's word for on-failure.
func failure(f config.Failure) xdp.Failure {
	if f == config.FailPass {
		return xdp.FailPass
	}
	return xdp.FailDrop
}

// timeouts converts the configuration's durations to ticks, rounded up: a flow
// never lives shorter than it was promised.
func timeouts(t *config.Timeouts) *conntrack.Timeouts {
	ticks := func(d config.Duration) conntrack.Tick {
		return conntrack.Tick((time.Duration(d) + 100*time.Millisecond - 1) / (100 * time.Millisecond))
	}
	var ports []conntrack.PortTimeout
	for _, p := range t.UDPPorts.List {
		ports = append(ports, conntrack.PortTimeout{First: p.First, Last: p.Last, Timeout: ticks(p.Timeout)})
	}
	return &conntrack.Timeouts{
		TCPEstablished: ticks(t.TCPEstablished), TCPTransitory: ticks(t.TCPTransitory), TCPClosing: ticks(t.Closing()), TCPSyn: ticks(t.TCPSyn),
		UDPPorts: ports,
		TCPClose: ticks(t.TCPClose), TCPTimeWait: ticks(t.TCPTimeWait),
		UDP: ticks(t.UDP), UDPUnreplied: ticks(t.UDPUnreplied), ICMP: ticks(t.ICMP), Other: ticks(t.Other),
		PortRest: conntrack.DefaultTimeouts().PortRest,
	}
}

// policy compiles the masquerade policy, with the ip-masq-agent file as it is.
func policy(c *config.Config) (*nat.Policy, error) {
	if c.Masquerade.IPMasqAgentConfig == "" {
		return compile(c, nil), nil
	}
	agent, err := config.LoadIPMasq(c.Masquerade.IPMasqAgentConfig)
	if err != nil {
		return nil, err
	}
	return compile(c, &agent), nil
}

// compile compiles the masquerade policy; agent is nil where no ip-masq-agent file
// is configured.
func compile(c *config.Config, agent *config.IPMasq) *nat.Policy {
	m := &c.Masquerade
	p := nat.PolicyConfig{
		Enabled: m.Enabled, EnabledLine: c.Line("masquerade.enabled"),
		MasqueradeLinkLocal: m.LinkLocal, LinkLocalLine: c.Line("masquerade.masquerade-link-local"),
	}
	rules := func(list []config.Rule) (out []nat.Rule) {
		for _, r := range list {
			out = append(out, nat.Rule{Prefix: r.Prefix, Line: r.Line})
		}
		return out
	}
	p.Sources, p.NoNATSources, p.NativeRouting = rules(m.Sources), rules(m.NoNATSources), rules(m.NativeRoutingCIDRs)
	for _, n := range m.Nodes {
		p.Nodes = append(p.Nodes, nat.NodeRule{Address: n.Address, Line: n.Line})
	}
	if agent != nil {
		p.IPMasq = &nat.IPMasqConfig{NonMasquerade: agent.NonMasqueradeCIDRs, MasqLinkLocal: agent.MasqLinkLocal}
	}
	return nat.NewPolicy(p)
}

// linkLocal is the prefix that only masquerade-link-local masquerades towards.
var linkLocal = netip.MustParsePrefix("169.254.0.0/16")

// hostPrefix is an address as a prefix.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// macString writes a link address as `ip link` does.
func macString(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }

// behaviour is how mappings are made, as configured.
func behaviour(m *config.Masquerade) nat.Behaviour {
	b := nat.ConfiguredBehaviour(string(m.Mapping), string(m.Filtering), m.Overload)
	b.Random = m.PortAssignment == config.PortRandom
	return b
}
