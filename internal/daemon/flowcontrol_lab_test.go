package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// TestFlowControlLab watches a running gateway's flows while there is traffic,
// asks who holds a port, ends the flow, and sees that the next packet begins
// another.
func TestFlowControlLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newPuntLab(t, program)
	text, err := os.ReadFile(l.file)
	if err != nil {
		t.Fatal(err)
	}
	l.reload(strings.Replace(string(text), "udp-unreplied: "+flowLife.String(), "udp-unreplied: 10m", 1))
	const port = ":40000"
	client, server := l.udp(l.Client1, lab.Client1Address+port), l.udp(l.Server1, lab.Server1Address+port)
	outside := lab.GatewayOutside + port
	only := control.Filter{Src: netip.MustParsePrefix(lab.Client1Address + "/32"), Proto: "udp"}

	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	events := make(chan *control.FlowEvent, 100)
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- l.client.WatchFlows(ctx, only, func() { close(begun) }, func(e *control.FlowEvent) error {
			events <- e
			return nil
		})
	}()
	expect := func(event, reason string) *control.FlowEvent {
		t.Helper()
		select {
		case e := <-events:
			if e.Event != event || e.Reason != reason || e.Original.Sport != 40000 {
				t.Fatalf("%+v, want %s %s", e, event, reason)
			}
			return e
		case <-ctx.Done():
			t.Fatalf("no event, want %s", event)
		}
		return nil
	}
	select {
	case <-begun:
	case <-ctx.Done():
		t.Fatal("the watch does not begin")
	}
	l.arrives(client, lab.Server1Address+port, server, outside)
	expect(control.EventNew, "")
	l.arrives(server, outside, client, lab.Server1Address+port)
	expect(control.EventUpdate, "")

	h, err := l.client.Who(ctx, control.Endpoint{Address: netip.MustParseAddrPort(outside)})
	if err != nil || len(h.Holders) != 1 || h.Holders[0].Inside.String() != lab.Client1Address+port || h.Holders[0].Flows != 1 {
		t.Errorf("who: %+v, %v", h, err)
	}
	if _, err := l.client.Who(ctx, control.Endpoint{Address: netip.MustParseAddrPort("203.0.113.99:1")}); err == nil {
		t.Error("an address that is not the gateway's is somebody's")
	}
	mappings := 0
	if err := l.client.Mappings(ctx, control.MappingFilter{Inside: only.Src}, func(m *control.Mapping) error { mappings++; return nil }); err != nil || mappings != 1 {
		t.Errorf("%d mappings, %v", mappings, err)
	}
	p, err := l.client.Pools(ctx, 5)
	if err != nil || p.Inside != 1 || len(p.Sources) != 1 || p.Sources[0].Address.String() != lab.Client1Address || p.Mappings.Used != 1 {
		t.Errorf("pools: %+v, %v", p, err)
	}
	l.await("the count of kept ports", func() bool {
		p, err := l.client.Pools(ctx, 0)
		return err == nil && p.Ports.Kept == 1
	})

	if f, err := l.client.FlushFlows(ctx, only, false); err != nil || f.Flushed != 1 {
		t.Fatalf("flush: %+v, %v", f, err)
	}
	if e := expect(control.EventDestroy, "flow-flushed"); e.Packets != (control.Pair{Original: 1, Reply: 1}) {
		t.Errorf("counted %+v", e.Packets)
	}
	l.arrives(client, lab.Server1Address+port, server, "")
	expect(control.EventNew, "")
	l.scrapes()
	stop()
	if err := <-ended; err == nil {
		t.Error("the watch ended by itself")
	}
}

// reload gives the daemon another configuration.
func (l *puntLab) reload(text string) {
	l.t.Helper()
	if err := os.WriteFile(l.file, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if r, err := l.client.Reload(l.t.Context()); err != nil || !r.Changed {
		l.t.Fatalf("reload: %+v, %v", r, err)
	}
}

// scrapes has the daemon answer Prometheus by a reload, and stop to.
func (l *puntLab) scrapes() {
	l.t.Helper()
	const address = "127.0.0.1:9469"
	text, err := os.ReadFile(l.file)
	if err != nil {
		l.t.Fatal(err)
	}
	with := strings.Replace(string(text), "control: {", "control: {metrics: '"+address+"', ", 1)
	if with == string(text) {
		l.t.Fatalf("no place for control.metrics in\n%s", text)
	}
	get := func() (body string, err error) {
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, to string) (c net.Conn, err error) {
			err = l.Gateway.Do(func() (err error) { c, err = net.Dial(network, to); return err })
			return c, err
		}}}
		resp, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	l.reload(with)
	body, err := get()
	if err != nil || !strings.Contains(body, "\nsluice_flows{protocol=\"udp\"") || !strings.Contains(body, "\nsluice_worker_running{worker=\"0\"} 1\n") ||
		!strings.Contains(body, "\nsluice_config_last_reload_successful 1\n") {
		l.t.Errorf("a scrape: %v\n%s", err, body)
	}
	l.reload(string(text))
	if _, err := get(); err == nil {
		l.t.Error("metrics are answered that nobody wants any more")
	}
}
