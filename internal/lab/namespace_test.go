package lab

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair is two hosts on one cable, 10.0.0.1 and 10.0.0.2.
func pair(t *testing.T, o VethOptions) (a, b *Namespace) {
	t.Helper()
	RequireRoot(t)
	a, b = newNamespace(t, "a"), newNamespace(t, "b")
	for _, err := range []error{
		Veth(a, "eth0", b, "eth0", o),
		a.AddAddress("eth0", "10.0.0.1/24"),
		b.AddAddress("eth0", "10.0.0.2/24"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func newNamespace(t *testing.T, name string) *Namespace {
	t.Helper()
	n, err := NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// TestVethCarriesTCP sends a line over a new cable: both ends must be usable at
// the moment Veth returns, without a retry.
func TestVethCarriesTCP(t *testing.T) {
	a, b := pair(t, VethOptions{Queues: 2})
	var ln net.Listener
	if err := b.Do(func() (err error) { ln, err = net.Listen("tcp", "10.0.0.2:7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	var c net.Conn
	if err := a.Do(func() (err error) { c, err = net.DialTimeout("tcp", "10.0.0.2:7", 5*time.Second); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello\n"))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "hello\n" {
		t.Fatalf("echo: %q, %v", line, err)
	}
}

func TestNamespaceDefaults(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	a, _ := pair(t, VethOptions{Queues: 3, MTU: 1400, MACA: mac})
	link, err := a.link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	attrs := link.Attrs()
	if attrs.NumRxQueues != 3 || attrs.NumTxQueues != 3 || attrs.MTU != 1400 || attrs.HardwareAddr.String() != mac.String() {
		t.Errorf("veth: %d/%d queues, MTU %d, MAC %s", attrs.NumRxQueues, attrs.NumTxQueues, attrs.MTU, attrs.HardwareAddr)
	}
	a.Do(func() error {
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(b)) != "0" {
			t.Errorf("ip_forward: %q, %v; want 0", b, err)
		}
		ifs, err := net.Interfaces()
		if err != nil || len(ifs) != 2 {
			t.Errorf("interfaces inside: %v, %v; want lo and eth0", ifs, err)
		}
		return nil
	})
}

// TestDoReturnsToItsNamespace checks the way back: after an error, after a
// panic, and out of a nested Do.
func TestDoReturnsToItsNamespace(t *testing.T) {
	a, b := pair(t, VethOptions{})
	outside := inode(t)
	boom := errors.New("boom")
	if err := a.Do(func() error {
		inA := inode(t)
		b.Do(func() error {
			if inode(t) == inA {
				t.Error("nested Do stayed in the outer namespace")
			}
			return nil
		})
		if inode(t) != inA {
			t.Error("nested Do did not come back")
		}
		return boom
	}); !errors.Is(err, boom) {
		t.Errorf("Do returned %v, want %v", err, boom)
	}
	func() {
		defer func() { recover() }()
		a.Do(func() error { panic(boom) })
	}()
	if inode(t) != outside {
		t.Error("Do left its goroutine inside after a panic")
	}
}

func inode(t *testing.T) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/thread-self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestCloseRemovesTheName(t *testing.T) {
	RequireRoot(t)
	n := newNamespace(t, "gone")
	twin := newNamespace(t, "gone")
	if n.Name() == twin.Name() {
		t.Fatalf("two namespaces are called %s", n.Name())
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(n.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after Close: %v", n.Path(), err)
	}
	if _, err := os.Stat(twin.Path()); err != nil {
		t.Errorf("closing one took the other: %v", err)
	}
}

// runEnv makes the test binary a second run: it makes a namespace, prints its
// path and stays.
const (
	runEnv   = "SLUICE_LAB_TEST_RUN"
	runTitle = "a test of the lab"
)

func TestMain(m *testing.M) {
	if os.Getenv(runEnv) != "" {
		n, err := NewNamespace("other")
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
		scratch, err := Scratch()
		if err := errors.Join(err, SetTitle(runTitle)); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		CleanOnSignal()
		if err := os.WriteFile(filepath.Join(scratch, "flows"), nil, 0o600); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Stdout.WriteString(n.Path() + "\n")
		select {}
	}
	os.Exit(m.Run())
}

func otherRun(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), runEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	path, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the other run said nothing: %v", err)
	}
	return cmd, strings.TrimSpace(path)
}

// TestSweep is the life of a second run: at work it is left alone, killed it is
// swept away.
func TestSweep(t *testing.T) {
	RequireRoot(t)
	cmd, path := otherRun(t)
	mine := newNamespace(t, "mine")
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("Sweep took the namespace of a run at work: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("nothing left to sweep after SIGKILL: %v", err)
	}
	scratch := scratchOf(cmd.Process.Pid)
	if _, err := os.Stat(scratch); err != nil {
		t.Fatalf("nothing left to sweep after SIGKILL: %v", err)
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Sweep left %s of a dead run: %v", path, err)
	}
	if _, err := os.Stat(scratch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Sweep left %s of a dead run: %v", scratch, err)
	}
	if _, err := os.Stat(mine.Path()); err != nil {
		t.Errorf("Sweep took one of our own: %v", err)
	}
}

func TestSignalsRemoveEverything(t *testing.T) {
	RequireRoot(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd, path := otherRun(t)
		cmd.Process.Signal(sig)
		cmd.Wait()
		if st := cmd.ProcessState.Sys().(syscall.WaitStatus); st.Signal() != sig {
			t.Errorf("ended by %v, want %v", st, sig)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v left %s: %v", sig, path, err)
		}
		if scratch := scratchOf(cmd.Process.Pid); !errors.Is(statError(scratch), os.ErrNotExist) {
			t.Errorf("%v left %s", sig, scratch)
		}
	}
}

func statError(path string) error {
	_, err := os.Stat(path)
	return err
}

// TestRunsAndStop lists the second run by its title and has it end.
func TestRunsAndStop(t *testing.T) {
	RequireRoot(t)
	cmd, path := otherRun(t)
	runs, err := Runs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.Index(runs, Run{cmd.Process.Pid, runTitle})
	if i < 0 {
		t.Fatalf("runs are %v, without process %d", runs, cmd.Process.Pid)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := runs[i].Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stopped run left %s: %v", path, err)
	}
	if err := runs[i].Stop(ctx); err != nil {
		t.Errorf("stopping a run that is over: %v", err)
	}
}

func TestOwner(t *testing.T) {
	for name, want := range map[string]int{
		"sluice-12-gw": 12, "sluice-7-a-b": 7, "sluice-12": 0, "sluice-x-gw": 0,
		"sluice-0-gw": 0, "sluice--1-gw": 0, "other-12-gw": 0, "": 0,
	} {
		pid, ok := owner(name)
		if ok != (want != 0) || ok && pid != want {
			t.Errorf("owner(%q) = %d, %v; want %d", name, pid, ok, want)
		}
	}
}
