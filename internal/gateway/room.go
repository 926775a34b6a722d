package gateway

import (
	"sluice/conntrack"
	"sluice/internal/verdict"
)

const (
	// pressureTicks is how long after the last refusal a table counts as full: a
	// second.
	pressureTicks = conntrack.TicksPerSecond

	// roomPerRefusal is how many flows yield for one that was refused: one more
	// than for one that was not, until there are some free records in reserve.
	roomPerRefusal = 2
)

// yield follows an attempt to begin a flow, which ended with r, and has flows
// that were never answered yield to new ones where the table is full. A record is
// free only after the next burst boundaries, so the packet that finds none is
// refused; the next ones find some. While that is not long ago, each new flow has
// another one yield, so that those that follow are not refused.
func (w *Worker) yield(r verdict.Reason) {
	n := 0
	switch r {
	case verdict.FlowTableFull, verdict.MappingTableFull, verdict.SourceTableFull:
		w.full, w.pressed = w.now, true
		n = roomPerRefusal
	case verdict.None:
		if w.pressed {
			w.pressed = w.now-w.full < pressureTicks
			n = 1
		}
	}
	for range n {
		if w.flows.EarlyDrop(w.now) {
			w.counters.EarlyDrops++
		}
	}
}
