package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Listen opens the control socket at path, mode 0660, and makes its directory.
// The socket of a dead daemon is replaced; that of a live one is an error.
// Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket %s: %w; %s", path, err, remedyOf(err, "make the directory, or set control.socket"))
	}
	// The lock, not the socket, says who is alive: it ends with its process,
	// and between looking at a stale socket and replacing it nobody else can
	// do the same.
	lock, err := takeLock(path + ".lock")
	if err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, inUse(path)
		}
		return nil, fmt.Errorf("control socket %s: %w; %s", path, err, remedyOf(err, "set control.socket to a path where one can be made"))
	}
	l, err := replace(path)
	if err != nil {
		lock.release()
		return nil, err
	}
	return &listener{Listener: l, lock: lock}, nil
}

// remedyOf says what to do about an error: the usual one is that somebody who is not
// root began the daemon.
func remedyOf(err error, otherwise string) string {
	if errors.Is(err, os.ErrPermission) {
		return "run the daemon as root"
	}
	return otherwise
}

func inUse(path string) error {
	return fmt.Errorf("control socket %s: another daemon answers there; stop it first, or give this one another control.socket", path)
}

// replace removes what a dead daemon left at path and listens there.
func replace(path string) (net.Listener, error) {
	switch st, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	case st.Mode()&os.ModeSocket == 0:
		return nil, fmt.Errorf("control socket %s: something that is not a socket is there; remove it, or set control.socket", path)
	default:
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, inUse(path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket %s: a dead daemon left it and it cannot be removed: %w", path, err)
		}
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		// bind(2) gives the file the mode of the socket's own inode (kernel:
		// unix_bind_bsd), so the file is never open to others, not even
		// between bind and chmod.
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o660) })
		return errors.Join(err, chmod)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	// What the umask took away.
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return l, nil
}

// listener holds the lock for as long as it listens.
type listener struct {
	net.Listener
	lock *lockFile
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	l.lock.release()
	return err
}

// lockFile is a file under an exclusive flock(2).
type lockFile struct{ f *os.File }

// takeLock locks the file at path, or fails with EWOULDBLOCK where another
// process has it.
func takeLock(path string) (*lockFile, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, err
		}
		// The holder before may have removed the file after it was opened
		// here; a lock on a file that has no name keeps nobody out.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return &lockFile{f}, nil
		}
		f.Close()
	}
}

// release removes the file and gives up the lock. Releasing twice is harmless.
func (l *lockFile) release() {
	if l.f != nil {
		os.Remove(l.f.Name())
		l.f.Close()
		l.f = nil
	}
}
