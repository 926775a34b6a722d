package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Run is a process that has a lab of its own at the moment.
type Run struct {
	PID   int
	Title string // what it said with SetTitle
}

// SetTitle says what this process's lab is for, to those who list Runs. The
// lab must exist.
func SetTitle(title string) error {
	run.Lock()
	defer run.Unlock()
	if run.lock == nil {
		return errors.New("lab: there is no lab to give a title to")
	}
	if err := run.lock.Truncate(0); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if _, err := run.lock.WriteAt([]byte(title), 0); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// Runs lists the processes that have a lab, this one excepted.
func Runs() ([]Run, error) {
	entries, err := os.ReadDir(runsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("lab: %w", err)
	}
	var runs []Run
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !holds(pid) {
			continue
		}
		title, err := os.ReadFile(filepath.Join(runsDir, e.Name()))
		if err != nil {
			continue // it ended just now
		}
		runs = append(runs, Run{pid, strings.TrimSpace(string(title))})
	}
	return runs, nil
}

// Stop has the run remove its lab and end, and waits until it has.
func (r Run) Stop(ctx context.Context) error {
	path := filepath.Join(runsDir, strconv.Itoa(r.PID))
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if !holds(r.PID) {
		f.Close()
		return nil
	}
	if err := syscall.Kill(r.PID, syscall.SIGTERM); err != nil {
		f.Close()
		return fmt.Errorf("lab: stop process %d: %w", r.PID, err)
	}
	// The lock comes free when the run is over, in whatever way. Should ctx
	// end first, the goroutine stays until then.
	released := make(chan error, 1)
	go func() {
		defer f.Close()
		released <- syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
	}()
	select {
	case err := <-released:
		return err
	case <-ctx.Done():
		return fmt.Errorf("lab: process %d has not removed its lab yet: %w", r.PID, context.Cause(ctx))
	}
}

// holds reports whether process pid has its run's lock file open, as a run at
// work does. A pid alone proves nothing: it may have been given out again.
func holds(pid int) bool {
	lock, err := os.Stat(filepath.Join(runsDir, strconv.Itoa(pid)))
	if err != nil {
		return false
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if st, err := os.Stat(fd); err == nil && os.SameFile(st, lock) {
			return true
		}
	}
	return false
}
