//go:build !(amd64 || arm64) || purego

package conntrack

import (
	"sync/atomic"
	"unsafe"
)

// prefetchLines loads a word of the cache line of each of the n addresses from
// *p on, which must be a record's. The loads depend on nothing, so that the misses overlap.
func prefetchLines(p *unsafe.Pointer, n int) {
	for _, at := range unsafe.Slice(p, n) {
		_ = atomic.LoadUint32((*uint32)(at))
	}
}

// prefetchPairs is prefetchLines for records of two lines.
func prefetchPairs(p *unsafe.Pointer, n int) {
	for _, at := range unsafe.Slice(p, n) {
		_ = atomic.LoadUint32((*uint32)(at))
		_ = atomic.LoadUint32((*uint32)(unsafe.Add(at, cacheLine)))
	}
}
