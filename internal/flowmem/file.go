package flowmem

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Auto, as a path, is the first of these whose parent is a tmpfs, or else the
// last.
const (
	Auto = "auto"

	autoRun = "/run/sluice/flows"
	autoShm = "/dev/shm/sluice/flows"
)

// pageSize is what MADV_POPULATE_WRITE works in.
var pageSize = os.Getpagesize()

// Resolve is the path that a state-file key stands for.
func Resolve(path string) string {
	if path != Auto {
		return path
	}
	if isTmpfs("/run/sluice") || isTmpfs("/run") && !exists("/run/sluice") {
		return autoRun
	}
	return autoShm
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// File maps size bytes, aligned to 2 MiB, of the file at path, which it makes if
// there is none, and locks it for as long as the Memory is open. The directory is
// made, too, if its parent exists. What an earlier process left is still there:
// see Found.
func File(path string, size int) (*Memory, error) {
	size, err := roundUp(size)
	if err != nil {
		return nil, err
	}
	m := &Memory{}
	if m.file, err = openLocked(path); err != nil {
		return nil, fmt.Errorf("state-file: %w", err)
	}
	if err := m.mapFile(size); err != nil {
		return nil, errors.Join(fmt.Errorf("state-file: %s: %w", path, err), m.abandon())
	}
	return m, nil
}

// abandon gives back what an unfinished Memory has, above all the memory of a
// file that did not fit: it may be the machine's.
func (m *Memory) abandon() error {
	if m.reserved != nil {
		_ = unix.Munmap(m.reserved)
	}
	return errors.Join(unix.Ftruncate(int(m.file.Fd()), int64(m.found)), m.file.Close())
}

// openLocked opens the file and takes its lock.
func openLocked(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: write an absolute path", path)
	}
	if err := privateDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for {
		// Not through a symbolic link, and without waiting for the other end
		// should it be a FIFO.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("%s is a symbolic link: remove it, or name the file that it leads to", path)
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		f := os.NewFile(uintptr(fd), path)
		if err := lock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// Had it been removed before we locked it, the next one would lock
		// another.
		if same, err := isAt(f, path); err != nil || !same {
			if err := errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
			continue
		}
		return f, nil
	}
}

// privateDirectory makes the file's directory, or checks that nobody else can
// replace what is in it.
func privateDirectory(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	var name, st unix.Stat_t // of the directory, and of a link that may lead there
	if err := errors.Join(unix.Lstat(dir, &name), unix.Stat(dir, &st)); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	euid := uint32(os.Geteuid())
	theirs := func(st *unix.Stat_t) bool { return st.Uid != euid && st.Uid != 0 }
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", dir)
	case theirs(&name):
		return fmt.Errorf("%s belongs to user %d and not to %d: remove it, or choose another place", dir, name.Uid, euid)
	case theirs(&st):
		return fmt.Errorf("directory %s belongs to user %d and not to %d: remove it, or choose another place", dir, st.Uid, euid)
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("directory %s can be written to by others: `chmod go-w %s`", dir, dir)
	}
	return nil
}

// lock takes the file's lock and checks what kind of file it is.
func lock(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	switch euid := uint32(os.Geteuid()); {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is not a regular file: remove it, or name another", f.Name())
	case st.Uid != euid:
		return fmt.Errorf("%s belongs to user %d and not to %d: remove it, or name another", f.Name(), st.Uid, euid)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%s is open to others: `chmod 600 %s`", f.Name(), f.Name())
	}
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s is in use by %s; stop it, or give this one another state-file", f.Name(), holder(&st))
	case err != nil:
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// holder names the process that has the lock, as far as /proc tells.
func holder(st *unix.Stat_t) string {
	locks, err := os.Open("/proc/locks")
	if err == nil {
		defer locks.Close()
		if pid := lockHolder(locks, st); pid != "" {
			return "process " + pid
		}
	}
	return "another process"
}

// lockHolder looks a file's lock up in the format of proc_locks(5):
//
//	1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF
//
// Device numbers are hexadecimal. A process of another pid namespace shows as 0
// or -1.
func lockHolder(locks io.Reader, st *unix.Stat_t) (pid string) {
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > 5 && f[1] == "FLOCK" && f[5] == file && f[4] != "0" && f[4] != "-1" {
			return f[4]
		}
	}
	return ""
}

// isAt reports whether f is the file that path leads to.
func isAt(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// mapFile sizes, maps and allocates the file.
func (m *Memory) mapFile(size int) error {
	fd := int(m.file.Fd())
	about, err := m.file.Stat()
	if err != nil {
		return err
	}
	m.found = int(min(about.Size(), int64(size)))
	m.tmpfs = onTmpfs(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return fmt.Errorf("ftruncate to %d MiB: %w", size>>20, err)
	}
	if err := m.mapAligned(fd, size); err != nil {
		return err
	}
	return m.allocate(fd, size)
}

// mapAligned maps the file at a multiple of hugePage, without which no huge page
// of the file could be mapped as one. mmap itself aligns only where the mount has
// the huge option.
func (m *Memory) mapAligned(fd, size int) error {
	room, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("mmap %d MiB: %w", size>>20, err)
	}
	m.reserved = room
	off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(room)))) & (hugePage - 1)
	m.b = room[off : off+size : off+size]
	// MAP_FIXED replaces a part of a range that is ours and that nothing else
	// points into.
	_, err = unix.MmapPtr(fd, 0, unsafe.Pointer(unsafe.SliceData(m.b)), uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	if err != nil {
		return fmt.Errorf("mmap %d MiB: %w", size>>20, err)
	}
	return nil
}

// allocate gives every page of the file its memory: from here on no access can
// fail, unless somebody truncates the file.
func (m *Memory) allocate(fd, size int) error {
	if m.tmpfs {
		collapse(m.b)
	}
	populated := unix.Madvise(m.b, unix.MADV_POPULATE_WRITE)
	if err := unix.Fallocate(fd, 0, 0, int64(size)); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return fmt.Errorf("%d MiB do not fit into its file system: make room there, lower conntrack.max-flows, or choose another place", size>>20)
		}
		return fmt.Errorf("fallocate %d MiB: %w", size>>20, err)
	}
	if populated != nil {
		return fmt.Errorf("populate %d MiB: %w; lower conntrack.max-flows or give the machine more memory", size>>20, populated)
	}
	return nil
}

// collapse makes the file of huge pages even where the mount gives none by
// itself, as /run and /dev/shm usually do not (MADV_COLLAPSE, Linux 6.1). A range
// in which no page is allocated yet does not collapse, and one in which all are
// would be copied: so one page each is allocated first. Where it is refused,
// 4 KiB pages work too, only slower.
func collapse(b []byte) {
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	for at := 0; at < len(b); at += hugePage {
		// Not by writing to it: without memory that would be a SIGBUS.
		_ = unix.Madvise(b[at:at+pageSize], unix.MADV_POPULATE_WRITE)
	}
	_ = unix.Madvise(b, unix.MADV_COLLAPSE)
}

// onTmpfs reports whether an open file is in memory.
func onTmpfs(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && inMemory(&st)
}

func isTmpfs(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && inMemory(&st)
}

func inMemory(st *unix.Statfs_t) bool {
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC || st.Type == unix.HUGETLBFS_MAGIC
}
