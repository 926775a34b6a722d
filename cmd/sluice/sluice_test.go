package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/control"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMain fixes the zone in which status prints times.
func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// fake is the gateway behind the control socket of a test.
type fake struct {
	mu     sync.Mutex
	status control.Status
	flows  []control.Flow
	drops  func() control.Drops
	reload func() (control.ReloadResult, error)
	asked  atomic.Pointer[control.Filter]
}

// change sets answers anew while the server may be asked.
func (g *fake) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *fake) Status() control.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.status
	s.Interfaces, s.Workers = slices.Clone(s.Interfaces), slices.Clone(s.Workers)
	return s
}

func (g *fake) Flows(_ context.Context, filter control.Filter, yield func(control.Flow) error) error {
	g.asked.Store(&filter)
	for _, f := range g.flows {
		if filter.Match(&f) {
			if err := yield(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *fake) CountFlows(ctx context.Context, filter control.Filter) (control.FlowCount, error) {
	n := 0
	err := g.Flows(ctx, filter, func(control.Flow) error { n++; return nil })
	return control.FlowCount{Count: n, Capacity: 1 << 20}, err
}

func (g *fake) Drops() control.Drops {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.drops()
}

func (g *fake) Reload(context.Context) (control.ReloadResult, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reload()
}

// serve answers for g and returns the socket.
func serve(t *testing.T, g *fake) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- control.NewServer(g, buildVersion(), slog.New(slog.DiscardHandler)).Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// sluice runs one command line and holds it to what every command promises:
// errors stand on standard error, and there is no usage text.
func sluice(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	if strings.Contains(e.String(), "Usage:") || strings.Contains(e.String(), "Flags:") {
		t.Errorf("%q prints its usage unasked:\n%s", args, &e)
	}
	return code, o.String(), e.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got)\n%s", path, d)
	}
}

// file writes a file for a test and returns its path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodConfig = "interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside}]\nmasquerade: {sources: [10.20.30.0/24]}\n"

func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"", "a command is missing"},
		{"stauts", `there is no command "sluice stauts"; did you mean status?`},
		{"flows", "a command is missing"},
		{"flows lst", "did you mean list?"},
		{"config", "a command is missing"},
		{"config migrate", "there is no command"},
		{"completion tcsh", "there is no command"},
		{"status now", "one word too many"},
		{"check file.yaml", "one word too many"},
		{"detach eth0", "one word too many"},
		{"status --frobnicate", "unknown flag: --frobnicate"},
		{"status -o yaml", "neither table nor json"},
		{"status --socket", "needs an argument"},
		{"drops --interval soon", "invalid argument"},
		{"drops --interval 1ms", "too short"},
		{"flows list --proto tpc", "--proto:"},
		{"flows list --src 10.0.0", "--src:"},
		{"flows list --dst fd00::1", "--dst:"},
		{"flows count --sport 70000", "--sport:"},
		{"flows count --dport http", "--dport:"},
		{"run --log-level loud", "--log-level:"},
		{"run --log-format xml", "--log-format:"},
	} {
		code, out, errOut := sluice(t, strings.Fields(tc.args)...)
		if code != exitUsage {
			t.Errorf("%q: exit %d, want 2", tc.args, code)
		}
		if out != "" || strings.Count(errOut, "\n") != 1 || !strings.HasPrefix(errOut, "sluice: ") ||
			!strings.Contains(errOut, tc.want) || !strings.Contains(errOut, "--help`") {
			t.Errorf("%q: output %q, errors %q", tc.args, out, errOut)
		}
	}
}

// TestNoDaemon: every command that asks one says how to start it.
func TestNoDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range []string{"status", "reload", "flows list", "flows count", "drops", "drops --watch", "status -o json"} {
		code, out, errOut := sluice(t, append(strings.Fields(args), "--socket", socket)...)
		if code != exitFailed || out != "" || strings.Count(errOut, "\n") != 1 ||
			!strings.Contains(errOut, socket) || !strings.Contains(errOut, "start it with") {
			t.Errorf("%s: exit %d, output %q, errors %q", args, code, out, errOut)
		}
	}
	t.Setenv("SLUICE_SOCKET", socket)
	if _, _, errOut := sluice(t, "status"); !strings.Contains(errOut, socket) {
		t.Errorf("$SLUICE_SOCKET is not read: %s", errOut)
	}
}

func TestHelp(t *testing.T) {
	code, out, _ := sluice(t, "--help")
	if code != exitFine {
		t.Errorf("exit %d", code)
	}
	for _, name := range []string{"run", "check", "reload", "detach", "status", "flows", "drops", "config", "lab", "version", "completion"} {
		if !strings.Contains(out, "\n  "+name+" ") {
			t.Errorf("%s is not in the help", name)
		}
	}
	for _, name := range []string{"explain", "trace", "capture", "services", "backend", "nat ", "top "} {
		if strings.Contains(out, "\n  "+name) {
			t.Errorf("%s is in the help and not in this version", name)
		}
	}
	if _, out, _ := sluice(t, "config", "--help"); strings.Contains(out, "migrate") || strings.Contains(out, "schema") {
		t.Errorf("config advertises what is not there:\n%s", out)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		code, out, errOut := sluice(t, "completion", shell)
		if code != exitFine || len(out) < 1000 || errOut != "" {
			t.Errorf("%s: exit %d, %d bytes, %q", shell, code, len(out), errOut)
		}
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := sluice(t, "version")
	if code != exitFine || !strings.HasPrefix(out, "sluice ") || strings.Count(out, "\n") != 1 {
		t.Errorf("exit %d, %q", code, out)
	}
	var v control.Version
	if _, out, _ = sluice(t, "version", "-o", "json"); json.Unmarshal([]byte(out), &v) != nil || v.Version == "" || v.Go == "" {
		t.Errorf("%q", out)
	}
	v = control.Version{Version: "v1.2.3", Commit: strings.Repeat("a", 40) + "-dirty", Go: "go1.26", Arch: "arm64"}
	if got, want := describeVersion(v), "v1.2.3 (aaaaaaaaaaaa-dirty) go1.26 linux/arm64"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCheck(t *testing.T) {
	good, bad := file(t, goodConfig), file(t, goodConfig+"hairpin: yes\ndriver: asavie\n")
	warned := file(t, "interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside}]\n")

	code, out, errOut := sluice(t, "check", "--config", good)
	if code != exitFine || out != good+": ok\n" || errOut != "" {
		t.Errorf("good: exit %d, %q, %q", code, out, errOut)
	}
	code, out, errOut = sluice(t, "check", "-c", bad)
	lines := strings.Split(strings.TrimSpace(errOut), "\n")
	if code != exitFailed || out != "" || len(lines) != 2 ||
		!strings.HasPrefix(lines[0], bad+":3: hairpin: ") || !strings.HasPrefix(lines[1], bad+":4: driver: ") {
		t.Errorf("bad: exit %d, %q, %q", code, out, errOut)
	}
	code, out, errOut = sluice(t, "check", "--config", warned)
	if code != exitFine || out != warned+": ok\n" || !strings.Contains(errOut, ":1: masquerade.sources: warning: ") {
		t.Errorf("warned: exit %d, %q, %q", code, out, errOut)
	}
	code, out, errOut = sluice(t, "check", "--config", bad, "-o", "json")
	var m mistakeJSON
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &m); err != nil {
		t.Error(err)
	}
	if code != exitFailed || strings.Count(out, "\n") != 2 || errOut != "" || m.File != bad || m.Line != 3 || m.Key != "hairpin" || m.Warning {
		t.Errorf("json: exit %d, %q, %q", code, out, errOut)
	}
	code, _, errOut = sluice(t, "check", "--config", "/nonexistent/sluice.yaml")
	if code != exitFailed || !strings.HasPrefix(errOut, "/nonexistent/sluice.yaml: no such file") {
		t.Errorf("missing: exit %d, %q", code, errOut)
	}
}

// TestBadConfigElsewhere: other commands that read the file refuse it as check
// does, before they touch the machine.
func TestBadConfigElsewhere(t *testing.T) {
	bad := file(t, goodConfig+"driver: asavie\n")
	for _, args := range []string{"run", "detach", "config show"} {
		code, out, errOut := sluice(t, append(strings.Fields(args), "--config", bad)...)
		if code != exitFailed || out != "" || !strings.Contains(errOut, bad+":3: driver: ") {
			t.Errorf("%s: exit %d, %q, %q", args, code, out, errOut)
		}
	}
}

func TestConfigExampleIsGood(t *testing.T) {
	code, out, _ := sluice(t, "config", "example")
	if code != exitFine {
		t.Fatalf("exit %d", code)
	}
	path := file(t, out)
	if code, _, errOut := sluice(t, "check", "--config", path); code != exitFine || errOut != "" {
		t.Errorf("exit %d: %s", code, errOut)
	}
	_, shown, _ := sluice(t, "config", "show", "--config", path)
	if code, _, errOut := sluice(t, "check", "--config", file(t, shown)); code != exitFine || errOut != "" {
		t.Errorf("what config show prints is refused: %s", errOut)
	}
	_, a, _ := sluice(t, "config", "show", "--config", path, "-o", "json")
	_, b, _ := sluice(t, "config", "example", "-o", "json")
	if a != b || !json.Valid([]byte(a)) {
		t.Errorf("show: %s\nexample: %s", a, b)
	}
}

func TestReload(t *testing.T) {
	g := &fake{}
	socket := serve(t, g)
	for name, tc := range map[string]struct {
		result      control.ReloadResult
		err         error
		args        string
		code        int
		out, errOut string
	}{
		"changed":   {result: control.ReloadResult{Path: "/etc/s.yaml", Changed: true}, out: "/etc/s.yaml: reloaded\n"},
		"unchanged": {result: control.ReloadResult{Path: "/etc/s.yaml"}, out: "/etc/s.yaml: says what was in force already\n"},
		"warned": {
			result: control.ReloadResult{Path: "/etc/s.yaml", Changed: true, Warnings: []string{"/etc/s.yaml:3: k: warning: w"}},
			out:    "/etc/s.yaml: reloaded\n", errOut: "/etc/s.yaml:3: k: warning: w\n",
		},
		"refused": {
			err: &control.Refusal{Reason: "r", Mistakes: []string{"f:1: a: x", "f:2: b: y"}}, code: exitFailed,
			errOut: "f:1: a: x\nf:2: b: y\nsluice: reload refused, nothing changed; correct the file and reload again\n",
		},
		"refused without a list": {err: &control.Refusal{Reason: "the file is gone"}, code: exitFailed, errOut: "sluice: the file is gone\n"},
		"failed":                 {err: errors.New("worker 1 does not answer"), code: exitFailed, errOut: "sluice: worker 1 does not answer\n"},
		"refused, as JSON": {
			err: &control.Refusal{Reason: "r", Mistakes: []string{"f:1: a: x"}}, args: "-o json", code: exitFailed,
			out: `{"error":"r","mistakes":["f:1: a: x"]}` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g.change(func() { g.reload = func() (control.ReloadResult, error) { return tc.result, tc.err } })
			code, out, errOut := sluice(t, append(strings.Fields("reload "+tc.args), "--socket", socket)...)
			if code != tc.code || out != tc.out || errOut != tc.errOut {
				t.Errorf("exit %d, %q, %q", code, out, errOut)
			}
		})
	}
}

func flow(proto, state, kind string, orig, reply control.Tuple) control.Flow {
	return control.Flow{
		Protocol: proto, State: state, Kind: kind, Original: orig, Reply: &reply, TimeoutSeconds: 7439,
		Packets: control.Pair{Original: 12, Reply: 10}, Bytes: control.Pair{Original: 1500, Reply: 90000},
		Created: time.Unix(1700000000, 0).UTC(),
	}
}

func someFlows() []control.Flow {
	a := netip.MustParseAddr
	tuple := func(src, dst string, sport, dport uint16) control.Tuple {
		return control.Tuple{Src: a(src), Dst: a(dst), Sport: sport, Dport: dport}
	}
	waiting := flow("udp", "unreplied", "masquerade",
		tuple("10.20.30.12", "198.51.100.12", 5353, 53), tuple("198.51.100.12", "198.51.100.2", 53, 5353))
	waiting.Packets.Reply, waiting.Bytes.Reply = 0, 0
	direct := flow("tcp", "established", "service-dsr", tuple("192.0.2.7", "198.51.100.10", 33000, 80), control.Tuple{})
	direct.Reply, direct.Service, direct.Backend = nil, "web", "10.0.2.123:80"
	return []control.Flow{
		flow("tcp", "established", "masquerade",
			tuple("10.20.30.11", "198.51.100.11", 40000, 443), tuple("198.51.100.11", "198.51.100.2", 443, 40000)),
		waiting,
		flow("icmp", "replied", "forward", tuple("10.20.30.11", "10.99.0.10", 7, 0), tuple("10.99.0.10", "10.20.30.11", 7, 0)),
		flow("47", "replied", "forward", tuple("10.20.30.11", "10.99.0.10", 0, 0), tuple("10.99.0.10", "10.20.30.11", 0, 0)),
		direct,
	}
}

func TestFlowsList(t *testing.T) {
	g := &fake{flows: someFlows()}
	socket := serve(t, g)
	code, out, errOut := sluice(t, "flows", "list", "--socket", socket)
	if code != exitFine || errOut != "" {
		t.Fatalf("exit %d, %s", code, errOut)
	}
	golden(t, "flows.golden", out)
	code, out, _ = sluice(t, "flows", "list", "-o", "json", "--socket", socket)
	if code != exitFine {
		t.Fatalf("exit %d", code)
	}
	golden(t, "flows.json.golden", out)
}

func TestFlowsFilters(t *testing.T) {
	g := &fake{flows: someFlows()}
	socket := serve(t, g)
	for args, want := range map[string]int{
		"":                               5,
		"--proto tcp":                    2,
		"--proto 6":                      2,
		"--proto icmp":                   1,
		"--src 10.20.30.0/24":            4,
		"--src 10.20.30.11":              3,
		"--dst 198.51.100.0/28":          3,
		"--sport 40000 --dport 443":      1,
		"--sport 7 --proto icmp":         1,
		"--state established":            2,
		"--state ESTABLISHED":            2,
		"--service web":                  1,
		"--natted":                       3,
		"--natted=false":                 5,
		"--natted --proto tcp --dport 1": 0,
	} {
		fields := append(strings.Fields(args), "--socket", socket)
		_, out, errOut := sluice(t, append([]string{"flows", "list"}, fields...)...)
		code, count, _ := sluice(t, append([]string{"flows", "count"}, fields...)...)
		if n := strings.Count(out, "\n"); n != want || strings.TrimSpace(count) != string(rune('0'+want)) || code != exitFine || errOut != "" {
			t.Errorf("%s: listed %d, counted %s, want %d; %s", args, n, count, want, errOut)
		}
	}
	_, out, _ := sluice(t, "flows", "count", "-o", "json", "--socket", socket)
	if want := `{"count":5,"capacity":1048576}` + "\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	if g.asked.Load().Natted {
		t.Error("the filter of one command is left over in the next")
	}
}

func TestDrops(t *testing.T) {
	reasons := []control.Drop{{Reason: "bad-version", Explanation: "never seen"}, {Reason: "ports-exhausted", Packets: 12, Explanation: "no port is free"}}
	g := &fake{drops: func() control.Drops { return control.Drops{Reasons: reasons} }}
	socket := serve(t, g)
	_, out, _ := sluice(t, "drops", "--socket", socket)
	if want := "PACKETS  REASON           EXPLANATION\n     12  ports-exhausted  no port is free\n"; out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if _, out, _ = sluice(t, "drops", "--all", "--socket", socket); !strings.Contains(out, "      0  bad-version") {
		t.Errorf("--all does not show all:\n%s", out)
	}
	_, out, _ = sluice(t, "drops", "-o", "json", "--socket", socket)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 || line["reason"] != "ports-exhausted" || line["packets"] != 12.0 || line["explanation"] != "no port is free" || line["per_second"] != nil {
		t.Errorf("%s", out)
	}
	g.change(func() { reasons = nil })
	if _, out, _ = sluice(t, "drops", "--socket", socket); out != "no packet was dropped\n" {
		t.Errorf("%q", out)
	}
}

// TestDropsWatch: rates come from the daemon's own clock, and a daemon that was
// restarted meanwhile does not give a rate beyond all measure.
func TestDropsWatch(t *testing.T) {
	at := time.Unix(1700000000, 0).UTC()
	readings := []uint64{100, 150, 30}
	n := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &fake{drops: func() control.Drops {
		if n == len(readings) {
			cancel()
			n--
		}
		d := control.Drops{At: at.Add(time.Duration(n) * 10 * time.Second), Reasons: []control.Drop{{Reason: "no-route", Packets: readings[n]}}}
		n++
		return d
	}}
	var out, errOut bytes.Buffer
	code := run(ctx, []string{"drops", "--watch", "--interval", "100ms", "-o", "json", "--socket", serve(t, g)}, &out, &errOut)
	if code != exitFine || errOut.Len() > 0 {
		t.Errorf("exit %d, %s", code, &errOut)
	}
	var rates []float64
	for lines := bufio.NewScanner(&out); lines.Scan() && len(rates) < 3; {
		var line dropLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		rate := -1.0
		if line.PerSecond != nil {
			rate = *line.PerSecond
		}
		rates = append(rates, rate)
	}
	if want := []float64{-1, 5, 3}; !slices.Equal(rates, want) {
		t.Errorf("rates %v, want %v", rates, want)
	}
}

func TestStatus(t *testing.T) {
	g := &fake{status: busyStatus()}
	socket := serve(t, g)

	code, out, errOut := sluice(t, "status", "--socket", socket)
	if code != exitFine || errOut != "" {
		t.Errorf("exit %d, %s", code, errOut)
	}
	golden(t, "status.golden", out)

	code, out, _ = sluice(t, "status", "--verbose", "--socket", socket)
	if code != exitFine {
		t.Errorf("exit %d", code)
	}
	golden(t, "status-verbose.golden", out)

	g.change(func() {
		g.status.Degraded = []control.Degradation{
			{What: "eth0: the link is down", Remedy: "`ip link set eth0 up`"},
			{What: "the last reload was refused", Remedy: "correct the file and `sluice reload`"},
		}
		g.status.Config.LastReload = &control.LastReload{At: g.status.Started.Add(time.Hour), Error: "/etc/sluice/sluice.yaml:3: k: is not a key"}
		g.status.Interfaces[1].Up = false
		g.status.Workers[1].Running = false
		g.status.Steering.Pinned, g.status.Steering.Path = false, "no bpffs"
		g.status.Masquerade.Sources = nil
	})
	code, out, errOut = sluice(t, "status", "--socket", socket)
	if code != exitDegraded || errOut != "" {
		t.Errorf("exit %d, %s; want 3", code, errOut)
	}
	golden(t, "status-degraded.golden", out)

	code, out, _ = sluice(t, "status", "-o", "json", "--socket", socket)
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("not one object: %v\n%s", err, out)
	}
	if code != exitDegraded || len(got.Degraded) != 2 || got.Interfaces[1].Name != "eth0" {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// busyStatus is a gateway at work.
func busyStatus() control.Status {
	started := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	prefix := netip.MustParsePrefix
	queue := func(q, worker int, mode, reason string) control.Queue {
		return control.Queue{
			Queue: q, Worker: worker, Mode: mode, ModeReason: reason, ZeroCopy: mode == "zero-copy", Up: true,
			FillRing: control.Ring{Size: 2048, Used: 2040}, RXRing: control.Ring{Size: 2048, Used: 3},
			TXRing: control.Ring{Size: 2048}, CompletionRing: control.Ring{Size: 2048},
			RXPackets: 123456789, RXBytes: 98765432100, TXPackets: 1234, TXBytes: 999,
			Drops: control.QueueDrops{RXRingFull: 17, FillRingEmpty: 4},
		}
	}
	return control.Status{
		Version: control.Version{Version: "v0.2.0", Commit: strings.Repeat("c", 40), Go: "go1.26.8", Arch: "amd64"},
		PID:     4711, Started: started, UptimeSeconds: 11530.4,
		Config: control.ConfigStatus{Path: "/etc/sluice/sluice.yaml", Loaded: started, Warnings: []string{"/etc/sluice/sluice.yaml:9: masquerade.nodes[1]: warning: 192.0.2.10 is listed twice"}},
		Workers: []control.Worker{
			{ID: 0, CPU: 2, Running: true, HeartbeatAgeSeconds: 0.04, Packets: 123456789, Utilisation: 0.731, Frames: control.Frames{Free: 4000, Fill: 4080, RX: 3, TX: 90, Held: 19, Total: 8192}},
			{ID: 1, CPU: -1, Running: true, HeartbeatAgeSeconds: 0.1, Frames: control.Frames{Free: 8192, Total: 8192}},
		},
		Interfaces: []control.Interface{
			{Name: "eth1", Role: "inside", Up: true, Driver: "mlx5_core", MTU: 1500, Addresses: []netip.Prefix{prefix("10.20.30.1/24")}, Queues: []control.Queue{queue(0, 0, "zero-copy", ""), queue(1, 1, "zero-copy", "")}},
			{
				Name: "eth0", Role: "outside", Up: true, Driver: "veth", MTU: 1500, Addresses: []netip.Prefix{prefix("198.51.100.2/24"), prefix("198.51.100.9/24")},
				Notes: []string{"native XDP on veth limits frames to 3498 bytes"}, Queues: []control.Queue{queue(0, 0, "copy", "the driver has no zero-copy"), {Queue: 1, Worker: 1}},
			},
		},
		Masquerade: control.Masquerade{
			Enabled: true, Sources: []netip.Prefix{prefix("10.20.30.0/24")}, PortRange: "1024-65535",
			Exclusions: []control.Exclusion{{Rule: "native-routing", Prefix: prefix("10.0.0.0/8"), Line: 8}, {Rule: "link-local", Prefix: prefix("169.254.0.0/16")}},
			Addresses: []control.ExternalAddress{
				{Address: netip.MustParseAddr("198.51.100.2"), Interface: "eth0", Shared: true, Capacity: 64512, InUse: control.PortsInUse{TCP: 40000, UDP: 23, ICMP: 1}},
				{Address: netip.MustParseAddr("203.0.113.4"), Capacity: 64512},
			},
		},
		Flows:    control.FlowUsage{Usage: control.Usage{Used: 40024, Capacity: 1 << 20}, Protocols: map[string]int{"tcp": 40000, "udp": 23, "icmp": 1}, States: map[string]int{"established": 39000, "syn-sent": 1000, "replied": 24}},
		Mappings: control.Usage{Used: 40024, Capacity: 1 << 20}, Sources: control.Usage{Used: 2, Capacity: 1 << 18},
		Timeouts:    control.Timeouts{TCPEstablished: 7440, TCPTransitory: 240, TCPSyn: 240, TCPClose: 240, TCPTimeWait: 120, UDP: 300, UDPUnreplied: 120, ICMP: 60, Other: 600},
		Steering:    control.Steering{OnFailure: "drop", Pinned: true, Path: "/sys/fs/bpf/sluice/4026531840", Counters: []control.Counter{{Name: "to-worker-held-port", Packets: 123456}, {Name: "pass-not-ipv4", Packets: 7}}},
		Unsupported: []string{"rule 100: fwmark 0x1"},
		Netfilter:   []string{"nft table ip filter has rules on eth0"},
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	tab := newTable(&b, left("NAME"), right("N"), left("HIDDEN"), left("WORDS"))
	tab.hide(2)
	tab.row("ä", "1", "x", "trailing ")
	tab.row("longer", "1000", "x", "")
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	want := "NAME       N  WORDS\nä          1  trailing\nlonger  1000\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestBytesOf(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
