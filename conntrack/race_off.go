//go:build !race

package conntrack

import (
	"sync/atomic"
	"unsafe"
)

// These run once a packet. An atomic store is a locked instruction of about
// 20 cycles on amd64, three a packet; a plain store of an aligned word cannot
// tear on amd64 or arm64. What a race costs: two workers that count for the
// same flow at the same moment may count one packet, and of two times last seen
// in the same tick either stays.

func storeTick(p *Tick, v Tick)      { *p = v }
func storeWord(p *uint32, v uint32)  { *p = v }
func addCounter(p *uint64, v uint64) { *p += v }

// storeRelaxed stores in no order: into a record that nobody looks at yet, which the
// swap that publishes it orders, or a word for which no order is needed. An
// atomic.Uint32 is its word and nothing else, so that a pointer to the one is good
// as one to the other.
func storeRelaxed(p *atomic.Uint32, v uint32) { *(*uint32)(unsafe.Pointer(p)) = v }

// add changes a counter that only one goroutine writes.
func add(c *atomic.Int64, n int64) { *(*int64)(unsafe.Pointer(c)) += n }

// loadCounter reads what addCounter adds to.
func loadCounter(p *uint64) uint64 { return *p }
