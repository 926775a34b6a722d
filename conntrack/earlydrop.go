package conntrack

import (
	"sync/atomic"

	"sluice/internal/verdict"
)

// earlySample is how many records one EarlyDrop looks at: where a tenth of all
// flows is unconfirmed, it finds one four times out of five.
const earlySample = 16

// EarlyDrop ends the flow that has been silent longest of those without an answer
// among a few records, and reports whether there was one. It is for a table with
// no room for a new flow. A flow that was ever answered is never ended: a flood of
// packets that nobody answers pushes out nothing but itself (RFC 4987 3.2).
//
// Which records are looked at follows from a key, so that nobody outside can choose
// whose flow yields. The record can be used again after every worker's next burst
// boundary, as always.
func (w *Worker) EarlyDrop(now Tick) bool {
	w.now = now
	t := w.table
	used := t.flowPool.fresh.Load()
	if used == 0 {
		return false
	}
	var oldest *Flow
	for range earlySample {
		w.probe++
		h := t.seed.hash(key{w.probe, prime0})
		f := &t.flows[1+reduce(h, used)]
		if f.unconfirmed() && (oldest == nil || int32(f.lastSeen()-oldest.lastSeen()) < 0) {
			oldest = f
		}
	}
	return oldest != nil && oldest.unconfirmed() && w.Retire(oldest, verdict.EarlyDrop)
}

// unconfirmed reports whether a live flow was never answered. A TCP flow without a
// SYN of its other side has had no answer, whatever came.
func (f *Flow) unconfirmed() bool {
	s := status(f.status.Load())
	switch {
	case s.phase() != phaseLive:
		return false
	case s.state() == TCPSynSent || s.state() == UDPUnreplied:
		return true
	case s.state() == TCPSynReceived || s.state() == ICMPQuery || s.state() == OtherProtocol:
		return atomic.LoadUint64(&f.packets[Original]) == 0 || atomic.LoadUint64(&f.packets[Reply]) == 0
	}
	return false
}
