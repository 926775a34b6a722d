package metrics

import (
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v4"

	"sluice/internal/control"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md anew")

// full is a gateway of which there is some of everything.
type full struct{}

func (full) Measure() control.Status {
	return control.Status{
		Version: control.Version{Version: "v1.2.3", Go: "go1.26"}, Started: time.Unix(1700000000, 0),
		Degraded: []control.Degradation{{What: "w", Remedy: "r"}},
		Config:   control.ConfigStatus{LastReload: &control.LastReload{At: time.Unix(1700000001, 5e8), Error: "refused"}},
		DSRAgent: &control.DSRAgent{Flows: control.Usage{Used: 3, Capacity: 1024}, Counters: []control.Counter{{Name: "untrusted-gateway", Packets: 2}}},
		Workers:  []control.Worker{{ID: 0, Running: true, HeartbeatAgeSeconds: -0.1, Packets: 11, Frames: control.Frames{Fill: 7}}, {ID: 1}},
		Interfaces: []control.Interface{{Name: "eth0", Up: true, Queues: []control.Queue{
			{Queue: 0, Worker: 0, Mode: "copy", RXPackets: 5, RXRing: control.Ring{Size: 2048, Used: 3}}, {Queue: 1, Worker: 1},
		}}},
		Masquerade: control.Masquerade{Addresses: []control.ExternalAddress{{
			Address: netip.MustParseAddr("192.0.2.1"), Capacity: 64512, InUse: control.PortsInUse{TCP: 3, UDP: 2, ICMP: 1},
		}}},
		Flows: control.FlowUsage{
			Usage:   control.Usage{Used: 4, Capacity: 1 << 20},
			ByState: []control.FlowState{{Protocol: "tcp", State: "established", Flows: 4}, {Protocol: "udp", State: "replied"}},
		},
		Steering:   control.Steering{Counters: []control.Counter{{Name: "kernel", Packets: 9}}},
		Punts:      control.Punts{Reasons: []control.Punt{{Reason: "host-owned", Passed: 1}}},
		Router:     control.Router{ICMPErrors: []control.Counter{{Name: "time-exceeded", Packets: 2}}, ServiceFlows: []control.Counter{{Name: "agent", Packets: 3}}},
		PortSearch: control.PortSearch{Kept: 1, Searched: 2, Retries: 3, Exhausted: 4},
	}
}

func (full) Drops() control.Drops {
	return control.Drops{Reasons: []control.Drop{{Reason: "ports-exhausted", Packets: 4}, {Reason: "filtered"}}}
}

func (full) MeasureServices() []control.Service {
	return []control.Service{{Name: "web", Protocol: "tcp", Selectable: 1, Backends: []control.Backend{
		{Address: netip.MustParseAddrPort("10.0.2.1:80"), State: "active", Health: &control.Health{Probes: 5, Failed: 2},
			Traffic: control.Traffic{Flows: 3, Packets: control.Directed{Original: 9, Reply: 8}}},
		{Address: netip.MustParseAddrPort("10.0.2.2:80"), State: "dead"},
	}}}
}

// TestNamesAndLabels holds every family to Prometheus' conventions, and the
// collector to the families: all are there, with the labels that they declare
// (the registry is pedantic).
func TestNamesAndLabels(t *testing.T) {
	r := NewRegistry(full{})
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	got, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range got {
		there[f.GetName()] = true
	}
	for _, f := range Families() {
		if !there[f.Name] {
			t.Errorf("%s is declared and never collected", f.Name)
		}
	}
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestValues(t *testing.T) {
	text := scrape(t, NewHandler(full{}))
	for _, line := range []string{
		`sluice_build_info{commit="",goversion="go1.26",version="v1.2.3"} 1`,
		`sluice_start_time_seconds 1.7e+09`,
		`sluice_config_last_reload_successful 0`,
		`sluice_config_last_reload_timestamp_seconds 1.7000000015e+09`,
		`sluice_worker_heartbeat_age_seconds{worker="0"} 0`,
		`sluice_worker_frames{place="fill",worker="0"} 7`,
		`sluice_worker_running{worker="1"} 0`,
		`sluice_queue_mode_info{interface="eth0",mode="none",queue="1",worker="1"} 1`,
		`sluice_receive_packets_total{interface="eth0",queue="0",worker="0"} 5`,
		`sluice_ring_used_descriptors{interface="eth0",queue="0",ring="rx",worker="0"} 3`,
		`sluice_drops_total{reason="ports-exhausted"} 4`,
		`sluice_drops_total{reason="filtered"} 0`,
		`sluice_flows{protocol="tcp",state="established"} 4`,
		`sluice_nat_ports_in_use{address="192.0.2.1",protocol="tcp"} 3`,
		`sluice_nat_ports_limit{address="192.0.2.1",protocol="icmp"} 65536`,
		`sluice_nat_port_searches_total{result="exhausted"} 4`,
		`sluice_nat_port_retries_total 3`,
		`sluice_punts_total{reason="host-owned",result="passed"} 1`,
		`sluice_dsr_agent_flows 3`,
		`sluice_dsr_agent_packets_total{event="untrusted-gateway"} 2`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestDocument holds the table of docs/metrics.md to the families.
func TestDocument(t *testing.T) {
	const path = "../../docs/metrics.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "|---|---|---|---|\n", "<!-- end -->"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the table is not where it was")
	}
	var rows strings.Builder
	for _, f := range Families() {
		kind := "gauge"
		if f.Type == prometheus.CounterValue {
			kind = "counter"
		}
		rows.WriteString("| `" + f.Name + "` | " + kind + " | " + strings.Join(f.Labels, ", ") + " | " + f.Help + " |\n")
	}
	want := before + begin + rows.String() + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Error("docs/metrics.md is not what the program has; `go test ./internal/metrics -update` writes it")
	}
}

// expressions are what the dashboard and the alert rules ask, by where.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct{ List []struct{ Query any } }
	}
	text, err := os.ReadFile("dashboards/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all["panel "+p.Title+target.LegendFormat] = target.Expr
		}
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if text, err = os.ReadFile("dashboards/alerts.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Load(text, &rules, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all["alert "+r.Alert] = r.Expr
			if r.Annotations["summary"] == "" || r.Annotations["remedy"] == "" || r.Labels["severity"] == "" {
				t.Errorf("alert %s lacks a summary, remedy or severity", r.Alert)
			}
		}
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\b(sluice_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on)\s*\(([^)]*)\)`)
)

// TestDashboardsNameWhatThereIs: metrics, the labels in their selectors, and the
// labels that are grouped by.
func TestDashboardsNameWhatThereIs(t *testing.T) {
	families := map[string]*Family{}
	for _, f := range Families() {
		families[f.Name] = f
	}
	asked := expressions(t)
	if len(asked) < 20 {
		t.Errorf("only %d expressions are found", len(asked))
	}
	for where, expr := range asked {
		labels := []string{"instance", "job"} // Prometheus' own
		found := metricName.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 {
			t.Errorf("%s asks for no metric: %s", where, expr)
		}
		for _, m := range found {
			f := families[m[1]]
			if f == nil {
				t.Errorf("%s: there is no %s", where, m[1])
				continue
			}
			labels = append(labels, f.Labels...)
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "instance" && !slices.Contains(f.Labels, l[1]) {
					t.Errorf("%s: %s has no label %s", where, f.Name, l[1])
				}
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, l := range strings.Split(g[1], ",") {
				if l = strings.TrimSpace(l); !slices.Contains(labels, l) {
					t.Errorf("%s: nothing in it has a label %s", where, l)
				}
			}
		}
		if strings.Count(expr, "(") != strings.Count(expr, ")") {
			t.Errorf("%s: parentheses: %s", where, expr)
		}
	}
}

func TestListenerMoves(t *testing.T) {
	l := NewListener(NewHandler(full{}), slog.New(slog.DiscardHandler))
	defer l.Close()
	first, second := freeAddress(t), freeAddress(t)
	answers := func(address string) bool {
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(body), "sluice_build_info")
	}
	move := func(address string) func() {
		t.Helper()
		undo, err := l.Move(address)
		if err != nil {
			t.Fatal(err)
		}
		return undo
	}
	move(first)
	if !answers(first) {
		t.Error("no answer")
	}
	move(first)
	undo := move(second)
	if answers(first) || !answers(second) {
		t.Error("it did not move")
	}
	undo()
	if !answers(first) || answers(second) {
		t.Error("it did not move back")
	}
	taken, err := net.Listen("tcp", second)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := l.Move(second); err == nil || !strings.Contains(err.Error(), "control.metrics") || !answers(first) {
		t.Errorf("an address that is taken: %v", err)
	}
	if resp, err := http.Post("http://"+first+"/metrics", "", nil); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	move("")
	if answers(first) {
		t.Error("it answers where it should not")
	}
}

// freeAddress is an address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Addr().String()
}
