package control

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func twoServices() []Service {
	backend := func(at string) Backend {
		return Backend{Address: netip.MustParseAddrPort(at), Weight: 1, State: "active", ReturnPath: "dsr", Health: &Health{Healthy: true, Probes: 3}}
	}
	return []Service{
		{Name: "web", Protocol: "tcp", Address: netip.MustParseAddrPort("198.51.100.10:80"), Mode: "dsr", SourceRanges: []string{},
			Backends: []Backend{backend("10.0.2.1:80"), backend("10.0.2.2:80")}},
		{Name: "dns", Protocol: "udp", Address: netip.MustParseAddrPort("198.51.100.10:53"), Mode: "snat", SourceRanges: []string{},
			Backends: []Backend{backend("10.0.2.1:53")}},
	}
}

func TestServicesRoundTrip(t *testing.T) {
	want := twoServices()
	c, _ := serve(t, &scripted{services: twoServices()})
	got, err := c.Services(context.Background(), "")
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if got, err = c.Services(context.Background(), "dns"); err != nil || len(got) != 1 || got[0].Name != "dns" {
		t.Errorf("dns: %+v, %v", got, err)
	}
	if _, err := c.Services(context.Background(), "mail"); err == nil || !strings.Contains(err.Error(), `no service "mail"`) {
		t.Errorf("mail: %v", err)
	}
}

func TestSetDraining(t *testing.T) {
	c, _ := serve(t, &scripted{services: twoServices()})
	for _, x := range []struct {
		service, backend string
		want             int
	}{{"", "10.0.2.1", 2}, {"web", "10.0.2.1", 1}, {"", "10.0.2.1:53", 1}, {"web", "10.0.2.1:53", 0}, {"mail", "10.0.2.1", 0}} {
		b, err := ParseBackendAddress(x.backend)
		if err != nil {
			t.Fatal(err)
		}
		change, err := c.SetDraining(context.Background(), x.service, b, true)
		if len(change.Backends) != x.want || (err == nil) != (x.want > 0) || err == nil && !change.Draining {
			t.Errorf("%s in %q: %+v, %v", x.backend, x.service, change, err)
		}
	}
}

func TestParseBackendAddress(t *testing.T) {
	for text, ok := range map[string]bool{
		"10.0.2.1": true, "10.0.2.1:80": true, "10.0.2.1:0": false, "10.0.2.1:": false, "::1": false, "[::1]:80": false, "web": false, "": false,
	} {
		b, err := ParseBackendAddress(text)
		if (err == nil) != ok || ok && b.String() != text {
			t.Errorf("%q: %v, %v", text, b, err)
		}
	}
}

func TestServiceQueries(t *testing.T) {
	c, _ := serve(t, &scripted{services: twoServices()})
	for _, x := range []struct{ method, path, want string }{
		{http.MethodGet, "/v1/services?nam=web", "the query takes name"},
		{http.MethodGet, "/v1/services?name=a&name=b", "given 2 times"},
		{http.MethodPost, "/v1/backends?backend=10.0.2.1&draining=yes", "neither true nor false"},
		{http.MethodPost, "/v1/backends?backend=web&draining=true", "is no backend"},
	} {
		path, query, _ := strings.Cut(x.path, "?")
		values := map[string][]string{}
		for _, kv := range strings.Split(query, "&") {
			k, v, _ := strings.Cut(kv, "=")
			values[k] = append(values[k], v)
		}
		_, err := c.do(context.Background(), x.method, path, values)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.path, err)
		}
	}
}
