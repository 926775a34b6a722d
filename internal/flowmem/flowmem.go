// Package flowmem owns the memory that the flow table lives in: mapped outside
// the Go heap, so that the collector never scans it and its size is settled at
// start. It is a file's where flows are to outlive the process. What is in it is
// conntrack's alone.
//
// The memory is touched page by page when it is allocated: a machine that has
// too little fails at start with a clear message and not under load. A file is
// allocated as a whole, too: a hole that cannot be filled later would end in
// SIGBUS. Huge pages are asked for, since at millions of flows most look-ups miss
// the TLB otherwise.
//
// A file belongs to one process at a time, by an flock(2) that ends with it.
//
// It follows mmap(2), madvise(2), flock(2) and the kernel's
// Documentation/filesystems/tmpfs.rst. A Memory may be used from any goroutine;
// Close must come after the last use of Bytes.
package flowmem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Memory is a mapping, anonymous or of a file.
type Memory struct {
	b        []byte
	reserved []byte // the address range that b is part of; nil: b is all of it
	file     *os.File
	found    int
	tmpfs    bool
}

// hugePage is the size that the mapping is rounded up to, in bytes: the
// transparent huge page of amd64 and of arm64 with 4 KiB pages.
const hugePage = 2 << 20

func roundUp(size int) (int, error) {
	if size <= 0 {
		return 0, fmt.Errorf("flow memory of %d bytes: the size must be positive", size)
	}
	return (size + hugePage - 1) &^ (hugePage - 1), nil
}

// Anonymous maps size bytes of zeroed memory, aligned to a page, that end with
// the process.
func Anonymous(size int) (*Memory, error) {
	size, err := roundUp(size)
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("flow memory of %d MiB: mmap: %w; lower conntrack.max-flows or give the machine more memory", size>>20, err)
	}
	// Refused where the kernel has no transparent huge pages: 4 KiB pages work
	// too, only slower.
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	if err := unix.Madvise(b, unix.MADV_POPULATE_WRITE); err != nil {
		_ = unix.Munmap(b)
		return nil, fmt.Errorf("flow memory of %d MiB: populate: %w; lower conntrack.max-flows or give the machine more memory", size>>20, err)
	}
	return &Memory{b: b}, nil
}

// Bytes is the whole mapping.
func (m *Memory) Bytes() []byte { return m.b }

// Found is how many of the bytes an earlier process left in the file; the rest
// are zero.
func (m *Memory) Found() int { return m.found }

// Path is the file's, "" for anonymous memory.
func (m *Memory) Path() string {
	if m.file == nil {
		return ""
	}
	return m.file.Name()
}

// Tmpfs reports whether the file is in memory. Where it is not, the kernel
// writes it to a disk over and over, and workers wait for that.
func (m *Memory) Tmpfs() bool { return m.tmpfs }

// Close unmaps the memory and unlocks the file, which stays.
func (m *Memory) Close() error {
	if m.b == nil {
		return nil
	}
	all := m.b
	if m.reserved != nil {
		all = m.reserved
	}
	m.b, m.reserved = nil, nil
	err := unix.Munmap(all)
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
	}
	return err
}
