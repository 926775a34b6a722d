package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/internal/lab"
)

const (
	readyTimeout = 30 * time.Second // for READY=1; it takes a fraction of a second
	stopTimeout  = 10 * time.Second // from SIGTERM to SIGKILL
)

// process is the gateway, `sluice run`, as a child inside its namespace.
type process struct {
	*lab.Child
	log tail
}

// startGateway starts the gateway and waits until it says READY=1 the way it
// says it to systemd.
func startGateway(ctx context.Context, ns *lab.Namespace, binary, config, notifyPath string) (*process, error) {
	// A socket in the file system reaches across network namespaces; an
	// abstract one would not.
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifyPath, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	defer os.Remove(notifyPath)
	defer notify.Close()
	p := &process{}
	cmd := exec.Command(binary, "run", "--config", config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notifyPath)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if p.Child, err = ns.Spawn(cmd); err != nil {
		return nil, fmt.Errorf("demo: start %s: %w", binary, err)
	}
	if err := p.awaitReady(ctx, notify); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

func (p *process) awaitReady(ctx context.Context, notify *net.UnixConn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout,
		fmt.Errorf("demo: the gateway was not ready within %v", readyTimeout))
	defer cancel()
	ready := make(chan error, 1)
	go func() { ready <- lab.ReadReady(notify) }()
	select {
	case err := <-ready:
		return err
	case <-p.Done:
		return fmt.Errorf("demo: the gateway ended before it was ready (%w):\n%s", p.cause(), p.log.String())
	case <-ctx.Done():
		return fmt.Errorf("%w:\n%s", context.Cause(ctx), p.log.String())
	}
}

// stop ends the gateway with SIGTERM, which it must obey and exit 0. Stopping
// again returns the same.
func (p *process) stop() error {
	select {
	case <-p.Done:
		if p.Err == nil {
			return nil
		}
		return fmt.Errorf("demo: the gateway ended: %w:\n%s", p.Err, p.log.String())
	default:
	}
	p.Cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.Done:
		if p.Err != nil {
			return fmt.Errorf("demo: the gateway ended badly on SIGTERM: %w:\n%s", p.Err, p.log.String())
		}
		return nil
	case <-timer.C:
		p.Cmd.Process.Kill()
		<-p.Done
		return fmt.Errorf("demo: the gateway did not end within %v of SIGTERM:\n%s", stopTimeout, p.log.String())
	}
}

// kill ends the gateway with SIGKILL, against which nothing helps.
func (p *process) kill() {
	p.Cmd.Process.Kill()
	<-p.Done
}

// cause is how an ended process ended, when that it did is the mistake.
func (p *process) cause() error {
	if p.Err == nil {
		return errors.New("exit status 0")
	}
	return p.Err
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailSize = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if extra := t.buf.Len() - tailSize; extra > 0 {
		t.buf.Next(extra)
	}
	return len(b), nil
}

// String is the end of the log, indented.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return "\t" + strings.ReplaceAll(strings.TrimSpace(t.buf.String()), "\n", "\n\t")
}
