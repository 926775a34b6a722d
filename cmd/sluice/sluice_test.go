package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
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

const asProgram = "SLUICE_TEST_AS_PROGRAM"

// TestMain fixes the zone in which status prints times.
// Under asProgram the test's binary is the program, for a test that needs it in a
// process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
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

	explain func(control.Question) (control.Explanation, error)
	trace   func(control.TraceQuestion) ([]control.Traced, error)
	capture func(context.Context, control.CaptureQuestion, func() error, io.Writer) error
	config  string // in force

	services []control.Service

	events   []control.FlowEvent
	pools    control.Pools
	mappings []control.Mapping
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

func (g *fake) Explain(q control.Question) (control.Explanation, error) { return g.explain(q) }

func (g *fake) Capture(ctx context.Context, q control.CaptureQuestion, begun func() error, out io.Writer) error {
	return g.capture(ctx, q, begun, out)
}

func (g *fake) Trace(_ context.Context, q control.TraceQuestion, begun func() error, yield func(*control.Traced) error) error {
	list, err := []control.Traced(nil), error(nil)
	if g.trace != nil {
		list, err = g.trace(q)
	}
	if err != nil {
		return err
	}
	if err := begun(); err != nil {
		return err
	}
	for i := range list {
		if err := yield(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *fake) Config() (control.ConfigText, error) {
	return control.ConfigText{Path: "in-force.yaml", Text: g.config}, nil
}

func (g *fake) Reload(context.Context) (control.ReloadResult, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reload()
}

// serve answers for g and returns the socket.
func serve(t *testing.T, g *fake) string {
	t.Helper()
	socket, _ := serveUntil(t, g)
	return socket
}

// serveUntil is serve, of a daemon that can go away before the test ends.
func serveUntil(t *testing.T, g *fake) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
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
	return socket, cancel
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
		{"config migrat", "did you mean migrate?"},
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
	for _, args := range []string{"status", "reload", "flows list", "flows count", "flows watch", "flows flush --all", "nat pools", "nat list", "nat who 192.0.2.1:1", "top --once", "drops", "drops --watch", "status -o json"} {
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
	for _, name := range []string{"run", "check", "reload", "detach", "status", "flows", "nat", "explain", "trace", "capture", "drops", "top", "services", "backend", "config", "lab", "version", "completion"} {
		if !strings.Contains(out, "\n  "+name+" ") {
			t.Errorf("%s is not in the help", name)
		}
	}
	for _, name := range []string{"example", "show", "diff", "schema", "migrate"} {
		if _, out, _ := sluice(t, "config", "--help"); !strings.Contains(out, "\n  "+name+" ") {
			t.Errorf("config %s is not in the help:\n%s", name, out)
		}
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
	good, bad := file(t, goodConfig), file(t, goodConfig+"hairpin: yes\ndriver: dpdk\n")
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
	bad := file(t, goodConfig+"driver: dpdk\n")
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
