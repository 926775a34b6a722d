package lab

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

// TB is what this package needs of a *testing.T or *testing.B. It is spelled out
// so that the program, which links this package, does not link testing.
type TB interface {
	Helper()
	Name() string
	Skip(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Error(args ...any)
	Cleanup(func())
}

// RequireRoot skips a test that needs network namespaces where there is no
// privilege to make any. Under CI=true it fails instead: nothing may be left
// out there. On first use it removes what dead runs left, and has SIGINT and
// SIGTERM remove what this one makes before they end it.
//
// The file named by SLUICE_LEFT_OUT, if any, gets the name of a skipped test.
func RequireRoot(t TB) {
	t.Helper()
	if err := privileged(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; under CI=true no test may be left out", err)
		}
		noteLeftOut(t.Name())
		t.Skip(err)
	}
}

// RequireProgram returns the path of a program that a test needs. Where it is not
// installed the test is skipped, and under CI=true fails.
func RequireProgram(t TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed (apt-get install %s); under CI=true no test may be left out", name, debianPackage)
		}
		noteLeftOut(t.Name())
		t.Skip(name + " is not installed: apt-get install " + debianPackage)
	}
	return path
}

var privileged = sync.OnceValue(func() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("lab: not root: run as root")
	}
	if err := Sweep(); err != nil {
		return err
	}
	ns, err := NewNamespace("probe")
	if err != nil {
		return err
	}
	CleanOnSignal()
	return ns.Close()
})

func noteLeftOut(name string) {
	path := os.Getenv("SLUICE_LEFT_OUT")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, name)
}

// CleanOnSignal has SIGINT and SIGTERM remove every namespace of this process
// and then end it. A program that shuts down in an order of its own does not
// call it.
func CleanOnSignal() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		sig := <-ch
		closeAll()
		signal.Reset(sig)
		syscall.Kill(os.Getpid(), sig.(syscall.Signal))
	}()
}

// Start builds the topology for a test, and at its end fails it if a frame
// broke the checker's invariant, and removes everything.
func Start(t TB, o Options) *Topology {
	t.Helper()
	RequireRoot(t)
	top, err := Up(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := top.Close(); err != nil {
			t.Error(err)
		}
	})
	return top
}
