package daemon

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

const restartFlows = 1000 // of TCP, and of UDP

// upgrade is the release of the other build.
const upgrade = "v0.0.0-upgrade"

// restartLab is the lab with a daemon whose flows outlive it.
type restartLab struct {
	*lab.Topology
	*testing.T
	program, upgraded, config, state, dir string
	client                                *control.Client
	daemon                                *exec.Cmd
	log                                   *bytes.Buffer
}

func newRestartLab(t *testing.T) *restartLab {
	t.Helper()
	lab.RequireRoot(t)
	dir := t.TempDir()
	l := &restartLab{T: t, dir: dir, config: filepath.Join(dir, "sluice.yaml")}
	l.program, l.upgraded = built(t, ""), built(t, upgrade)
	var err error
	if l.Topology, err = lab.Up(lab.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Topology.Close(); err != nil {
			t.Error(err)
		}
	})
	// On a tmpfs, as it should be.
	scratch, err := lab.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	l.state = filepath.Join(scratch, "flows")
	socket := filepath.Join(dir, "control.sock")
	l.client = control.NewClient(socket)
	if err := os.WriteFile(l.config, []byte(lab.PersistentConfig(socket, l.state)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.remove)
	return l
}

// start runs the daemon in the gateway's namespace and returns when it forwards,
// with the time that this took.
func (l *restartLab) start() time.Duration {
	l.Helper()
	path := filepath.Join(l.dir, "notify.sock")
	os.Remove(path)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		l.Fatal(err)
	}
	defer ready.Close()
	l.log = &bytes.Buffer{}
	l.daemon = exec.Command(l.program, "run", "--config", l.config, "--log-level", "debug")
	l.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	l.daemon.Stderr = l.log
	began := time.Now()
	if err := l.Gateway.Start(l.daemon); err != nil {
		l.Fatal(err)
	}
	if err := ready.SetReadDeadline(began.Add(20 * time.Second)); err != nil {
		l.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 256)); err != nil {
		l.daemon.Process.Kill()
		l.daemon.Wait()
		l.Fatalf("the daemon was not ready: %v\n%s", err, l.log)
	}
	return time.Since(began)
}

// stop ends the daemon with a signal and returns what it logged.
func (l *restartLab) stop(s syscall.Signal) string {
	l.Helper()
	if err := l.daemon.Process.Signal(s); err != nil {
		l.Fatal(err)
	}
	if err := l.daemon.Wait(); err != nil && s != syscall.SIGKILL {
		l.Errorf("the daemon ended badly: %v\n%s", err, l.log)
	}
	l.daemon = nil
	return l.log.String()
}

// remove ends the daemon, if it runs, and takes its program off.
func (l *restartLab) remove() {
	if l.daemon != nil {
		l.daemon.Process.Kill()
		l.daemon.Wait()
		l.Logf("the last daemon:\n%s", l.log)
	}
	if out, err := l.Gateway.Exec(l.program, "detach", "--config", l.config); err != nil {
		l.Errorf("detach: %v\n%s", err, out)
	}
}

func (l *restartLab) status() control.Status {
	l.Helper()
	s, err := l.client.Status(context.Background())
	if err != nil {
		l.Fatal(err)
	}
	return s
}

// Connections outlive the daemon, killed, stopped or replaced by another build,
// with their external ports; only one daemon has the flows at a time.
func TestFlowsOutliveTheDaemon(t *testing.T) {
	l := newRestartLab(t)
	l.Logf("first start: ready after %v", l.start().Round(time.Millisecond))
	if s := l.status().StateFile; s != (control.StateFile{Path: l.state, Tmpfs: true, Start: "started empty"}) {
		t.Errorf("state %+v", s)
	}
	l.serveTalks(l.Server1)
	var running sync.WaitGroup
	stop := make(chan struct{})
	tcp, tcpQuiet := l.open("tcp4", restartFlows, stop, &running)
	udp, udpQuiet := l.open("udp4", restartFlows, stop, &running)
	flows := append(append([]*talk(nil), tcp...), udp...)
	l.awaitAnswers(flows, 2)
	l.refuseSecond()

	for _, how := range []struct {
		name    string
		signal  syscall.Signal
		start   string
		release string // of the build that comes after; "" = as before
	}{
		{"kill -9", syscall.SIGKILL, "after a crash", ""},
		{"restart", syscall.SIGTERM, "after an orderly stop", ""},
		{"upgrade", syscall.SIGTERM, "after an orderly stop", upgrade},
		{"kill -9 of the upgraded one", syscall.SIGKILL, "after a crash", ""},
	} {
		if how.release != "" {
			l.program = l.upgraded
		}
		tcpQuiet.take()
		udpQuiet.take()
		log := l.stop(how.signal)
		if how.signal == syscall.SIGTERM && (!strings.Contains(log, "on-failure: drop") ||
			!strings.Contains(log, fmt.Sprintf("%d flows stay in %s", len(flows), l.state))) {
			t.Errorf("%s: its last words do not say what stays:\n%s", how.name, log)
		}
		ready := l.start()
		l.awaitAnswers(flows, 2)
		gapUDP, gapTCP := udpQuiet.take(), tcpQuiet.take()
		t.Logf("%s: ready again after %v; %d UDP flows heard nothing for %v, %d TCP connections, which retransmit ever later, for %v",
			how.name, ready.Round(time.Millisecond), len(udp), gapUDP, len(tcp), gapTCP)
		s := l.status()
		if s.StateFile.Adopted < len(flows) || s.StateFile.Dropped > 0 || !strings.Contains(s.StateFile.Start, how.start) {
			t.Errorf("%s: state %+v", how.name, s.StateFile)
		}
		if how.release != "" && s.Version.Version != how.release {
			t.Errorf("%s: the version is still %s", how.name, s.Version.Version)
		}
	}
	close(stop)
	running.Wait()
	l.judge(flows)
	if r := l.Checker.Close(); r.Err() != nil {
		t.Error(r.Err())
	}
}

// judge holds every flow to have lived, and to have had an external port that no
// other of its protocol had.
func (l *restartLab) judge(flows []*talk) {
	l.Helper()
	type port struct {
		network  string
		external netip.AddrPort
	}
	ports := map[port]bool{}
	for i, f := range flows {
		p := port{f.conn.LocalAddr().Network(), f.external}
		switch {
		case f.err != nil:
			l.Errorf("flow %d (%s): %v", i, p.network, f.err)
		case p.external.Addr().String() != lab.GatewayOutside:
			l.Errorf("flow %d (%s) came from %v", i, p.network, p.external)
		case ports[p]:
			l.Errorf("two flows came from %v over %s", p.external, p.network)
		}
		ports[p] = true
	}
}

// refuseSecond starts a second daemon over the same state file.
func (l *restartLab) refuseSecond() {
	l.Helper()
	text, err := os.ReadFile(l.config)
	if err != nil {
		l.Fatal(err)
	}
	second := filepath.Join(l.dir, "second.yaml")
	text = bytes.Replace(text, []byte("control.sock"), []byte("second.sock"), 1)
	if err := os.WriteFile(second, text, 0o600); err != nil {
		l.Fatal(err)
	}
	out, err := l.Gateway.Exec(l.program, "run", "--config", second)
	want := fmt.Sprintf("%s is in use by process %d", l.state, l.daemon.Process.Pid)
	if err == nil || !strings.Contains(string(out)+err.Error(), want) {
		l.Errorf("a second daemon: %v\n%s", err, out)
	}
}
