package attack

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// patience is for what takes milliseconds on an idle machine.
const patience = 60 * time.Second

// oneToOne is the external address that client2 has for itself.
const oneToOne = "198.51.100.50"

// sourceLimit is how many flows an inside host may have.
const sourceLimit = 8000

// asServer has the test's program be a server instead: see TestMain.
const asServer = "SLUICE_ATTACK_SERVER"

func TestMain(m *testing.M) {
	if at := os.Getenv(asServer); at != "" {
		if err := serve(at); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// files is how many files a process may have open, once the limit is as high as it
// goes: n is asked for, which root may have where it is not confined.
func files(t *testing.T, n uint64) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: max(n, limit.Max)}) == nil {
		limit.Cur = n
	}
	return int(min(limit.Cur, n))
}

// rig is the lab with a gateway and a server process.
type rig struct {
	*testing.T
	*lab.Topology
	client *control.Client
	daemon *exec.Cmd
}

func newRig(t *testing.T, maxFlows int) *rig {
	t.Helper()
	lab.RequireRoot(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "sluice")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	socket := filepath.Join(dir, "control.sock")
	r := &rig{T: t, Topology: lab.Start(t, lab.Options{}), client: control.NewClient(socket)}
	text := strings.Replace(lab.Config(socket), "masquerade:\n", fmt.Sprintf("masquerade:\n  max-flows-per-source: %d\n", sourceLimit), 1)
	text += fmt.Sprintf("conntrack: {max-flows: %d}\nport-forwards:\n  - {external: auto:8080, to: %s:80}\n  - {external: %s, to: %s}\n",
		maxFlows, lab.Client1Address, oneToOne, lab.Client2Address)
	config := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	notify := filepath.Join(dir, "notify.sock")
	ready := r.listen(notify)
	var log bytes.Buffer
	r.daemon = exec.Command(program, "run", "--config", config, "--detach-on-exit")
	r.daemon.Env, r.daemon.Stderr = append(os.Environ(), "NOTIFY_SOCKET="+notify), &log
	r.start(r.Gateway, r.daemon, ready, func() string { return log.String() })
	return r
}

func (r *rig) listen(notify string) *net.UnixConn {
	r.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		r.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		r.Fatal(err)
	}
	return c
}

// start runs a program in a namespace until the test ends, and returns when it says
// that it is ready.
func (r *rig) start(n *lab.Namespace, cmd *exec.Cmd, ready *net.UnixConn, log func() string) {
	r.Helper()
	defer ready.Close()
	child, err := n.Spawn(cmd)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			r.Error(err)
		}
		<-child.Done
		if r.Failed() {
			r.Logf("%s: %v\n%s", cmd.Path, child.Err, log())
		}
	})
	if err := lab.ReadReady(ready); err != nil {
		r.Fatalf("%s: %v\n%s", cmd.Path, err, log())
	}
}

// serveMany starts the process that answers connections on server1: of ten thousand
// each end takes a descriptor, and one process need not have twenty thousand.
func (r *rig) serveMany() {
	r.Helper()
	notify := filepath.Join(r.TempDir(), "notify.sock")
	ready := r.listen(notify)
	cmd := exec.Command(os.Args[0])
	var log bytes.Buffer
	cmd.Env, cmd.Stderr = append(os.Environ(), asServer+"="+lab.Server1Address+port, "NOTIFY_SOCKET="+notify), &log
	r.start(r.Server1, cmd, ready, func() string { return log.String() })
}

// eventually asks again until f has nothing to object: counters are published
// several times a second.
func (r *rig) eventually(what string, f func() error) {
	r.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("%s: %v", what, err)
		}
	}
}

// dropped is how many packets were dropped for a reason.
func (r *rig) dropped(reason string) uint64 {
	r.Helper()
	all, err := r.client.Drops(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	for _, d := range all.Reasons {
		if d.Reason == reason {
			return d.Packets
		}
	}
	return 0
}
