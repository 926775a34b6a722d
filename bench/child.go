package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"sluice/internal/lab"
)

// child is `sluice run` in a namespace.
type child struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error // how it ended; after done
}

const (
	childReady = 30 * time.Second
	childStop  = 10 * time.Second
)

// startChild starts the gateway with a configuration and returns when it
// forwards. Its files are dir/name.*.
func startChild(ctx context.Context, ns *lab.Namespace, binary, dir, name, config string) (*child, error) {
	file := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	path := filepath.Join(dir, name+".notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bench: %w", err), log.Close())
	}
	defer notify.Close()
	c := &child{cmd: exec.Command(binary, "run", "--config", file, "--detach-on-exit"), log: log, done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	// It ends in order with us, also on ^C, and at once should we be killed.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.start(ns); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: start %s: %w", binary, err), log.Close())
	}
	if err := c.awaitReady(ctx, notify); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// start forks from a thread that lives as long as the child: Pdeathsig comes
// when the thread that forked ends.
func (c *child) start(ns *lab.Namespace) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := ns.Start(c.cmd)
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	return <-started
}

func (c *child) awaitReady(ctx context.Context, notify *net.UnixConn) error {
	ready := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil || strings.Contains("\n"+string(buf[:n])+"\n", "\nREADY=1\n") {
				ready <- err
				return
			}
		}
	}()
	timer := time.NewTimer(childReady)
	defer timer.Stop()
	select {
	case err := <-ready:
		return err
	case <-c.done:
		return fmt.Errorf("bench: the gateway ended before it was ready: %s", c.lastWords())
	case <-timer.C:
		return fmt.Errorf("bench: the gateway was not ready within %v: %s", childReady, c.lastWords())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lastWords is the last line of the log.
func (c *child) lastWords() string {
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends it with SIGTERM.
func (c *child) stop() error {
	defer c.log.Close()
	// An error means that it has ended already, which Wait tells.
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(childStop)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	if c.err != nil {
		return fmt.Errorf("bench: the gateway ended badly: %w: %s", c.err, c.lastWords())
	}
	return nil
}
