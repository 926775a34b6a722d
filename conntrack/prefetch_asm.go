//go:build (amd64 || arm64) && !purego

package conntrack

import "unsafe"

// prefetchLines sends for the cache lines of the n addresses from *p on, and
// prefetchPairs for two lines from each. They wait for nothing and change
// nothing, and an address that is none does no harm.
//
//go:noescape
func prefetchLines(p *unsafe.Pointer, n int)

//go:noescape
func prefetchPairs(p *unsafe.Pointer, n int)
