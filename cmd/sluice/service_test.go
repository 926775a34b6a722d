package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

func (g *fake) Services() []control.Service { return g.services }

func (g *fake) SetDraining(_ context.Context, service string, backend control.BackendAddress, drain bool) (control.BackendChange, error) {
	out := control.BackendChange{Draining: drain}
	for i := range g.services {
		s := &g.services[i]
		if service != "" && s.Name != service {
			continue
		}
		for j := range s.Backends {
			if b := &s.Backends[j]; backend.Is(b.Address) {
				out.Backends = append(out.Backends, control.ChangedBackend{Service: s.Name, Backend: b.Address, Changed: b.Drained != drain, State: b.State})
				b.Drained = drain
			}
		}
	}
	if len(out.Backends) == 0 {
		return out, errors.New("no such backend")
	}
	return out, nil
}

func web() []control.Service {
	at := netip.MustParseAddrPort
	return []control.Service{{
		Name: "web", Protocol: "tcp", Address: at("198.51.100.10:80"), Mode: "dsr", Dispatch: "option", Algorithm: "maglev", Announce: "arp",
		NoBackend: "reject", DeadBackend: "reset", HealthCheck: "tcp", Selectable: 1, Line: 12,
		Traffic: control.Traffic{Live: 3, Flows: 40, Connections: 40, Packets: control.Directed{Original: 400}, Unanswered: 2},
		Backends: []control.Backend{
			{Address: at("10.0.2.123:80"), Weight: 1, State: "active", ReturnPath: "dsr", Traffic: control.Traffic{Live: 3, Flows: 40}},
			{Address: at("10.0.2.124:80"), Weight: 1, State: "dead", ReturnPath: "gateway", Health: &control.Health{Reason: "connection refused", Last: time.Now()}},
		},
	}}
}

// TestServices: what list and show print is all there, and JSON is the API's.
func TestServices(t *testing.T) {
	socket := serve(t, &fake{services: web()})
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"services", "list"}, []string{"198.51.100.10:80", "web (dsr)", "10.0.2.123:80", "active", "10.0.2.124:80", "dead"}},
		{[]string{"services", "show", "web"}, []string{"web, 198.51.100.10:80/tcp, line 12", "dsr, dispatch option", "connection refused", "Unanswered:    2"}},
		{[]string{"services", "list", "-o", "json"}, []string{`"name":"web"`, `"selectable":1`, `"unanswered":2`}},
	} {
		code, out, errOut := sluice(t, append(c.args, "--socket", socket)...)
		if code != 0 {
			t.Errorf("%q: exit %d: %s", c.args, code, errOut)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%q: no %q in\n%s", c.args, want, out)
			}
		}
	}
	if code, _, errOut := sluice(t, "services", "show", "mail", "--socket", socket); code != 1 || !strings.Contains(errOut, "mail") {
		t.Errorf("a service that is not: exit %d, %q", code, errOut)
	}
}

// TestBackendDrain: drain and enable name what they changed, and tell a mistake of
// the caller's from a backend that is not there.
func TestBackendDrain(t *testing.T) {
	g := &fake{services: web()}
	socket := serve(t, g)
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"drain web 10.0.2.123:80", 0, "10.0.2.123:80 in web: active\n"},
		{"drain all 10.0.2.123", 0, "as before"},
		{"enable all 10.0.2.123", 0, "10.0.2.123:80 in web"},
		{"enable web 10.0.2.99", 1, "no such backend"},
		{"drain web", 2, "ADDRESS"},
		{"drain web ten", 2, "ten"},
	} {
		code, out, errOut := sluice(t, append(strings.Fields("backend "+c.args), "--socket", socket)...)
		if code != c.code || !strings.Contains(out+errOut, c.want) {
			t.Errorf("%s: exit %d, %q %q", c.args, code, out, errOut)
		}
	}
	if g.services[0].Backends[0].Drained {
		t.Error("still drained")
	}
}
