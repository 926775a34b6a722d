package lab

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// Child is a program that runs inside a namespace. It is killed should this
// process die, and does not hear the terminal's ^C: who started it ends it.
type Child struct {
	Cmd  *exec.Cmd
	Done chan struct{} // closed when it has ended
	Err  error         // how it ended; read after Done
}

// Spawn starts cmd inside the namespace.
func (n *Namespace) Spawn(cmd *exec.Cmd) (*Child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c := &Child{Cmd: cmd, Done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel delivers Pdeathsig when the thread that forked ends: this
		// one stays for as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := n.Start(cmd)
		started <- err
		if err == nil {
			c.Err = cmd.Wait()
			close(c.Done)
		}
	}()
	return c, <-started
}

// ReadReady reads what a service tells systemd until one message has the line
// READY=1 (sd_notify(3)). It ends with the socket.
func ReadReady(notify *net.UnixConn) error {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return fmt.Errorf("notify socket: %w", err)
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}
