package conntrack

import (
	"sync/atomic"
	"unsafe"
)

// grow makes a table for fewer flows one of the shape to: the records move to
// where they are in that, with their ids. The buckets are cleared by Rebuild. A
// crash on the way leaves memory without a table.
func grow(mem []byte, from, to *shape) {
	h := headerOf(mem)
	atomic.StoreUint64(&h.magic, 0)
	// The last part first: each moves into what the parts behind it have left.
	move(over[Source](mem, from.sourcesAt, from.sources+1), over[Source](mem, to.sourcesAt, to.sources+1))
	move(over[Mapping](mem, from.mappingsAt, from.mappings+1), over[Mapping](mem, to.mappingsAt, to.mappings+1))
	move(over[Flow](mem, from.flowsAt, from.flows+1), over[Flow](mem, to.flowsAt, to.flows+1))
	h.flows, h.mappings, h.sources, h.buckets = uint32(to.flows), uint32(to.mappings), uint32(to.sources), uint32(to.buckets)
	h.sum = h.checkSum()
	atomic.StoreUint64(&h.magic, magic)
}

// move moves records, the two places of which may overlap, and zeroes those that
// are new. As bytes: the compiler would call it a copy of atomics, and nobody
// else uses them.
func move[T any](from, to []T) {
	copy(asBytes(to), asBytes(from))
	clear(asBytes(to[len(from):]))
}

// asBytes views records as the bytes they are, which a slice of them may always
// be viewed as.
func asBytes[T any](records []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(records))), uintptr(len(records))*unsafe.Sizeof(zero))
}
