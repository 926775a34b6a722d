package conntrack

import (
	"sluice/internal/verdict"
)

// NewFlow is what Create makes a flow of.
type NewFlow struct {
	Original Tuple // the packet's, as it arrived
	Reply    Tuple // of the answers, as they will arrive

	// Mapping is what the flow's source was translated by, or nil. Create
	// takes over the caller's reference if, and only if, it makes the flow.
	Mapping *Mapping

	Kind            Kind
	InPort, OutPort uint8     // on which original, reply packets arrive
	First           Direction // of the packet that begins it
	TCPFlags        uint8     // of that packet
	NextHop         uint32    // of the original direction, see Flow.NextHop; 0 = not known
	Service         uint16
	Backend         uint32

	// Inside says that the sender of the original direction is a source: a flow that
	// no mapping counts to one is counted to it by its address.
	Inside bool

	counted bool // that was done
}

// Create makes a flow, or finds the one that there is: existed then says so, and
// dir which of its directions nf.Original is. Of several workers that create the
// same flow at the same moment one does, and all get the same. Where r is not
// None nothing has changed: FlowTableFull, SourceLimit, SourceTableFull, or ReplyTupleTaken if
// another flow already waits for nf.Reply. A full table ends nothing to make
// room here (RFC 6888 REQ-11D); see EarlyDrop.
//
// The first packet is not counted; Touch it like any other.
func (w *Worker) Create(nf *NewFlow, now Tick) (f *Flow, dir Direction, existed bool, r verdict.Reason) {
	w.now = now
	if r = w.admit(nf); r != verdict.None {
		if f, dir = w.Find(nf.Original, now); f != nil {
			return f, dir, true, verdict.None
		}
		return nil, 0, false, r
	}
	f, dir, existed, r = w.create(nf, now)
	if existed || r != verdict.None {
		w.dismiss(nf)
	}
	return f, dir, existed, r
}

// create is Create once the flow is counted to its source.
func (w *Worker) create(nf *NewFlow, now Tick) (f *Flow, dir Direction, existed bool, r verdict.Reason) {
	for {
		id := w.flows.take()
		if id == 0 {
			return w.adopt(nf)
		}
		w.fill(id, nf, now)
		other, out := w.attachOriginal(id, nf)
		switch out {
		case exists:
			w.discard(id)
			return &w.table.flows[slotID(other)], slotDirection(other), true, verdict.None
		case full:
			w.discard(id)
			return nil, 0, false, verdict.FlowTableFull
		}
		other, out = w.attachReply(id, nf)
		if out == inserted && w.publish(id) {
			return &w.table.flows[id], nf.First, false, verdict.None
		}
		aborted := w.withdraw(id)
		switch {
		case aborted:
			// Perhaps for a twin, whose reply entry is the one we met.
		case out == exists:
			return nil, 0, false, verdict.ReplyTupleTaken
		case out == full:
			return nil, 0, false, verdict.FlowTableFull
		default:
			w.settle(slotID(other))
		}
	}
}

// adopt is Create without a free record: the flow may have been made by another
// a moment ago, and a full table costs no flow that it has a packet.
func (w *Worker) adopt(nf *NewFlow) (*Flow, Direction, bool, verdict.Reason) {
	if f, dir := w.Find(nf.Original, w.now); f != nil {
		return f, dir, true, verdict.None
	}
	return nil, 0, false, verdict.FlowTableFull
}

// fill writes a free record. Nobody looks at it yet.
func (w *Worker) fill(id uint32, nf *NewFlow, now Tick) {
	f := &w.table.flows[id]
	f.tuple = [2]Tuple{nf.Original, nf.Reply}
	f.mapping = 0
	if nf.Mapping != nil {
		f.mapping = idOf(w.table.mappings, nf.Mapping)
	}
	f.backend, f.service = nf.Backend, nf.Service
	f.in, f.out = nf.InPort, nf.OutPort
	f.created = now
	f.generation++
	f.seal = uint32(nf.Kind)
	f.seal |= f.sum() << 8
	storeRelaxed(&f.nextHop[Original], nf.NextHop)
	storeRelaxed(&f.nextHop[Reply], 0)
	f.packets, f.bytes = [2]uint64{}, [2]uint64{}
	f.sent, f.acked = [2]uint32{}, [2]uint32{}
	storeRelaxed(&f.windows, 0)
	storeTick(&f.seen, now)
	s := phaseBuilding | initial(nf.Original.Proto, nf.First, nf.TCPFlags)
	if nf.counted {
		s |= counted
	}
	storeRelaxed(&f.status, uint32(s))
}

// attachOriginal inserts the original entry of flow id. Where another flow has
// the tuple and is not complete, it waits for it.
func (w *Worker) attachOriginal(id uint32, nf *NewFlow) (other uint64, out outcome) {
	k := nf.Original.key()
	h := w.table.seed.hash(k)
	for try := 0; ; try++ {
		other, out = w.attach(k, h, tag(h)|kindOriginal|uint64(id))
		if out != busy {
			return other, out
		}
		w.await(slotID(other), try)
	}
}

// attachReply inserts the reply entry of flow id, whose original entry is in.
//
// The other owner of the tuple may be busy itself, waiting for our original
// tuple as its reply: two hosts that open to each other at once, each in its own
// flow. The flow with the lower id waits, the other one gives way (busy) and
// will find that its packet belongs to the first. Those that wait wait for
// higher ids only, so there is no circle.
func (w *Worker) attachReply(id uint32, nf *NewFlow) (other uint64, out outcome) {
	if nf.Reply == nf.Original {
		return 0, inserted // one entry serves both
	}
	k := nf.Reply.key()
	h := w.table.seed.hash(k)
	for try := 0; ; try++ {
		other, out := w.attach(k, h, tag(h)|kindReply|uint64(id))
		if out != busy || slotID(other) < id {
			return other, out
		}
		w.await(slotID(other), try)
	}
}

// await gives the creator of an incomplete flow time to finish. If that takes
// too long, since it does not run, the flow is aborted: its creator will find
// that out when it tries to publish it, and begin again. So nobody depends on
// another's being scheduled.
func (w *Worker) await(id uint32, try int) {
	f := &w.table.flows[id]
	if s := status(f.status.Load()); try >= patience && s.phase() == phaseBuilding {
		f.status.CompareAndSwap(uint32(s), uint32(s.withPhase(phaseDead)))
	}
	pause(try)
}

// settle waits until flow id, which we gave way to, is complete or aborted.
func (w *Worker) settle(id uint32) {
	f := &w.table.flows[id]
	for try := 0; status(f.status.Load()).phase() == phaseBuilding; try++ {
		w.await(id, try)
	}
}

// attach inserts one entry of a flow, clearing away flows that have ended.
func (w *Worker) attach(k key, h, word uint64) (other uint64, out outcome) {
	t := w.table
	for {
		other, out := t.insert(k, h, word)
		if out != exists {
			return other, out
		}
		f := &t.flows[slotID(other)]
		s := status(f.status.Load())
		switch {
		case s.phase() == phaseBuilding:
			return other, busy
		case s.phase() == phaseLive && !w.expire(f, s):
			return other, exists
		}
		t.remove(h, other)
	}
}

// publish makes a flow that has both its entries live, unless somebody aborted
// it.
func (w *Worker) publish(id uint32) bool {
	f := &w.table.flows[id]
	s := status(f.status.Load())
	m := &w.table.mappings[f.mapping]
	if f.mapping != 0 {
		storeRelaxed(&m.lastOut, uint32(w.now))
	}
	w.table.peers.count(f, 1)
	// Nobody else changes the status of a flow that is not live, except to
	// abort it.
	if s.phase() != phaseBuilding || !f.status.CompareAndSwap(uint32(s), uint32(s.withPhase(phaseLive))) {
		w.table.peers.count(f, ^uint32(0))
		return false
	}
	w.note(EventNew, f, StateNone, s.state(), verdict.None)
	return true
}

// withdraw takes a flow back whose original entry is in and that never was
// live. It reports whether another had aborted it already; the reply entry may
// then be in, too.
func (w *Worker) withdraw(id uint32) (aborted bool) {
	s := status(w.table.flows[id].status.Swap(uint32(phaseDead)))
	w.detach(id)
	w.flows.bury(id, w.table.epoch.Load())
	return s.phase() == phaseDead
}

// detach takes a flow's entries out of the index.
func (w *Worker) detach(id uint32) {
	t := w.table
	for d, kind := range [2]uint64{kindOriginal, kindReply} {
		h := t.seed.hash(t.flows[id].tuple[d].key())
		t.remove(h, tag(h)|slotLive|kind|uint64(id))
	}
}

// discard gives back a record of which only a tentative entry was ever seen.
func (w *Worker) discard(id uint32) {
	w.table.flows[id].status.Store(uint32(phaseDead))
	w.flows.bury(id, w.table.epoch.Load())
}

// Retire ends a flow now, for a reason other than its time-out. It reports
// whether it was this call that did.
func (w *Worker) Retire(f *Flow, why verdict.Reason) bool {
	for {
		s := status(f.status.Load())
		if s.phase() != phaseLive {
			return false
		}
		if f.status.CompareAndSwap(uint32(s), uint32(s.withPhase(phaseDead))) {
			w.bury(f, s, why)
			return true
		}
	}
}

// expire ends a flow in status s if it has been silent for too long, and reports
// whether it has ended.
func (w *Worker) expire(f *Flow, s status) bool {
	seen := f.lastSeen()
	return w.table.limits.Load().expired(f, s.state(), seen, w.now) && w.endSilent(f, seen)
}

// endSilent ends a flow that has been silent since seen, and reports whether it
// has ended. The swap of the time last seen decides between us and a packet that
// comes at this moment: a flow that was refreshed after we looked stays.
func (w *Worker) endSilent(f *Flow, seen Tick) bool {
	if seen == expiring {
		return true // another worker is about to end it
	}
	if !f.claimExpiry(seen) {
		return false
	}
	w.Retire(f, verdict.None)
	return true
}

// bury takes an ended flow out of the index and lets go of what it held. s is
// the status that it ended in. Exactly one caller does this for a flow.
func (w *Worker) bury(f *Flow, s status, why verdict.Reason) {
	t := w.table
	id := t.ID(f)
	w.detach(id)
	w.note(EventEnd, f, s.state(), StateNone, why)
	t.peers.count(f, ^uint32(0))
	if s&counted != 0 {
		w.uncountSource(f.tuple[Original].Src)
	}
	if f.mapping != 0 {
		m := &t.mappings[f.mapping]
		m.end(t)
		m.hush(w.restUntil(m.proto, s.state(), why))
		w.Release(m)
	}
	w.flows.bury(id, t.epoch.Load())
}
