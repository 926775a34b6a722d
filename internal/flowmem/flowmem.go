// Package flowmem owns the memory that the flow table lives in: mapped outside
// the Go heap, so that the collector never scans it and its size is settled at
// start. What is in it is conntrack's alone.
//
// The memory is touched page by page when it is allocated: a machine that has
// too little fails at start with a clear message and not under load. Huge pages
// are asked for, since at millions of flows most look-ups miss the TLB
// otherwise.
//
// It follows mmap(2) and madvise(2). A Memory may be used from any goroutine;
// Close must come after the last use of Bytes.
package flowmem

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Memory is an anonymous mapping.
type Memory struct {
	b []byte
}

// hugePage is the size that the mapping is rounded up to, in bytes: the
// transparent huge page of amd64 and of arm64 with 4 KiB pages.
const hugePage = 2 << 20

// Anonymous maps size bytes of zeroed memory, aligned to a page.
func Anonymous(size int) (*Memory, error) {
	if size <= 0 {
		return nil, fmt.Errorf("flow memory of %d bytes: the size must be positive", size)
	}
	size = (size + hugePage - 1) &^ (hugePage - 1)
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

// Close unmaps the memory.
func (m *Memory) Close() error {
	if m.b == nil {
		return nil
	}
	b := m.b
	m.b = nil
	return unix.Munmap(b)
}
