package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
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
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
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
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command(binary, "run", "--config", config)
	p.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notifyPath)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // ^C at the terminal is for us: we stop the gateway, in order
		Pdeathsig: syscall.SIGKILL, // and should we be killed, it does not stay behind
	}
	if err := p.start(ns); err != nil {
		return nil, fmt.Errorf("demo: start %s: %w", binary, err)
	}
	if err := p.awaitReady(ctx, notify); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// start starts the child from a thread that stays for as long as the child
// does: the kernel delivers Pdeathsig when the thread that forked ends.
func (p *process) start(ns *lab.Namespace) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := ns.Start(p.cmd)
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	return <-started
}

func (p *process) awaitReady(ctx context.Context, notify *net.UnixConn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout,
		fmt.Errorf("demo: the gateway was not ready within %v", readyTimeout))
	defer cancel()
	ready := make(chan error, 1)
	go func() { ready <- readReady(notify) }()
	select {
	case err := <-ready:
		return err
	case <-p.done:
		return fmt.Errorf("demo: the gateway ended before it was ready (%w):\n%s", p.cause(), p.log.String())
	case <-ctx.Done():
		return fmt.Errorf("%w:\n%s", context.Cause(ctx), p.log.String())
	}
}

// readReady reads notifications until one has the line READY=1. It ends with
// the socket.
func readReady(notify *net.UnixConn) error {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return fmt.Errorf("demo: notify socket: %w", err)
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// stop ends the gateway with SIGTERM, which it must obey and exit 0. Stopping
// again returns the same.
func (p *process) stop() error {
	select {
	case <-p.done:
		if p.err == nil {
			return nil
		}
		return fmt.Errorf("demo: the gateway ended: %w:\n%s", p.err, p.log.String())
	default:
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("demo: the gateway ended badly on SIGTERM: %w:\n%s", p.err, p.log.String())
		}
		return nil
	case <-timer.C:
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("demo: the gateway did not end within %v of SIGTERM:\n%s", stopTimeout, p.log.String())
	}
}

// kill ends the gateway with SIGKILL, against which nothing helps.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// cause is how an ended process ended, when that it did is the mistake.
func (p *process) cause() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
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
