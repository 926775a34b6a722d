package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFlowsBrokenListing: a listing that breaks must not look complete.
func TestFlowsBrokenListing(t *testing.T) {
	c, _ := serve(t, &scripted{flows: 3, broken: errors.New("the table moved")})
	n := 0
	err := c.Flows(t.Context(), Filter{}, func(Flow) error { n++; return nil })
	if n != 3 || err == nil || err.Error() != "the table moved" {
		t.Errorf("%d flows, error %v", n, err)
	}
}

// TestFlowsStopWithTheClient: a client that goes away ends the walk.
func TestFlowsStopWithTheClient(t *testing.T) {
	g := &scripted{flows: 100_000_000, finished: make(chan error, 1)}
	c, _ := serve(t, g)
	enough := errors.New("enough")
	if err := c.Flows(t.Context(), Filter{}, func(Flow) error { return enough }); err != enough {
		t.Fatalf("got %v", err)
	}
	select {
	case err := <-g.finished:
		if err == nil {
			t.Error("the walk ended as if it were complete")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the walk went on without a client")
	}
	if n := g.yielded.Load(); n > 1_000_000 {
		t.Errorf("%d flows were produced for a client that read one", n)
	}
}

// TestFlowsStopWithTheDaemon: the daemon does not wait for a listing to end.
func TestFlowsStopWithTheDaemon(t *testing.T) {
	g := &scripted{flows: 1 << 40, finished: make(chan error, 1)}
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- NewServer(g, Version{}, slog.New(slog.DiscardHandler)).Serve(ctx, l)
	}()
	n := 0
	err = NewClient(path).Flows(t.Context(), Filter{}, func(Flow) error {
		if n++; n == 1000 {
			cancel()
		}
		return nil
	})
	if err == nil {
		t.Error("a listing that was cut looks complete")
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server waits for a listing")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestClientSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{filepath.Join(dir, "none"), stale} {
		_, err := NewClient(path).Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no daemon answers at "+path) || !strings.Contains(err.Error(), "start it with") {
			t.Errorf("%s: %v", path, err)
		}
	}
	err = NewClient("/x").explain(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if !strings.Contains(err.Error(), "sudo") {
		t.Errorf("permission denied without a remedy: %v", err)
	}
}

// TestClientDaemonDies: a daemon that dies in the middle of a listing.
func TestClientDaemonDies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	}()
	err = NewClient(path).Flows(t.Context(), Filter{}, func(Flow) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("a cut listing gave %v", err)
	}
}
