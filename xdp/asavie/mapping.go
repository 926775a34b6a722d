package asavie

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is where one ring of a socket is mapped.
type mapping struct{ start, end uintptr }

// ringMappings are the mappings of sockets in this process, by the inode of the
// socket (proc_pid_maps(5)). The library keeps what it mapped to itself.
func ringMappings() (map[uint64][]mapping, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("driver asavie: the rings of closed sockets are found in /proc: %w", err)
	}
	defer f.Close()
	found := make(map[uint64][]mapping)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if inode, m, ok := parseMapping(lines.Text()); ok {
			found[inode] = append(found[inode], m)
		}
	}
	return found, lines.Err()
}

// parseMapping reads a line of /proc/self/maps, and reports whether it is of a
// socket.
func parseMapping(line string) (inode uint64, m mapping, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || !strings.HasPrefix(fields[5], "socket:[") {
		return 0, mapping{}, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	inode, err3 := strconv.ParseUint(fields[4], 10, 64)
	if errors.Join(err1, err2, err3) != nil || end <= start {
		return 0, mapping{}, false
	}
	return inode, mapping{uintptr(start), uintptr(end)}, true
}

// unmap undoes mappings. Nobody may use what was there: the library's Socket
// keeps pointers to it after Close, so it must be forgotten.
func unmap(list []mapping) error {
	var errs []error
	for _, m := range list {
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, m.start, m.end-m.start, 0); errno != 0 {
			errs = append(errs, fmt.Errorf("driver asavie: munmap: %w", errno))
		}
	}
	return errors.Join(errs...)
}

// inodeOf is the inode of an open socket.
func inodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("driver asavie: fstat: %w", err)
	}
	return st.Ino, nil
}
