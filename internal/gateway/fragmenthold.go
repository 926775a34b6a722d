package gateway

import (
	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// await keeps a copy of a fragment that came before the first one of its
// datagram, and gives the frame back.
func (w *Worker) await(d xdp.Desc, frame []byte, p *packet.Packet, x *fragment.Datagram) {
	if victim := w.store.Crowded(x); victim == x {
		w.refuseDatagram(x, verdict.FragmentHoldFull)
	} else if victim != nil {
		w.giveUp(victim, verdict.FragmentHoldFull)
	}
	if x.Stage != fragment.Waiting || !w.store.Hold(x, uint8(w.in), frame) {
		w.refuseDatagram(x, verdict.FragmentHoldFull)
		w.reject(d, frame, p, w.in, verdict.FragmentHoldFull)
		return
	}
	w.counters.FragmentsHeld++
	w.discard(d)
}

// resume passes a fragment that waited, now that the first one of its datagram
// came.
func (w *Worker) resume(f *fragment.Frame, x *fragment.Datagram) {
	if w.memory.Allocate(w.spare[:]) == 0 {
		w.counters.Drops[verdict.NoFreeFrame]++
		return
	}
	d := w.spare[0]
	d.Len = uint32(len(f.Bytes()))
	frame := w.frame(d)
	copy(frame, f.Bytes())
	var p packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		w.drop(d, r)
		return
	}
	w.follow(d, frame, &p, x)
}

// stage takes a datagram to another stage; if need be, another one must go.
func (w *Worker) stage(x *fragment.Datagram, to fragment.Stage) {
	w.makeRoom(to, x.Key.Src)
	w.store.Move(x, to, w.now)
}

// makeRoom makes room for one more datagram from src in a stage: the oldest goes
// (RFC 4787 REQ-14a, RFC 6274 section 4.1).
func (w *Worker) makeRoom(in fragment.Stage, src uint32) {
	if old := w.store.Full(in, src); old != nil {
		w.giveUp(old, verdict.FragmentHoldFull)
	}
}

// refuseDatagram drops what waits of a datagram, and has the rest of it dropped
// for the same reason when it comes.
func (w *Worker) refuseDatagram(x *fragment.Datagram, r verdict.Reason) {
	w.dropHeld(x, r)
	if x.Stage != fragment.Refused {
		w.stage(x, fragment.Refused)
		x.Reason = r
	}
}

// giveUp forgets a datagram.
func (w *Worker) giveUp(x *fragment.Datagram, r verdict.Reason) {
	w.dropHeld(x, r)
	w.store.Remove(x)
}

// hostFragments reports whether fragments whose first one did not come here are the
// kernel's. To an address that the host shares with NAT they may be: it then got the
// first one itself, and puts them together or, as it would without a NAT, waits for
// the rest.
func (w *Worker) hostFragments(dst uint32, r verdict.Reason) bool {
	return (r == verdict.FragmentWithoutFirst || r == verdict.FragmentHoldFull) && w.snapshot.Routes.Local(dst)
}

// dropHeld drops the frames that wait for a datagram's first fragment, unless the
// kernel should have them.
func (w *Worker) dropHeld(x *fragment.Datagram, r verdict.Reason) {
	host := w.punter != nil && w.hostFragments(x.Key.Dst, r)
	for f := w.store.Next(x); f != nil; f = w.store.Next(x) {
		switch {
		case !host:
			w.counters.Drops[r]++
		case w.punter.Punt(fib.PortID(f.In), f.Bytes(), r):
			w.counters.Punts[r]++
		default:
			w.counters.PuntsRefused[r]++
			w.counters.Drops[r]++
		}
		w.store.Drop(x)
	}
}

// expireDatagrams forgets datagrams that do not become complete in time.
func (w *Worker) expireDatagrams() {
	for x := w.store.Old(w.now); x != nil; x = w.store.Old(w.now) {
		w.giveUp(x, verdict.FragmentWithoutFirst)
	}
}

// handOver gives a fragment to the worker that has its datagram, which counts it
// as received instead.
func (w *Worker) handOver(d xdp.Desc, frame []byte, hash uint64, owner int) {
	if !w.exchange.Inbox(owner).Put(uint8(w.in), hash, frame) {
		w.exchange.Release(hash)
		w.drop(d, verdict.FragmentHoldFull)
		return
	}
	c := &w.counters.Ports[w.in]
	c.RxPackets--
	c.RxBytes -= uint64(d.Len)
	w.counters.FragmentsHandedOver++
	w.owes[owner] = true
	w.discard(d)
}

// callOwners wakes the workers that were handed something in this step.
func (w *Worker) callOwners() {
	for i := range w.owes {
		if w.owes[i] {
			w.owes[i] = false
			w.wake(i)
		}
	}
}

// takeOver passes the fragments that other workers handed over, as bursts of the
// ports that they arrived on, and returns how many: at most a burst, so that
// others' fragments do not keep the worker from its own ports.
func (w *Worker) takeOver() (seen int) {
	var hashes [Burst]uint64
	for seen < Burst {
		f := w.inbox.First()
		if f == nil {
			break
		}
		in, n := f.In, 0
		for ; f != nil && f.In == in && seen < Burst; f = w.inbox.First() {
			hashes[n] = f.Hash()
			seen++
			if w.copyIn(n, f) {
				n++
			} else {
				w.exchange.Release(f.Hash())
			}
			w.inbox.Done()
		}
		if n > 0 {
			w.burst(fib.PortID(in), n)
		}
		for _, hash := range hashes[:n] {
			w.exchange.Release(hash)
		}
	}
	return seen
}

// copyIn makes frame i of the burst of a copy.
func (w *Worker) copyIn(i int, f *fragment.Frame) bool {
	if w.memory.Allocate(w.spare[:]) == 0 {
		w.counters.Drops[verdict.NoFreeFrame]++
		return false
	}
	d := w.spare[0]
	d.Len = uint32(len(f.Bytes()))
	copy(w.frame(d), f.Bytes())
	w.frames[i] = d
	return true
}
