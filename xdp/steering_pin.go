package xdp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A pinned link is a file in bpffs that keeps the program attached when the
// process is gone:
//
//	/sys/fs/bpf/sluice/<inode of the network namespace>/<ifindex>-<name>/link
//
// The namespace is in the path since bpffs belongs to mount namespaces: many
// network namespaces see the same one, and ifindexes repeat.
const (
	bpffsPath = "/sys/fs/bpf"
	pinRoot   = bpffsPath + "/sluice"
	pinFile   = "link"
)

// PinDirectory is where what belongs to the caller's network namespace is pinned,
// in bpffs, or why pins would not last. It mounts bpffs if there is none.
func PinDirectory() (dir, why string) {
	if why := ensureBPFFS(); why != "" {
		return "", why
	}
	dir, err := namespaceDirectory()
	if err != nil {
		return "", err.Error()
	}
	return dir, ""
}

// namespaceDirectory is the path for the calling thread's network namespace.
func namespaceDirectory() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("network namespace is unknown: stat /proc/thread-self/ns/net: %w", err)
	}
	return filepath.Join(pinRoot, strconv.FormatUint(st.Ino, 10)), nil
}

// ensureBPFFS returns why pins would not last, or nothing.
func ensureBPFFS() (why string) {
	mounted := isBPFFS()
	if !mounted {
		if err := unix.Mount("bpf", bpffsPath, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Sprintf("no bpffs at %s, and mounting one fails: %v", bpffsPath, err)
		}
	}
	seen, err := initSees(bpffsPath)
	if err == nil && seen {
		return ""
	}
	if !mounted {
		// Best effort: it vanishes with the mount namespace anyhow.
		_ = unix.Unmount(bpffsPath, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Sprintf("whether pins in %s last is unknown: %v", bpffsPath, err)
	}
	return fmt.Sprintf("the bpffs at %s is in a private mount namespace, where pins end with the process: mount it on the host (mount -t bpf bpf %s) before the service starts", bpffsPath, bpffsPath)
}

func isBPFFS() bool {
	var st unix.Statfs_t
	return unix.Statfs(bpffsPath, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}

// initSees says whether process 1 has the same file system at the same path:
// then it is there for as long as the machine, or the container, runs.
func initSees(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, err
	}
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		return false, err
	}
	defer f.Close()
	return mountListed(f, path, unix.Major(st.Dev), unix.Minor(st.Dev))
}

// mountListed looks for a mount in the format of proc_pid_mountinfo(5):
//
//	36 35 0:31 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw
func mountListed(mountinfo io.Reader, path string, major, minor uint32) (bool, error) {
	device := fmt.Sprintf("%d:%d", major, minor)
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 4 && f[2] == device && f[4] == path {
			return true, nil
		}
	}
	return false, lines.Err()
}

// pin pins l for the interface and returns the path, or why it could not.
func pin(l link.Link, dir string, nic *NIC) (path, why string) {
	// bpffs reserves names with a dot, which VLAN interfaces have.
	name := strings.ReplaceAll(nic.Name, ".", "_")
	path = filepath.Join(dir, fmt.Sprintf("%d-%s", nic.Ifindex, name), pinFile)
	if err := Pin(l, path); err != nil {
		return "", err.Error()
	}
	return path, ""
}

// Pin pins l at a path in bpffs, and makes the directories on the way there.
func Pin(l link.Link, path string) error {
	for try := 0; ; try++ {
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = l.Pin(path)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrNotExist) && try < 3:
			// Another process that swept dead pins took the directory
			// away while it was empty.
		default:
			return fmt.Errorf("pin %s: %w", path, err)
		}
	}
}

// Unpin removes the pin at path and the directories that this leaves empty. One that
// another process removed is no error: whoever attaches removes what dead namespaces
// and devices left.
func Unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := filepath.Dir(path); dir != bpffsPath; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil { // not empty
			break
		}
	}
	return nil
}

// pinnedLink finds the pinned link of an interface, by what the link says and
// not by its name, since interfaces are renamed. Without one, it is nil.
func pinnedLink(dir string, ifindex int) (*attachment, error) {
	pins, err := filepath.Glob(filepath.Join(dir, "*", pinFile))
	if err != nil {
		return nil, err
	}
	for _, path := range pins {
		l, index, err := openPin(path)
		if err != nil {
			return nil, err
		}
		if index == ifindex {
			return &attachment{Link: l, path: path}, nil
		}
		l.Close()
	}
	return nil, nil
}

// openPin opens a pinned link. Its ifindex is 0 where the device is gone.
func openPin(path string) (l link.Link, ifindex int, err error) {
	l, err = link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	about, err := l.Info()
	if err != nil {
		l.Close()
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	x := about.XDP()
	if x == nil {
		l.Close()
		return nil, 0, fmt.Errorf("%s: not an XDP link", path)
	}
	return l, int(x.Ifindex), nil
}

// removeDeadPins removes the pins whose device is gone, in all network
// namespaces: a namespace that is gone has nobody else to do it. What cannot be
// read is left alone.
func removeDeadPins() {
	pins, err := filepath.Glob(filepath.Join(pinRoot, "*", "*", pinFile))
	if err != nil {
		return
	}
	for _, path := range pins {
		l, ifindex, err := openPin(path)
		if err != nil {
			continue
		}
		if ifindex == 0 {
			_ = Unpin(path)
		}
		l.Close()
	}
}

// DetachPinned takes the steering program off an interface of the caller's
// network namespace and removes its pin, or off all interfaces where ifindex is
// 0, whether the process that attached it runs or not. It returns the names of
// the interfaces that had it, as they were when it was attached. Nothing pinned
// is no error.
func DetachPinned(ifindex int) ([]string, error) {
	dir, err := namespaceDirectory()
	if err != nil {
		return nil, err
	}
	pins, err := filepath.Glob(filepath.Join(dir, "*", pinFile))
	if err != nil {
		return nil, err
	}
	var names []string
	var errs []error
	for _, path := range pins {
		l, index, err := openPin(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if ifindex != 0 && index != ifindex {
			l.Close()
			continue
		}
		if err := (&attachment{Link: l, path: path}).remove(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
			continue
		}
		if index != 0 {
			_, name, _ := strings.Cut(filepath.Base(filepath.Dir(path)), "-")
			names = append(names, name)
		}
	}
	return names, errors.Join(errs...)
}
