package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scripted is a Gateway whose answers a test sets.
type scripted struct {
	status   Status
	services []Service
	flows    int // how many Flows yields, all alike but for the port
	broken   error
	reload   func() (ReloadResult, error)
	yielded  atomic.Int64
	flushed  atomic.Int64
	finished chan error
	trace    func(context.Context, TraceQuestion, func() error, func(*Traced) error) error
	capture  func(context.Context, CaptureQuestion, func() error, io.Writer) error
}

func (g *scripted) Status() Status { return g.status }

func (g *scripted) flow(i int) Flow {
	a := netip.MustParseAddr
	return Flow{
		Protocol: "tcp", State: "established", Kind: "masquerade", TimeoutSeconds: 7440,
		Original: Tuple{a("10.0.0.5"), a("1.1.1.1"), uint16(i), 443},
		Reply:    &Tuple{a("1.1.1.1"), a("192.0.2.1"), 443, uint16(i)},
		Packets:  Pair{1, 2}, Bytes: Pair{60, 120}, Created: time.Unix(1700000000, 0).UTC(),
	}
}

func (g *scripted) Flows(ctx context.Context, filter Filter, yield func(Flow) error) (err error) {
	if g.finished != nil {
		defer func() { g.finished <- err }()
	}
	for i := range g.flows {
		f := g.flow(i)
		if !filter.Match(&f) {
			continue
		}
		g.yielded.Add(1)
		if err := yield(f); err != nil {
			return err
		}
	}
	return g.broken
}

func (g *scripted) CountFlows(_ context.Context, filter Filter) (FlowCount, error) {
	n := 0
	for i := range g.flows {
		if f := g.flow(i); filter.Match(&f) {
			n++
		}
	}
	return FlowCount{n, 1 << 20}, g.broken
}

func (g *scripted) Drops() Drops {
	return Drops{Reasons: []Drop{{"ports-exhausted", 7, "no port is free"}}}
}

func (g *scripted) Explain(q Question) (Explanation, error) {
	if q.In == "nowhere" {
		return Explanation{}, errors.New("in: nowhere is not an interface")
	}
	return Explanation{Verdict: "forward", Protocol: q.Proto, In: q.In, Original: Tuple{Src: q.Src.Addr(), Sport: q.Src.Port()}}, nil
}

func (g *scripted) Trace(ctx context.Context, q TraceQuestion, begun func() error, yield func(*Traced) error) error {
	return g.trace(ctx, q, begun, yield)
}

func (g *scripted) Config() (ConfigText, error) {
	return ConfigText{Path: "/etc/s.yaml", Text: "cpus: [1]\n"}, nil
}

func (g *scripted) Reload(context.Context) (ReloadResult, error) { return g.reload() }

// serve starts a server for g and returns a client of it.
func serve(t *testing.T, g Gateway, change ...func(*Server)) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(g, Version{Version: "v1.2.3", Go: "go1.26"}, slog.New(slog.DiscardHandler))
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return NewClient(path), path
}

func TestStatusRoundTrip(t *testing.T) {
	want := Status{
		PID: 42, Degraded: []Degradation{{"worker 1 is stuck", "look at its log"}},
		Interfaces: []Interface{{Name: "eth0", Queues: []Queue{{Mode: "copy", RXRing: Ring{2048, 7}}}}},
	}
	c, _ := serve(t, &scripted{status: want})
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want.fill()
	eq := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if d := cmp.Diff(want, got, eq); d != "" {
		t.Errorf("status changed on its way (-sent +received):\n%s", d)
	}
}

// TestEmptyListsAreLists: a reader of the JSON may iterate without asking.
func TestEmptyListsAreLists(t *testing.T) {
	_, path := serve(t, &scripted{})
	body := raw(t, path, "GET", "/v1/status")
	if strings.Contains(strings.ReplaceAll(body, `"last_reload":null`, ""), "null") {
		t.Errorf("null where a list or an object belongs: %s", body)
	}
}

func TestFlowsStream(t *testing.T) {
	const n = 20000 // beyond every buffer on the way
	g := &scripted{flows: n}
	c, _ := serve(t, g)
	got := 0
	err := c.Flows(t.Context(), Filter{}, func(f Flow) error {
		if f.Original.Sport != uint16(got) {
			t.Fatalf("flow %d has port %d", got, f.Original.Sport)
		}
		got++
		return nil
	})
	if err != nil || got != n {
		t.Fatalf("%d flows, error %v; want %d", got, err, n)
	}
}

func TestFlowsFilterInTheQuery(t *testing.T) {
	c, _ := serve(t, &scripted{flows: 100})
	port := uint16(42)
	for name, tc := range map[string]struct {
		filter Filter
		want   int
	}{
		"everything":      {Filter{}, 100},
		"source port":     {Filter{Sport: &port}, 1},
		"protocol":        {Filter{Proto: "udp"}, 0},
		"source network":  {Filter{Src: netip.MustParsePrefix("10.0.0.0/8")}, 100},
		"other network":   {Filter{Dst: netip.MustParsePrefix("10.0.0.0/8")}, 0},
		"state, natted":   {Filter{State: "established", Natted: true}, 100},
		"service":         {Filter{Service: "web"}, 0},
		"all that is set": {Filter{Proto: "tcp", Dport: &port}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := 0
			if err := c.Flows(t.Context(), tc.filter, func(Flow) error { got++; return nil }); err != nil {
				t.Fatal(err)
			}
			count, err := c.CountFlows(t.Context(), tc.filter)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want || count.Count != tc.want {
				t.Errorf("listed %d, counted %d, want %d", got, count.Count, tc.want)
			}
		})
	}
}

func TestReload(t *testing.T) {
	g := &scripted{}
	c, _ := serve(t, g)
	g.reload = func() (ReloadResult, error) { return ReloadResult{Path: "/etc/x", Changed: true}, nil }
	if r, err := c.Reload(t.Context()); err != nil || !r.Changed {
		t.Errorf("got %+v, %v", r, err)
	}
	refusal := &Refusal{Reason: "2 mistakes", Mistakes: []string{"f:1: a", "f:2: b"}}
	g.reload = func() (ReloadResult, error) { return ReloadResult{}, refusal }
	_, err := c.Reload(t.Context())
	got, ok := errors.AsType[*Refusal](err)
	if !ok || cmp.Diff(refusal, got) != "" {
		t.Errorf("got %v, want %v", err, refusal)
	}
	g.reload = func() (ReloadResult, error) { return ReloadResult{}, errors.New("worker 1 does not answer") }
	if _, err := c.Reload(t.Context()); err == nil || err.Error() != "worker 1 does not answer" {
		t.Errorf("got %v", err)
	}
}

func TestWritesAskForRights(t *testing.T) {
	own := uint32(os.Geteuid())
	for name, tc := range map[string]struct {
		uid     uint32
		known   bool
		allowed bool
	}{
		"root":              {0, true, true},
		"the daemon's user": {own, true, true},
		"another user":      {own + 4711, true, false},
		"unknown":           {0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			reloaded := false
			g := &scripted{reload: func() (ReloadResult, error) { reloaded = true; return ReloadResult{}, nil }}
			c, _ := serve(t, g, func(s *Server) {
				s.peer = func(net.Conn) (Peer, bool) { return Peer{UID: tc.uid}, tc.known }
			})
			_, err := c.Reload(t.Context())
			if (err == nil) != tc.allowed || reloaded != tc.allowed {
				t.Errorf("error %v, reloaded %v, want allowed %v", err, reloaded, tc.allowed)
			}
			if err != nil && !strings.Contains(err.Error(), "sudo") {
				t.Errorf("no remedy in %q", err)
			}
			if _, err := c.Status(t.Context()); err != nil {
				t.Errorf("reading is refused: %v", err)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	_, path := serve(t, &scripted{})
	for _, tc := range []struct{ method, target, want string }{
		{"GET", "/v1/flows?proto=tpc", "not a protocol"},
		{"GET", "/v1/flows?src=10.0.0", "not an IPv4"},
		{"GET", "/v1/flows?src=fd00::1", "not an IPv4"},
		{"GET", "/v1/flows?sport=65536", "not a port"},
		{"GET", "/v1/flows?natted=maybe", "true or false"},
		{"GET", "/v1/flows?sorce=10.0.0.1", "not a filter"},
		{"GET", "/v1/flows?src=10.0.0.1&src=10.0.0.2", "give it once"},
		{"GET", "/v1/flows/count?dport=x", "not a port"},
		{"GET", "/v2/status", "no such endpoint"},
		{"GET", "/v1/reload", ""},
		{"POST", "/v1/status", ""},
	} {
		status, body := request(t, path, tc.method, tc.target)
		if status < 400 || status >= 500 || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %s", tc.method, tc.target, status, body)
		}
	}
}

// raw returns the body of an answer as it is on the wire.
func raw(t *testing.T, socket, method, target string) string {
	t.Helper()
	status, body := request(t, socket, method, target)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, target, status, body)
	}
	return body
}

func request(t *testing.T, socket, method, target string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://sluice"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(socket)
	defer c.http.CloseIdleConnections()
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
