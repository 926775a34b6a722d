package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/lab"
)

// built holds the program for all tests of this package.
var built struct {
	sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// program builds sluice, once.
func program(t *testing.T) string {
	t.Helper()
	lab.RequireRoot(t)
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sluice-demo-test-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "sluice")
		out, err := exec.Command("go", "build", "-o", built.path, "sluice/cmd/sluice").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("build sluice: %v", built.err)
	}
	return built.path
}

// labCommand is `sluice lab …` as a process of its own, whose output is read line by
// line.
type labCommand struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	text  bytes.Buffer
	errs  bytes.Buffer
}

func startLab(t *testing.T, args ...string) *labCommand {
	t.Helper()
	c := &labCommand{cmd: exec.Command(program(t), append([]string{"lab"}, args...)...)}
	c.cmd.Stderr = &c.errs
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
	return c
}

// await reads until a line contains text.
func (c *labCommand) await(t *testing.T, text string) {
	t.Helper()
	for c.lines.Scan() {
		c.text.WriteString(c.lines.Text() + "\n")
		if strings.Contains(c.lines.Text(), text) {
			return
		}
	}
	t.Fatalf("the program did not print %q:\n%s%s", text, c.text.Bytes(), c.errs.Bytes())
}

// wait reads the rest and waits for the end.
func (c *labCommand) wait() error {
	for c.lines.Scan() {
		c.text.WriteString(c.lines.Text() + "\n")
	}
	return c.cmd.Wait()
}

// namespaces lists what is left of the command's lab: those, and its files.
func (c *labCommand) namespaces(t *testing.T) (left []string) {
	t.Helper()
	pid := strconv.Itoa(c.cmd.Process.Pid)
	for _, pattern := range []string{"/run/netns/sluice-" + pid + "-*", "/dev/shm/sluice-" + pid, "/run/sluice-lab/" + pid} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

// TestDemo is `make run`, twice side by side: the whole story over the gateway,
// every check passed, nothing left.
func TestDemo(t *testing.T) {
	one, two := startLab(t, "demo"), startLab(t, "demo")
	var g group
	g.run(one.wait)
	g.run(two.wait)
	err := g.wait()
	t.Logf("\n%s%s", one.text.Bytes(), one.errs.Bytes())
	if err != nil {
		t.Errorf("%v; the other one:\n%s%s", err, two.text.Bytes(), two.errs.Bytes())
	}
	for _, c := range []*labCommand{one, two} {
		if left := c.namespaces(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestDemoInterrupted ends it in the middle, once in order and once not.
func TestDemoInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		c := startLab(t, "demo")
		c.await(t, "host session opens, outbound")
		gateways := children(t, c.cmd.Process.Pid)
		if len(gateways) != 1 {
			t.Fatalf("the demo has child processes %v, want the gateway alone", gateways)
		}
		c.cmd.Process.Signal(sig)
		if err := c.wait(); err == nil {
			t.Errorf("%v: the demo exited 0", sig)
		}
		if sig == syscall.SIGKILL {
			if len(c.namespaces(t)) == 0 {
				t.Error("nothing left to sweep after SIGKILL")
			}
			if err := lab.Sweep(); err != nil {
				t.Error(err)
			}
		}
		if left := c.namespaces(t); len(left) > 0 {
			t.Errorf("%v left %v", sig, left)
		}
		awaitEnd(t, gateways[0])
	}
}

// TestUpAndDown keeps a lab up, uses it, and takes it down from outside.
func TestUpAndDown(t *testing.T) {
	c := startLab(t, "up")
	c.await(t, "lab down")
	if len(c.namespaces(t)) == 0 {
		t.Fatal("the lab is up and has no namespaces")
	}
	var out strings.Builder
	if err := Down(t.Context(), Options{Out: &out}); err != nil {
		t.Error(err)
	}
	// Others may have had a lab up, too.
	if want := "removed sluice-" + strconv.Itoa(c.cmd.Process.Pid) + "-*\n"; !strings.Contains(out.String(), want) {
		t.Errorf("down printed %q, want %q", out.String(), want)
	}
	if left := c.namespaces(t); len(left) > 0 {
		t.Errorf("down left %v", left)
	}
	if err := c.wait(); err != nil {
		t.Errorf("the lab that was taken down: %v\n%s", err, c.errs.Bytes())
	}
}

// TestGatewayThatDoesNotStart reports what the program said.
func TestGatewayThatDoesNotStart(t *testing.T) {
	lab.RequireRoot(t)
	var out strings.Builder
	err := Run(t.Context(), Options{Binary: "/bin/false", Out: &out})
	if err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Errorf("a gateway that ends at once: %v", err)
	}
	script := filepath.Join(t.TempDir(), "mute")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho cannot do this >&2\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = Run(ctx, Options{Binary: script, Out: &out})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cannot do this") {
		t.Errorf("a gateway that is never ready: %v", err)
	}
}

// children are the child processes of pid.
func children(t *testing.T, pid int) (found []int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, child)
		}
	}
	return found
}

// awaitEnd waits until a process that is not ours to wait for has ended.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(stopTimeout)
	for time.Now().Before(deadline) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d outlived the demo", pid)
}
