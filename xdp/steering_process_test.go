package xdp

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/lab"
)

// TestMissingCapability: a process without privileges is told which it needs.
func TestMissingCapability(t *testing.T) {
	lab.RequireRoot(t)
	out, err := child(t, "TestChildLoads", func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if s := string(out); !strings.Contains(s, "eth7: bpf(") || !strings.Contains(s, "CAP_BPF") {
		t.Errorf("%s", out)
	}
}

// TestChildLoads is the unprivileged process of TestMissingCapability.
func TestChildLoads(t *testing.T) {
	if !isChild() {
		return
	}
	_, err := LoadSteering(SteeringConfig{Workers: 1, Ports: []SteeringPort{{NIC: &NIC{Name: "eth7"}, Queues: 1}}})
	if err == nil {
		t.Fatal("loaded without a privilege")
	}
	os.Stdout.WriteString(err.Error() + "\n")
}

const childVariable = "SLUICE_STEERING_CHILD"

// child is a process that runs one test of this binary, which does nothing
// but there.
func child(t *testing.T, name string, prepare func(*exec.Cmd)) *exec.Cmd {
	t.Helper()
	// The binary is in a directory of root's.
	binary := filepath.Join(os.TempDir(), filepath.Base(t.TempDir())+".child")
	copyExecutable(t, binary)
	t.Cleanup(func() { os.Remove(binary) })
	cmd := exec.Command(binary, "-test.run=^"+name+"$", "-test.timeout=30s")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childVariable+"=1")
	prepare(cmd)
	return cmd
}

// isChild is false where such a test runs with all others, where it is nothing.
func isChild() bool { return os.Getenv(childVariable) != "" }

func copyExecutable(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestKilledProcess: after kill -9 the program stays, and drops what was for
// the workers while the host's traffic goes on.
func TestKilledProcess(t *testing.T) {
	g := newGateway(t, 1)
	cmd := child(t, "TestChildSteers", func(*exec.Cmd) {})
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(cmd); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("steering\n"))
	if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "steering\n" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("%q, %v", ready, err)
	}
	// While it lives, frames go to its socket.
	before, _ := g.program(t)
	orphan := &pinnedProgram{t: t, g: g}
	orphan.open()
	orphan.expect("routed, alive", tcp(routedTo), verdictRedirect)
	orphan.expect("held, alive", tcp(at(sharedAddress, heldTCP)), verdictRedirect)

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if after, _ := g.program(t); after == 0 || after != before {
		t.Fatalf("program %d is on the NIC, was %d", after, before)
	}
	orphan.expect("routed, dead", tcp(routedTo), verdictDrop)
	orphan.expect("held, dead", tcp(at(sharedAddress, heldTCP)), verdictDrop)
	orphan.expect("host, dead", tcp(at(sharedAddress, 22)), verdictPass)
}

var routedTo = at(steeringRoutes[0].Prefix.Addr().Next(), 80)

// TestChildSteers is the process that TestKilledProcess kills.
func TestChildSteers(t *testing.T) {
	if !isChild() {
		return
	}
	nic, err := Probe("gw0")
	must(err)
	s, err := LoadSteering(SteeringConfig{Workers: 1, StaleAfter: time.Hour, Ports: []SteeringPort{{NIC: nic, Queues: 1}}})
	must(err)
	w := &world{Steering: s, t: t}
	w.fill()
	w.beat(0, 0)
	w.plug(0, 0)
	must(s.Attach(0))
	requirePinned(t, s)
	os.Stdout.WriteString("steering\n")
	select {} // until killed
}
