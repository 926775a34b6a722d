package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const (
	netnsDir = "/run/netns"      // where iproute2 keeps named namespaces
	runsDir  = "/run/sluice-lab" // one lock file for each run, named by its pid
	prefix   = "sluice-"

	// memoryDir is a tmpfs on every Linux, as /run is not in a container.
	memoryDir = "/dev/shm"
)

// run is this process's claim to the names sluice-<pid>-*.
var run struct {
	sync.Mutex
	lock *os.File              // held from the first namespace to the last
	live map[string]*Namespace // by full name
}

// claim takes this run's lock if it does not hold it yet. The caller holds
// run.Mutex.
func claim() error {
	if run.lock != nil {
		return nil
	}
	if err := os.MkdirAll(runsDir, 0o755); err != nil {
		return fmt.Errorf("lab: %w; it needs root and a writable /run", err)
	}
	lock, err := lockRun(strconv.Itoa(os.Getpid()))
	if err != nil {
		return err
	}
	// A dead process of the same pid may have left namespaces with our names.
	if err := removeRun(os.Getpid()); err != nil {
		lock.Close()
		return err
	}
	run.lock = lock
	run.live = make(map[string]*Namespace)
	return nil
}

// unclaim gives the lock back once nothing is left. The caller holds run.Mutex.
func unclaim() {
	if run.lock == nil || len(run.live) > 0 {
		return
	}
	// Unlinked before unlocked: whoever waits for this lock finds out that
	// the file is no longer the one at the path, and opens the next.
	os.RemoveAll(scratchOf(os.Getpid()))
	os.Remove(run.lock.Name())
	run.lock.Close()
	run.lock = nil
}

// Scratch makes a directory, in memory, for what a gateway of this run keeps
// there. It is removed with the run's last namespace, or with the run where that
// dies before.
func Scratch() (string, error) {
	run.Lock()
	defer run.Unlock()
	if run.lock == nil {
		return "", errors.New("lab: there is no lab to keep anything for")
	}
	dir := scratchOf(os.Getpid())
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("lab: %w", err)
	}
	return dir, nil
}

func scratchOf(pid int) string { return filepath.Join(memoryDir, prefix+strconv.Itoa(pid)) }

var errHeld = errors.New("lab: another process holds this run")

// lockRun locks the file of the run called name, without waiting. errHeld says
// that its owner lives.
func lockRun(name string) (*os.File, error) {
	path := filepath.Join(runsDir, name)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, errHeld
			}
			return nil, fmt.Errorf("lab: flock %s: %w", path, err)
		}
		// Between open and lock another process may have swept the file away;
		// a lock on an unlinked file protects nobody.
		held, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			return f, nil
		}
		f.Close()
	}
}

// Sweep removes what runs that are dead left behind: their namespaces, with these
// their links, addresses and routes, and what they kept in memory. Runs at work are left alone.
func Sweep() error {
	pids := make(map[int]bool)
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab: %w", err)
	}
	for _, e := range entries {
		if pid, ok := owner(e.Name()); ok {
			pids[pid] = true
		}
	}
	entries, _ = os.ReadDir(runsDir)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids[pid] = true
		}
	}
	var errs []error
	for pid := range pids {
		if pid != os.Getpid() {
			errs = append(errs, sweepRun(pid))
		}
	}
	return errors.Join(errs...)
}

func sweepRun(pid int) error {
	if err := os.MkdirAll(runsDir, 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	lock, err := lockRun(strconv.Itoa(pid))
	if errors.Is(err, errHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	err = removeRun(pid)
	os.Remove(lock.Name())
	return err
}

// owner is the pid in a namespace's name.
func owner(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

// removeRun removes every namespace named for pid, and its scratch; the caller
// holds its lock.
func removeRun(pid int) error {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if of, ok := owner(e.Name()); ok && of == pid {
			errs = append(errs, unmountNamed(e.Name()))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(scratchOf(pid)))...)
}

// mountNamed binds the calling thread's network namespace to its name.
func mountNamed(name string) error {
	if err := shareNetnsDir(); err != nil {
		return err
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	f.Close()
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", syscall.Gettid())
	if err := syscall.Mount(self, path, "", syscall.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("lab: bind %s to %s: %w", self, path, err)
	}
	return nil
}

func unmountNamed(name string) error {
	path := filepath.Join(netnsDir, name)
	// EINVAL: not a mount point, as when a run died between creating the file
	// and mounting on it.
	err := syscall.Unmount(path, syscall.MNT_DETACH)
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("lab: unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// shareNetnsDir makes /run/netns a shared mount the way `ip netns add` does.
// Were it left to iproute2, its recursive bind mount would later cover ours,
// and removing a name would uncover the old mount instead of ending it.
func shareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	share := func() error {
		return syscall.Mount("", netnsDir, "", syscall.MS_SHARED|syscall.MS_REC, "")
	}
	if share() == nil {
		return nil
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer dir.Close()
	// iproute2 takes the same lock around the same steps.
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lab: flock %s: %w", netnsDir, err)
	}
	if share() == nil {
		return nil
	}
	if err := syscall.Mount(netnsDir, netnsDir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("lab: bind mount %s: %w; it needs CAP_SYS_ADMIN", netnsDir, err)
	}
	if err := share(); err != nil {
		return fmt.Errorf("lab: make %s shared: %w", netnsDir, err)
	}
	return nil
}
