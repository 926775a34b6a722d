package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// TestIPMasqAgentLab changes an ip-masq-agent file under a running gateway: a
// change is in force within moments, a broken file changes nothing and is
// reported until it is mended.
func TestIPMasqAgentLab(t *testing.T) {
	lab.RequireRoot(t)
	dir := t.TempDir()
	program := built(t, "")
	top, err := lab.Up(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := top.Close(); err != nil {
			t.Error(err)
		}
	})
	agent, file, socket := filepath.Join(dir, "agent"), filepath.Join(dir, "sluice.yaml"), filepath.Join(dir, "control.sock")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(agent+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(agent+".new", agent); err != nil {
			t.Fatal(err)
		}
	}
	say("nonMasqueradeCIDRs: [192.0.2.0/24]\n")
	text := strings.Replace(lab.Config(socket), "masquerade:\n", "masquerade:\n  ip-masq-agent-config: "+agent+"\n", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &puntLab{Topology: top, t: t, client: control.NewClient(socket)}
	l.start(program, file, filepath.Join(dir, "notify.sock"))

	const src, dst = lab.Client1Address + ":40000", lab.Server1Address + ":9"
	l.explain(src, dst, "masquerade to "+lab.GatewayOutside+":40000")
	say("nonMasqueradeCIDRs: [198.51.100.0/24]\n")
	l.await("the change is in force", func() bool { return l.verdict(src, dst) == "forward" })
	if l.agentProblem() != "" {
		t.Errorf("degraded: %s", l.agentProblem())
	}
	say("nonMasqueradeCIDRs: [ten]\n")
	l.await("the broken file is reported", func() bool { return strings.Contains(l.agentProblem(), "is not a prefix") })
	l.explain(src, dst, "forward")
	say("nonMasqueradeCIDRs: []\n")
	l.await("the mended file is in force", func() bool {
		return l.agentProblem() == "" && l.verdict(src, dst) == "masquerade to "+lab.GatewayOutside+":40000"
	})
}

func (l *puntLab) await(what string, done func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// verdict asks about a UDP packet.
func (l *puntLab) verdict(src, dst string) string {
	l.t.Helper()
	e, err := l.client.Explain(l.t.Context(), udpQuestion(src, dst))
	if err != nil {
		l.t.Fatal(err)
	}
	return e.Verdict
}

// agentProblem is what status says about the ip-masq-agent file.
func (l *puntLab) agentProblem() string {
	l.t.Helper()
	s, err := l.client.Status(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, d := range s.Degraded {
		if strings.Contains(d.What, "ip-masq-agent") {
			return d.What
		}
	}
	return ""
}
