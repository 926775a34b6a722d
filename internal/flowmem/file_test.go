package flowmem

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

func mustFile(t *testing.T, path string, size int) *Memory {
	t.Helper()
	m, err := File(path, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestFileOutlivesItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice", "flows")
	m := mustFile(t, path, 3<<20)
	b := m.Bytes()
	if len(b) != 4<<20 || m.Found() != 0 || m.Path() != path || uintptr(unsafe.Pointer(&b[0]))%hugePage != 0 {
		t.Fatalf("%d bytes at %p, %d found, at %s", len(b), b, m.Found(), m.Path())
	}
	copy(b[len(b)-5:], "flows")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	again := mustFile(t, path, 6<<20)
	b = again.Bytes()
	if again.Found() != 4<<20 || !bytes.Equal(b[4<<20-5:4<<20], []byte("flows")) {
		t.Errorf("%d bytes found, ending in %q", again.Found(), b[4<<20-5:4<<20])
	}
	for i, v := range b[4<<20:] {
		if v != 0 {
			t.Fatalf("new byte %d is %d", i, v)
		}
	}
	var st unix.Stat_t
	for _, c := range []struct {
		path string
		mode uint32
	}{{path, 0o600}, {filepath.Dir(path), 0o700}} {
		if err := unix.Stat(c.path, &st); err != nil || st.Mode&0o777 != c.mode {
			t.Errorf("%s has mode %o (%v), want %o", c.path, st.Mode&0o777, err, c.mode)
		}
	}
	// Never a hole.
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 < 6<<20 {
		t.Errorf("%d bytes of %d are allocated (%v)", st.Blocks*512, 6<<20, err)
	}
}

func TestFileIsOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows")
	m := mustFile(t, path, 1)
	copy(m.Bytes(), "mine")
	_, err := File(path, 8<<20)
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("a second one: %v", err)
	}
	if got := m.Bytes()[:4]; string(got) != "mine" {
		t.Errorf("the second one changed the file: %q", got)
	}
	if about, err := os.Stat(path); err != nil || about.Size() != 2<<20 {
		t.Errorf("the second one changed the file's size to %d (%v)", about.Size(), err)
	}
	// Removed under its owner, the path is free for another file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if other := mustFile(t, path, 1); other.Found() != 0 || other.Bytes()[0] != 0 {
		t.Error("the removed file came back")
	}
}

func TestFileRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name, want string
		make       func(path string) error
	}{
		{"symbolic link", "symbolic link", func(p string) error { return os.Symlink("/etc/hostname", p) }},
		{"dangling link", "symbolic link", func(p string) error { return os.Symlink(p+"x", p) }},
		{"FIFO", "not a regular file", func(p string) error { return unix.Mkfifo(p, 0o600) }},
		{"directory", "is a directory", func(p string) error { return os.Mkdir(p, 0o700) }},
		{"open to others", "chmod 600", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
	} {
		if err := c.make(at(c.name)); err != nil {
			t.Fatal(err)
		}
		if _, err := File(at(c.name), 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := os.Stat(at("dangling linkx")); err == nil {
		t.Error("a file was made through a dangling link")
	}
	if _, err := File("flows", 1); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("relative path: %v", err)
	}
	if _, err := File(at("no/such/flows"), 1); err == nil {
		t.Error("a path without its directory's parent was made")
	}
	open := at("open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := File(filepath.Join(open, "flows"), 1); err == nil || !strings.Contains(err.Error(), "written to by others") {
		t.Errorf("directory open to others: %v", err)
	}
}

func TestFileOfAnotherUser(t *testing.T) {
	lab.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "flows")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := File(path, 1); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("file of another: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "theirs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := File(filepath.Join(dir, "flows"), 1); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("directory of another: %v", err)
	}
	// In a directory such as /dev/shm anybody can make a link to anywhere.
	link, ours := filepath.Join(t.TempDir(), "link"), t.TempDir()
	if err := os.Symlink(ours, link); err != nil {
		t.Fatal(err)
	}
	mustFile(t, filepath.Join(link, "flows"), 1).Close()
	if err := os.Lchown(link, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := File(filepath.Join(link, "flows"), 1); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("link of another: %v", err)
	}
}

// A full tmpfs is an error at start, and neither a SIGBUS nor later.
func TestFileDoesNotFit(t *testing.T) {
	lab.RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "flows")
	_, err := File(path, 16<<20)
	if err == nil || !strings.Contains(err.Error(), "16 MiB do not fit") || !strings.Contains(err.Error(), "conntrack.max-flows") {
		t.Fatalf("got %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bfree != st.Blocks {
		t.Errorf("%d of %d blocks are still taken (%v)", st.Blocks-st.Bfree, st.Blocks, err)
	}
	if m := mustFile(t, path, 2<<20); !m.Tmpfs() {
		t.Error("a tmpfs is not taken for one")
	}
}

func TestLockHolder(t *testing.T) {
	st := &unix.Stat_t{Dev: unix.Mkdev(0, 0x19), Ino: 1234}
	const locks = "1: POSIX  ADVISORY  WRITE 11 00:19:1234 0 EOF\n" +
		"2: FLOCK  ADVISORY  WRITE 12 00:19:1235 0 EOF\n" +
		"2: -> FLOCK  ADVISORY  WRITE 14 00:19:1234 0 EOF\n" +
		"3: FLOCK  ADVISORY  WRITE %d 00:19:1234 0 EOF\n"
	for pid, want := range map[int]string{13: "13", 0: "", -1: ""} {
		if got := lockHolder(strings.NewReader(fmt.Sprintf(locks, pid)), st); got != want {
			t.Errorf("pid %d: %q", pid, got)
		}
	}
}

func TestResolve(t *testing.T) {
	if got := Resolve("/var/lib/sluice/flows"); got != "/var/lib/sluice/flows" {
		t.Errorf("a path resolves to %s", got)
	}
	want := autoShm
	if isTmpfs("/run") {
		want = autoRun
	}
	if got := Resolve(Auto); got != want {
		t.Errorf("auto is %s, want %s", got, want)
	}
}
