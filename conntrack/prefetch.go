package conntrack

import "unsafe"

// At a million flows every line of the table that is touched is a cache miss of
// 150 ns, and the processor can wait for a dozen of them at once. What will be
// needed is therefore sent for ahead, for several packets together, by an
// instruction that does not wait: Go has none, so that there are two functions in
// assembly, each of which takes a list.

// fetch sends for the first line of each record.
func fetch[T any](records []*T) {
	// The list may be seen as one of unsafe.Pointer: it has the same layout, and
	// nothing is read or written through it.
	prefetchLines((*unsafe.Pointer)(unsafe.Pointer(unsafe.SliceData(records))), len(records))
}

// fetchPairs sends for both lines of each flow.
func fetchPairs(flows []*Flow) {
	prefetchPairs((*unsafe.Pointer)(unsafe.Pointer(unsafe.SliceData(flows))), len(flows))
}
