package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sluice/internal/lab"
)

// child is `sluice run` in a namespace.
type child struct {
	*lab.Child
	log *os.File
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
	cmd := exec.Command(binary, "run", "--config", file, "--detach-on-exit")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	cmd.Stdout, cmd.Stderr = log, log
	started, err := ns.Spawn(cmd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bench: start %s: %w", binary, err), log.Close())
	}
	c := &child{started, log}
	if err := c.awaitReady(ctx, notify); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *child) awaitReady(ctx context.Context, notify *net.UnixConn) error {
	ready := make(chan error, 1)
	go func() { ready <- lab.ReadReady(notify) }()
	timer := time.NewTimer(childReady)
	defer timer.Stop()
	select {
	case err := <-ready:
		return err
	case <-c.Done:
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

func (c *child) pid() int { return c.Cmd.Process.Pid }

// stop ends it with SIGTERM.
func (c *child) stop() error {
	defer c.log.Close()
	// An error means that it has ended already, which Wait tells.
	_ = c.Cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(childStop)
	defer timer.Stop()
	select {
	case <-c.Done:
	case <-timer.C:
		_ = c.Cmd.Process.Kill()
		<-c.Done
	}
	if c.Err != nil {
		return fmt.Errorf("bench: the gateway ended badly: %w: %s", c.Err, c.lastWords())
	}
	return nil
}
