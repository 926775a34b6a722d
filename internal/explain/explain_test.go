package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// The gateway of these tests: inside 10.20.30.0/24 on eth1, outside 192.0.2.0/24
// on eth0 with the address 192.0.2.2, everything else behind 192.0.2.1.
const text = `interfaces:
  - {name: eth1, role: inside}
  - {name: eth0, role: outside}
masquerade:
  sources:
    - 10.20.30.0/24
    - 10.20.40.0/24
  no-nat-sources: [10.20.30.66/32]
  native-routing-cidrs:
    - 10.20.30.0/24
    - 10.8.0.0/16
  nodes: [203.0.113.10]
  port-range: 2000-65535
`

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, mistakes := config.Parse("sluice.yaml", []byte(text))
	if c == nil {
		t.Fatal(mistakes)
	}
	return c
}

func policyOf(c *config.Config) *nat.Policy {
	m := &c.Masquerade
	p := nat.PolicyConfig{Enabled: m.Enabled, EnabledLine: c.Line("masquerade.enabled"), MasqueradeLinkLocal: m.LinkLocal}
	for to, from := range map[*[]nat.Rule][]config.Rule{&p.Sources: m.Sources, &p.NoNATSources: m.NoNATSources, &p.NativeRouting: m.NativeRoutingCIDRs} {
		for _, r := range from {
			*to = append(*to, nat.Rule(r))
		}
	}
	for _, n := range m.Nodes {
		p.Nodes = append(p.Nodes, nat.NodeRule(n))
	}
	if m.IPMasqAgentConfig != "" {
		p.IPMasq = &nat.IPMasqConfig{NonMasquerade: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}}
	}
	return nat.NewPolicy(p)
}

func rolesOf(c *config.Config) (roles [gateway.MaxPorts]gateway.Role) {
	for i, f := range c.Interfaces {
		roles[i] = map[config.Role]gateway.Role{config.RoleInside: gateway.RoleInside, config.RoleOutside: gateway.RoleOutside, config.RoleBoth: gateway.RoleBoth}[f.Role]
	}
	return roles
}

// ask reads a question as a command line has it: proto src dst [in].
func ask(t *testing.T, words string) control.Question {
	t.Helper()
	w := strings.Fields(words)
	v := map[string][]string{"proto": {w[0]}, "src": {w[1]}, "dst": {w[2]}}
	if len(w) > 3 {
		v["in"] = []string{w[3]}
	}
	q, err := control.ParseQuestion(v)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// offline explains by the file alone.
func offline(t *testing.T, text, question string) control.Explanation {
	t.Helper()
	c := parse(t, text)
	g, err := Assume(c, policyOf(c), rolesOf(c))
	if err != nil {
		t.Fatal(err)
	}
	e, err := Explain(g, ask(t, question))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// said reports whether a step of the stage stands on the line and has the text.
func said(e *control.Explanation, stage string, line int, text string) bool {
	return slices.ContainsFunc(e.Decisions, func(d control.Decision) bool {
		return d.Stage == stage && d.Line == line && strings.Contains(d.Text, text)
	})
}

func steps(e *control.Explanation) string {
	var b strings.Builder
	for _, d := range e.Decisions {
		fmt.Fprintf(&b, "  %s %d %s\n", d.Stage, d.Line, d.Text)
	}
	return b.String()
}

func TestOffline(t *testing.T) {
	oneArmed := "interfaces: [{name: eth0, role: both}]\nmasquerade: {sources: [10.20.30.0/24], addresses: [203.0.113.4]}\n"
	for _, tc := range []struct {
		name, text, question, verdict string
		stage                         string
		line                          int
		says                          string
	}{
		{"a source", text, "tcp 10.20.30.5:40000 1.1.1.1:443", "masquerade to auto:40000", "policy", 6, "no exclusion matches 1.1.1.1"},
		{"the second source", text, "udp 10.20.40.5:40000 1.1.1.1:53", "masquerade to auto:40000", "policy", 7, "masqueraded"},
		{"a port outside the range", text, "tcp 10.20.30.5:1999 1.1.1.1:443", "masquerade to auto:*", "translation", 13, "2000-65535"},
		{"ping", text, "icmp 10.20.30.5:7 1.1.1.1", "masquerade to auto:7", "translation", 13, "identifier 7 is kept"},
		{"not a source", text, "tcp 10.20.50.5:40000 1.1.1.1:443", "forward", "policy", 0, "10.20.50.5 is in none of masquerade.sources (10.20.30.0/24, 10.20.40.0/24): not masqueraded"},
		{"no-nat-source", text, "tcp 10.20.30.66:40000 1.1.1.1:443", "forward", "policy", 8, "no-nat-sources (10.20.30.66/32)"},
		{"native routing", text, "tcp 10.20.30.5:40000 10.8.1.1:443", "forward", "policy", 11, "native-routing-cidrs (10.8.0.0/16)"},
		{"a node", text, "tcp 10.20.30.5:40000 203.0.113.10:443", "forward", "policy", 12, "masquerade.nodes"},
		{"link-local", text, "tcp 10.20.30.5:40000 169.254.169.254:80", "forward", "policy", 0, "link-local"},
		{"from inside to inside", text, "tcp 10.20.30.5:40000 10.20.40.9:443", "forward", "policy", 2, "does not leave outside"},
		{"from outside to inside", text, "tcp 1.1.1.1:443 10.20.30.5:40000", "drop: outside-to-inside", "policy", 6, "no exclusion matches 1.1.1.1"},
		{"from outside, and excluded", text, "tcp 10.8.1.1:443 10.20.30.5:40000", "forward", "policy", 11, "10.8.1.1 is in masquerade.native-routing-cidrs"},
		{"GRE", text, "47 10.20.30.5 1.1.1.1", "masquerade to auto", "translation", 0, "by address"},
		{"a spoofed source", text, "tcp 10.20.30.5:40000 1.1.1.1:443 eth0", "drop: spoofed-source", "source", 0, "leads inside"},
		{"loopback", text, "tcp 10.20.30.5:40000 127.0.0.1:443", "drop: martian-destination", "drop", 0, "RFC 1812"},
		{"one arm", oneArmed, "tcp 10.20.30.5:40000 1.1.1.1:443", "masquerade to 203.0.113.4:40000", "source", 2, "from inside: role both"},
		{"one arm, to a pool address", oneArmed, "tcp 1.1.1.1:443 203.0.113.4:40000", "drop: no-mapping", "destination", 2, "203.0.113.4 is an external address"},
		{"everything is a source", "interfaces: [{name: a, role: inside}, {name: b, role: outside}]\nmasquerade:\n  sources: [0.0.0.0/0]\n", "tcp 10.20.30.5:40000 1.1.1.1:443", "masquerade to auto:40000", "route", 1, "the first outside interface"},
		{"switched off", "interfaces: [{name: a, role: inside}, {name: b, role: outside}]\nmasquerade:\n  enabled: false\n", "tcp 10.20.30.5:40000 1.1.1.1:443", "forward", "policy", 3, "masquerade.enabled is false"},
		{"ip-masq-agent", text + "  ip-masq-agent-config: /etc/agent\n", "tcp 10.20.30.5:40000 172.17.0.1:443", "forward", "policy", 0, "excluded by /etc/agent"},
		{"ip-masq-agent, passed over", text + "  ip-masq-agent-config: /etc/agent\n", "tcp 10.20.30.5:40000 1.1.1.1:443", "masquerade to auto:40000", "policy", 14, "none of the nonMasqueradeCIDRs of /etc/agent (169.254.0.0/16, 172.16.0.0/12)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := offline(t, tc.text, tc.question)
			if e.Verdict != tc.verdict || !said(&e, tc.stage, tc.line, tc.says) {
				t.Errorf("%s, want %s and on line %d: %s: %s\n%s", e.Verdict, tc.verdict, tc.line, tc.stage, tc.says, steps(&e))
			}
			action, reason, _ := strings.Cut(e.Verdict, ": ")
			action = strings.ReplaceAll(strings.TrimSuffix(action, " to "+strings.TrimPrefix(action, "masquerade to ")), " ", "-")
			if e.Action != action || e.Action == "drop" && e.Reason != reason || (e.Translated != nil) != (e.Action != "drop") {
				t.Errorf("the fields say %q, %q, %v; the verdict %q", e.Action, e.Reason, e.Translated, e.Verdict)
			}
			for _, d := range e.Decisions {
				if !slices.Contains(Stages, d.Stage) {
					t.Errorf("stage %q is not in the list", d.Stage)
				}
			}
			if len(e.Assumptions) < 2 {
				t.Errorf("assumed, and did not say so: %q", e.Assumptions)
			}
		})
	}
}

// TestTheIncident: a database sees the gateway's address, since
// native-routing-cidrs has only the hosts' own network. One answer says which
// rule masquerades, that no exclusion matched, and which key would exclude it.
func TestTheIncident(t *testing.T) {
	e := offline(t, `interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside}]
masquerade:
  sources: [10.20.30.0/24]
  native-routing-cidrs: [10.20.30.0/24]
`, "tcp 10.20.30.5:40000 10.1.2.3:3306")
	if e.Verdict != "masquerade to auto:40000" ||
		!slices.ContainsFunc(e.Decisions, func(d control.Decision) bool { return d.Rule == "masquerade" && d.Line == 3 }) ||
		!said(&e, "policy", 4, "10.1.2.3 is in none of masquerade.native-routing-cidrs (10.20.30.0/24)") ||
		!said(&e, "policy", 3, "no exclusion matches 10.1.2.3") ||
		!said(&e, "policy", 3, "add its network to masquerade.native-routing-cidrs") {
		t.Errorf("%s\n%s", e.Verdict, steps(&e))
	}
}

// live is a gateway as the daemon has it, with a mapping and a flow of its own:
// 10.20.30.5:5000 talks to 1.1.1.1:53 over UDP.
func live(t *testing.T) (*Gateway, *fib.Builder, *conntrack.External) {
	t.Helper()
	c := parse(t, text)
	interfaces := []fib.Interface{
		{Name: "eth1", Ifindex: 1, MTU: 1500, Up: true, Primary: addr("10.20.30.1"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.30.1/24")}},
		{Name: "eth0", Ifindex: 2, MTU: 1500, Up: true, Primary: addr("192.0.2.2"), Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}},
	}
	routes := append(fib.Connected(interfaces),
		fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Paths: []fib.Path{{Ifindex: 2, Gateway: addr("192.0.2.1")}}},
		fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("10.7.0.0/16"), Paths: []fib.Path{{Ifindex: 9, Gateway: addr("192.0.9.1")}}},
		fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("10.6.0.0/16"), Type: fib.RouteProhibit},
	)
	b := &fib.Builder{}
	b.SetInterfaces(interfaces)
	b.SetRoutes(routes)
	b.SetNeighbour(fib.Neighbour{Port: 1, Addr: addr("192.0.2.1"), State: fib.Resolved, MAC: [6]byte{2, 0, 0, 0, 0, 1}})
	b.SetNeighbour(fib.Neighbour{Port: 1, Addr: addr("192.0.2.66"), State: fib.Failed})
	cfg := conntrack.Config{MaxFlows: 1024, Workers: 1, Timeouts: conntrack.DefaultTimeouts()}
	table, err := conntrack.New(make([]byte, conntrack.Size(cfg)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	x := conntrack.NewExternal(addr("192.0.2.2"), nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	s := &gateway.Snapshot{Policy: policyOf(c), Roles: rolesOf(c), Routes: b.Build(), Ports: nat.PortRange{Low: 2000, High: 65535}, Hairpin: true, Generation: 1}
	s.Pools[1] = nat.NewPool(x)
	w, alloc := table.Worker(0), nat.Allocator{}
	alloc.Seed([32]byte{1})
	m, r := alloc.Map(w, x, packet.ProtoUDP, addr("10.20.30.5"), 5000, 1000)
	if r != verdict.None {
		t.Fatal(r)
	}
	key := conntrack.Tuple{Src: addr("10.20.30.5"), Dst: addr("1.1.1.1"), SrcPort: 5000, DstPort: 53, Proto: packet.ProtoUDP}
	reply := key.Reverse()
	reply.Dst, reply.DstPort = m.External()
	if _, _, _, r := w.Create(&conntrack.NewFlow{Original: key, Reply: reply, Kind: conntrack.Masquerade, Mapping: m, InPort: 0, OutPort: 1}, 1000); r != verdict.None {
		t.Fatal(r)
	}
	w.Offline()
	return &Gateway{Config: c, Snapshot: s, Table: table, Now: 1000}, b, x
}

func addr(s string) uint32 { return fib.U32(netip.MustParseAddr(s)) }

func TestLive(t *testing.T) {
	g, _, x := live(t)
	var ports [1024]uint64
	ports[7000/64] = 1 << (7000 % 64)
	x.Reserve(conntrack.ByHost, packet.ProtoUDP, &ports)
	for _, tc := range []struct{ question, verdict, stage, says string }{
		{"udp 10.20.30.5:6000 1.1.1.1:53", "masquerade to 192.0.2.2:6000", "translation", "port 6000 is free and is kept"},
		{"udp 10.20.30.5:6000 1.1.1.1:53", "masquerade to 192.0.2.2:6000", "translation", "the primary one of eth0, 192.0.2.2"},
		{"udp 10.20.30.5:6000 1.1.1.1:53", "masquerade to 192.0.2.2:6000", "neighbour", "192.0.2.1 is at 02:00:00:00:00:01"},
		{"udp 10.20.30.5:6000 1.1.1.1:53", "masquerade to 192.0.2.2:6000", "answer", "an answer to 192.0.2.2:6000 is translated back to 10.20.30.5:6000 and leaves by eth1"},
		{"udp 10.20.30.5:6000 1.1.1.1:53", "masquerade to 192.0.2.2:6000", "route", "next hop 192.0.2.1"},
		{"udp 10.20.30.5:5000 1.1.1.1:53", "masquerade to 192.0.2.2:5000", "flow", "belongs to a flow, masquerade, state unreplied, in the original direction"},
		{"udp 1.1.1.1:53 192.0.2.2:5000", "forward", "translation", "translated back to 10.20.30.5:5000"},
		{"udp 1.1.1.1:53 192.0.2.2:5000", "forward", "steering", "worker-held-port"},
		{"udp 1.1.1.1:53 192.0.2.2:5000 eth1", "drop: spoofed-source", "flow", "another role than eth1"},
		{"udp 10.20.30.5:5000 9.9.9.9:53", "masquerade to 192.0.2.2:5000", "translation", "10.20.30.5:5000 is mapped to it already"},
		{"udp 10.20.30.6:5000 9.9.9.9:53", "masquerade to 192.0.2.2:*", "translation", "taken by another mapping"},
		{"udp 10.20.30.6:7000 9.9.9.9:53", "masquerade to 192.0.2.2:*", "translation", "used by a socket of the host"},
		{"udp 9.9.9.9:53 192.0.2.2:5000", "drop: filtered", "destination", "192.0.2.2:5000 is mapped, and the sender is none"},
		{"udp 10.20.30.6:7 192.0.2.2:5000", "masquerade to 192.0.2.2:*", "destination", "mapped to the inside endpoint 10.20.30.5:5000: hairpin"},
		{"udp 9.9.9.9:53 192.0.2.2:5001", "pass to kernel", "steering", "kernel-host-address"},
		{"tcp 9.9.9.9:53 10.20.30.1:22", "pass to kernel", "steering", "kernel-routed"},
		{"tcp 10.20.30.5:53 10.7.0.1:22", "pass to kernel", "steering", "kernel-routed"},
		{"tcp 10.20.30.5:53 224.0.0.5:22", "pass to kernel", "steering", "kernel-multicast"},
		{"tcp 10.20.30.5:53 10.6.0.1:22", "drop: route-prohibited", "route", "the route to 10.6.0.1: prohibit"},
		{"tcp 10.20.30.5:53 192.0.2.66:22", "drop: neighbour-unresolved", "neighbour", "did not answer ARP"},
		{"tcp 10.20.30.5:2053 192.0.2.77:22", "masquerade to 192.0.2.2:2053", "neighbour", "not known yet: the packet waits"},
		{"tcp 192.0.2.2:53 10.20.30.5:22 eth0", "drop: own-source", "drop", "own addresses"},
		{"tcp 10.20.30.5:53 10.8.0.1:22", "forward", "answer", "an answer leaves by eth1"},
	} {
		e, err := Explain(g, ask(t, tc.question))
		if err != nil {
			t.Errorf("%s: %v", tc.question, err)
			continue
		}
		if e.Verdict != tc.verdict || !slices.ContainsFunc(e.Decisions, func(d control.Decision) bool {
			return d.Stage == tc.stage && strings.Contains(d.Text, tc.says)
		}) {
			t.Errorf("%s: %s, want %s and %s: %s\n%s", tc.question, e.Verdict, tc.verdict, tc.stage, tc.says, steps(&e))
		}
	}
	if c := g.Table.Count(); c.Flows != 1 || c.Mappings != 1 || c.Sources != 1 {
		t.Errorf("explaining left something behind: %+v", c)
	}
}

// TestHostListens: a socket of the host listens on a port that NAT held before
// it. It takes connections, and leaves the answers to NAT's alone.
func TestHostListens(t *testing.T) {
	g, _, x := live(t)
	w, alloc := g.Table.Worker(0), nat.Allocator{}
	alloc.Seed([32]byte{2})
	m, r := alloc.Map(w, x, packet.ProtoTCP, addr("10.20.30.5"), 8080, 1000)
	if r != verdict.None {
		t.Fatal(r)
	}
	key := conntrack.Tuple{Src: addr("10.20.30.5"), Dst: addr("1.1.1.1"), SrcPort: 8080, DstPort: 443, Proto: packet.ProtoTCP}
	reply := key.Reverse()
	reply.Dst, reply.DstPort = m.External()
	nf := &conntrack.NewFlow{Original: key, Reply: reply, Kind: conntrack.Masquerade, Mapping: m, OutPort: 1, TCPFlags: packet.TCPSyn}
	if _, _, _, r := w.Create(nf, 1000); r != verdict.None {
		t.Fatal(r)
	}
	w.Offline()
	var ports [1024]uint64
	ports[8080/64] = 1 << (8080 % 64)
	x.Reserve(conntrack.ByHost, packet.ProtoTCP, &ports)
	for question, want := range map[string]string{"tcp 1.1.1.1:443 192.0.2.2:8080": "forward", "tcp 1.1.1.1:444 192.0.2.2:8080": "pass to kernel"} {
		if e, err := Explain(g, ask(t, question)); err != nil || e.Verdict != want {
			t.Errorf("%s: %s, %v, want %s\n%s", question, e.Verdict, err, want, steps(&e))
		}
	}
}

// TestOwnAddressAsSource: what the host itself sends meets no worker, which is said in
// place of a verdict, unless the packet is said to arrive from elsewhere.
func TestOwnAddressAsSource(t *testing.T) {
	g, _, _ := live(t)
	q := ask(t, "tcp 192.0.2.2:9999 192.0.2.9:22")
	if _, err := Explain(g, q); err == nil || !strings.HasPrefix(err.Error(), "src: 192.0.2.2 is the gateway's own address") {
		t.Errorf("got %v", err)
	}
	q.In = "eth0"
	if e, err := Explain(g, q); err != nil || e.Verdict != "drop: own-source" {
		t.Errorf("%s, %v\n%s", e.Verdict, err, steps(&e))
	}
}

// TestNoWayBack: an answer that would be dropped is said to be.
func TestNoWayBack(t *testing.T) {
	g, b, _ := live(t)
	q := ask(t, "tcp 10.20.99.5:2053 10.8.0.1:22 eth1") // routed in by a host behind eth1, and no route leads back
	b.SetRoutes([]fib.Route{{Table: fib.TableMain, Prefix: netip.MustParsePrefix("10.8.0.0/16"), Paths: []fib.Path{{Ifindex: 2, Gateway: addr("192.0.2.1")}}}})
	g.Snapshot.Routes = b.Build()
	e, err := Explain(g, q)
	if err != nil || e.Verdict != "forward" || !said(&e, "answer", 0, "an answer would be dropped: no-route") {
		t.Errorf("%v, %s\n%s", err, e.Verdict, steps(&e))
	}
	q.In = ""
	if _, err := Explain(g, q); err == nil || !strings.Contains(err.Error(), "--in") {
		t.Errorf("without --in: %v", err)
	}
	q.In = "eth9"
	if _, err := Explain(g, q); err == nil || !strings.Contains(err.Error(), "eth9 is not one of") {
		t.Errorf("an interface that is not listed: %v", err)
	}
}
