package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

const (
	holdSize      = 256 // frames of one worker that can wait for neighbours
	holdPerHop    = 16  // of which for one neighbour: it must not starve the others
	holdTicks     = 30  // 3 s: the kernel gives up after three probes a second apart
	askAgainTicks = 10  // the kernel is asked again for a neighbour after a second
)

// held is a frame, already rewritten but for its link addresses, that waits for
// a neighbour; dst, src and in are what it was routed by.
type held struct {
	desc     xdp.Desc
	dst, src uint32
	gateway  uint32
	since    conntrack.Tick
	in, port fib.PortID
}

// hold keeps frames in order of arrival. It is bounded in total and for each
// neighbour, so that a dead host costs the living ones nothing.
type hold struct {
	n       int
	waiting [holdSize]held
}

// room reports whether another frame may wait for hop.
func (h *hold) room(hop *fib.Hop) bool {
	if h.n == holdSize {
		return false
	}
	same := 0
	for i := range h.waiting[:h.n] {
		if h.waiting[i].gateway == hop.Gateway && h.waiting[i].port == hop.Port {
			same++
		}
	}
	return same < holdPerHop
}

// add keeps a frame; room must have been asked.
func (h *hold) add(d xdp.Desc, x held) {
	x.desc = d
	h.waiting[h.n] = x
	h.n++
}

// retryHeld sends the frames whose neighbour is known by now, drops those that
// waited too long, and keeps the rest in order.
func (w *Worker) retryHeld() {
	kept, n := 0, w.hold.n
	for i := range n {
		x := &w.hold.waiting[i]
		_, hop := w.snapshot.Routes.Lookup(x.dst, x.src, x.in, pathHash(x.src))
		r, wait := w.retry(x, &hop)
		if wait {
			w.hold.waiting[kept] = *x
			kept++
			continue
		}
		if r != verdict.None {
			w.rejectHeld(x, r)
		}
	}
	// Errors about those dropped may have joined the queue meanwhile.
	w.hold.n = kept + copy(w.hold.waiting[kept:], w.hold.waiting[n:w.hold.n])
	w.free()
}

// retry decides about one held frame: sent (None), dropped with a reason, or
// still to wait.
func (w *Worker) retry(x *held, hop *fib.Hop) (r verdict.Reason, wait bool) {
	if r := hopReason(hop); r != verdict.None {
		return r, false
	}
	// The translation was made for the way out that the route had then.
	if hop.Port != x.port {
		return verdict.NeighbourUnresolved, false
	}
	age := w.now - x.since
	switch {
	case hop.State == fib.Resolved:
		frame := w.frame(x.desc)
		copy(frame[0:6], hop.MAC[:])
		copy(frame[6:12], hop.Source[:])
		if len(frame)-packet.EthernetLength > int(hop.MTU) {
			return w.sendOversize(x, frame, hop), false
		}
		w.queue(hop.Port, x.desc)
		return verdict.None, false
	case hop.State == fib.Failed || age >= holdTicks:
		return verdict.NeighbourUnresolved, false
	case age != 0 && age%askAgainTicks == 0:
		w.ask(hop)
	}
	return verdict.None, true
}
