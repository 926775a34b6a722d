package explain

import (
	"strings"
	"testing"

	"sluice/dsr"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/packet"
)

const serviceText = `interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside}]
masquerade: {sources: [10.20.30.0/24]}
services:
  - name: web
    address: 198.51.100.10
    port: 80
    mode: MODE
    source-ranges: [1.1.0.0/16, 10.0.0.0/8]
    backends:
      - {address: 10.20.30.11, port: 8080, agent: AGENT}
`

// serving explains by a file with a service of TCP on 198.51.100.10:80.
func serving(t *testing.T, mode, agent string, state dsr.State, question string) control.Explanation {
	t.Helper()
	c := parse(t, strings.NewReplacer("MODE", mode, "AGENT", agent).Replace(serviceText))
	g, err := Assume(c, policyOf(c), rolesOf(c))
	if err != nil {
		t.Fatal(err)
	}
	s := &c.Services[0]
	config := dsr.ServiceConfig{Name: s.Name, VIP: fib.U32(s.Address), Port: s.Port, Proto: packet.ProtoTCP, Reject: true, Reset: true, Line: s.Line}
	if mode == "dsr" {
		config.Mode = dsr.DSR
	}
	for _, r := range s.SourceRanges {
		config.Sources = append(config.Sources, r.Prefix)
	}
	for _, b := range s.Backends {
		config.Backends = append(config.Backends, dsr.BackendConfig{Address: fib.U32(b.Address), Port: b.Port, Weight: 1, Agent: b.Agent, State: state, Line: b.Line})
	}
	table, err := dsr.New([]dsr.ServiceConfig{config}, dsr.NewIds(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.AssumeServices(table, dsr.Option); err != nil {
		t.Fatal(err)
	}
	e, err := Explain(g, ask(t, question))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestServices: the service, the backend, the return path and why, each with the
// line that says so.
func TestServices(t *testing.T) {
	const call = "tcp 1.1.1.1:4000 198.51.100.10:80"
	for _, tc := range []struct {
		name, mode, agent string
		state             dsr.State
		question, verdict string
		stage             string
		line              int
		says              string
	}{
		{"snat", "snat", "true", dsr.Active, call, "balance to 10.20.30.11:8080 (snat)", "service", 4, "by the gateway, whose address the backend sees (mode snat)"},
		{"its service", "snat", "true", dsr.Active, call, "balance to 10.20.30.11:8080 (snat)", "service", 4, "198.51.100.10:80 is the service web, mode snat"},
		{"its source", "snat", "true", dsr.Active, call, "balance to 10.20.30.11:8080 (snat)", "translation", 0, "the primary address of eth1"},
		{"dsr", "dsr", "true", dsr.Active, call, "balance to 10.20.30.11:8080 (dsr)", "service", 4, "answers the client itself"},
		{"its backend", "dsr", "true", dsr.Active, call, "balance to 10.20.30.11:8080 (dsr)", "service", 10, "balanced to 10.20.30.11:8080"},
		{"its dispatch", "dsr", "true", dsr.Active, call, "balance to 10.20.30.11:8080 (dsr)", "translation", 0, "dispatch: option"},
		{"without an agent", "dsr", "false", dsr.Active, call, "balance to 10.20.30.11:8080 (snat)", "service", 4, "agent: false"},
		{"client is backend", "dsr", "true", dsr.Active, "tcp 10.20.30.11:4000 198.51.100.10:80", "balance to 10.20.30.11:8080 (snat)", "service", 4, "one host"},
		{"one segment", "dsr", "true", dsr.Active, "tcp 10.20.30.5:4000 198.51.100.10:80", "balance to 10.20.30.11:8080 (snat)", "service", 4, "one segment"},
		{"no backend", "snat", "true", dsr.Dead, call, "drop: no-backend", "service", 4, "none of its 1 backends"},
		{"not allowed", "snat", "true", dsr.Active, "tcp 2.2.2.2:4000 198.51.100.10:80", "drop: source-range", "service", 8, "2.2.2.2 is in none of its source-ranges"},
		{"no service there", "snat", "true", dsr.Active, "tcp 1.1.1.1:4000 198.51.100.10:81", "drop: no-service", "service", 0, "nothing is served on 198.51.100.10:81"},
		{"ping", "snat", "true", dsr.Active, "icmp 1.1.1.1:7 198.51.100.10", "answer echo", "service", 0, "answers pings"},
		{"an answer of a backend's node", "dsr", "true", dsr.Active, "tcp 198.51.100.10:80 1.1.1.1:4000", "forward", "service", 0, "passes as it is"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := serving(t, tc.mode, tc.agent, tc.state, tc.question)
			if e.Verdict != tc.verdict || !said(&e, tc.stage, tc.line, tc.says) {
				t.Errorf("%s, want %s, and %s %d %q\n%s", e.Verdict, tc.verdict, tc.stage, tc.line, tc.says, steps(&e))
			}
		})
	}
}

// TestOwnHostIsNoClient: XDP does not see what the gateway's host sends.
func TestOwnHostIsNoClient(t *testing.T) {
	c := parse(t, strings.NewReplacer("MODE", "snat", "AGENT", "true").Replace(serviceText))
	g, err := Assume(c, policyOf(c), rolesOf(c))
	if err != nil {
		t.Fatal(err)
	}
	table, err := dsr.New([]dsr.ServiceConfig{{Name: "web", VIP: fib.U32(c.Services[0].Address), Port: 80, Proto: packet.ProtoTCP}}, dsr.NewIds(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.AssumeServices(table, dsr.Option); err != nil {
		t.Fatal(err)
	}
	ifaces := []fib.Interface{{Port: 0, Name: "eth1", Ifindex: 1, MTU: 1500, Up: true, Primary: 0x0a141e01, Addresses: prefixes(c.Masquerade.Sources)}}
	var b fib.Builder
	b.SetInterfaces(ifaces)
	b.SetRoutes(fib.Connected(ifaces))
	g.Snapshot.Routes, g.Assumed = b.Build(), false
	if !g.Snapshot.Routes.Local(fib.U32(c.Masquerade.Sources[0].Prefix.Addr())) {
		t.Fatal("the test's gateway does not have the address")
	}
	if _, err := Explain(g, ask(t, "tcp 10.20.30.0:4000 198.51.100.10:80")); err == nil || !strings.Contains(err.Error(), "the gateway's own") {
		t.Error(err)
	}
}
