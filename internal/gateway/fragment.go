package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// fragment takes a fragment on its way. Where its datagram may have to be
// translated, the first fragment goes as any packet does, and the others follow
// it, for only the first one has the ports (RFC 4787 REQ-14).
// Otherwise each goes by itself, and depends on no other and on no memory.
func (w *Worker) fragment(d xdp.Desc, frame []byte, p *packet.Packet) {
	var x Decision
	switch {
	case p.TTL <= 1 && !w.snapshot.Routes.Local(p.Dst):
		w.reject(d, frame, p, w.in, verdict.TTLExpired)
	case w.snapshot.follows(&x, w.flows, w.in, p):
		w.followed(d, frame, p)
	default:
		if r := w.forwardFragment(d, frame, p, &x); r != verdict.None {
			w.reject(d, frame, p, w.in, r)
		}
	}
}

// follows reports whether fragment p belongs to a datagram that may have to be
// translated. It goes by addresses alone, so that it is the same for all fragments of a
// datagram, whichever comes first. What is translated by its ports alone must be
// known here by its addresses; to follow too much costs memory and harms nobody. d
// is what was decided otherwise.
func (s *Snapshot) follows(d *Decision, flows *conntrack.Worker, in fib.PortID, p *packet.Packet) bool {
	if s.followsService(p) {
		return true
	}
	portless := *p
	portless.SrcPort, portless.DstPort = 0, 0
	portless.Flags &^= packet.FlagDontFragment // the MTU is looked at later: fragments differ in length
	s.decide(d, flows, in, &portless, key(&portless))
	return d.External != nil || d.Kind != conntrack.Forward ||
		d.Asked == Forwards && s.Static.Serves(p.Src, p.Proto) // an answer by a static forward's host
}

// forwardFragment forwards a fragment of a datagram whose addresses stay as they
// are.
func (w *Worker) forwardFragment(d xdp.Desc, frame []byte, p *packet.Packet, x *Decision) verdict.Reason {
	switch {
	case p.Is(packet.FlagOptions) && w.snapshot.DropOptions:
		return verdict.OptionsRefused
	case x.Reason != verdict.None:
		return x.Reason
	case p.Length() > int(x.Hop.MTU) && p.Is(packet.FlagDontFragment):
		return w.tooBig(x.Hop.MTU)
	}
	if r := w.judgeErrorFragment(frame, p); r != verdict.None {
		return r
	}
	if r := w.ready(&x.Hop, p.Src); r != verdict.None {
		return r
	}
	nat.DecrementTTL(frame, p)
	d.Len = uint32(p.End)
	w.send(d, frame, p, p.Src, &x.Hop)
	return verdict.None
}

// followed deals with a fragment that follows the first one of its datagram, or is
// that. The worker that has the datagram does.
func (w *Worker) followed(d xdp.Desc, frame []byte, p *packet.Packet) {
	k := fragment.Key{Src: p.Src, Dst: p.Dst, ID: p.ID, Proto: p.Proto}
	hash := w.exchange.Hash(k)
	if owner := w.exchange.Acquire(hash, w.id); owner != w.id {
		w.handOver(d, frame, hash, owner)
		return
	}
	w.counters.FragmentsFollowed++
	x, duplicate, r := w.enter(k, hash, p)
	switch {
	case r != verdict.None:
		w.refuseDatagram(x, r)
		w.reject(d, frame, p, w.in, r)
	case p.Is(packet.FlagLaterFragment) && x.Stage == fragment.Waiting && duplicate:
		w.drop(d, verdict.FragmentDuplicate)
	case p.Is(packet.FlagLaterFragment) && x.Stage == fragment.Waiting:
		w.await(d, frame, p, x)
	case p.Is(packet.FlagLaterFragment):
		w.follow(d, frame, p, x)
	default:
		w.lead(d, frame, p, x)
	}
	// A datagram that is complete is forgotten at once: its identification may be
	// used again.
	if x.Complete() && x.Stage != fragment.Waiting {
		w.store.Remove(x)
	}
	w.exchange.Release(hash)
}

// enter finds or begins the datagram of fragment p, and notes the fragment there.
// A reason other than None is for all of the datagram.
func (w *Worker) enter(k fragment.Key, hash uint64, p *packet.Packet) (x *fragment.Datagram, duplicate bool, r verdict.Reason) {
	x = w.store.Find(k, hash)
	first := !p.Is(packet.FlagLaterFragment)
	switch {
	case x == nil:
		w.makeRoom(fragment.Waiting, k.Src)
		x = w.store.New(k, hash, w.now)
	case x.Stage == fragment.Refused && (x.Reason == verdict.FragmentOverlap || x.Reason == verdict.TooManyFragments):
		return x, false, x.Reason
	case x.Stage == fragment.Refused && first:
		// The sender tries again with the same identification.
		w.makeRoom(fragment.Waiting, k.Src)
		w.store.Restart(x, w.now)
	}
	duplicate, r = x.Add(p)
	if duplicate && first && !x.SamePorts(p) {
		r = verdict.FragmentOverlap
	}
	return x, duplicate, r
}

// lead passes the first fragment of a datagram, which finds or begins the flow as
// any packet does, and then those that came before it.
func (w *Worker) lead(d xdp.Desc, frame []byte, p *packet.Packet, x *fragment.Datagram) {
	x.Learn(p)
	r := w.leadFlow(d, frame, p, x)
	if r == verdict.PortSearchWaiting {
		r = w.holdSearch(d, p, false)
	}
	if r != verdict.None {
		w.stage(x, fragment.Refused)
		x.Reason = r
		w.reject(d, frame, p, w.in, r)
	} else if x.Stage != fragment.Following {
		w.stage(x, fragment.Following)
	}
	in := w.in
	for f := w.store.Next(x); f != nil; f = w.store.Next(x) {
		w.in = fib.PortID(f.In)
		w.resume(f, x)
		w.store.Drop(x)
	}
	w.in = in
}

func (w *Worker) leadFlow(d xdp.Desc, frame []byte, p *packet.Packet, x *fragment.Datagram) verdict.Reason {
	switch {
	case p.Is(packet.FlagOptions) && w.snapshot.DropOptions:
		return verdict.OptionsRefused
	case p.Is(packet.FlagICMPError):
		return w.leadError(d, frame, p, x)
	}
	if took, r := w.fragmentAtService(d, frame, p); took {
		return r
	}
	flow, dir, r := w.miss(p, key(p), nil)
	if r != verdict.None {
		return r
	}
	r = w.forwardAs(d, frame, p, flow, dir, x)
	if r == verdict.BackendGone && w.moved {
		w.moved = false
		if flow, dir, r = w.miss(p, key(p), nil); r == verdict.None {
			r = w.forwardAs(d, frame, p, flow, dir, x)
		}
	}
	return r
}

// follow passes a later fragment whose datagram's first one has been dealt with.
func (w *Worker) follow(d xdp.Desc, frame []byte, p *packet.Packet, x *fragment.Datagram) {
	r, took := x.Reason, false
	x.Lend(p)
	if about, ok := x.Error(); ok && r == verdict.None {
		took, r = true, w.passErrorOf(d, frame, p, nil, about, x)
	} else if r == verdict.None {
		took, r = w.fragmentAtService(d, frame, p)
	}
	if r == verdict.None && !took {
		if flow, dir := w.flows.Find(key(p), w.now); flow != nil {
			r = w.forwardAs(d, frame, p, flow, dir, x)
		} else {
			r = verdict.FragmentWithoutFirst
		}
	}
	if r != verdict.None {
		w.reject(d, frame, p, w.in, r)
	}
}

// forwardAs is forward for a fragment of x.
func (w *Worker) forwardAs(d xdp.Desc, frame []byte, p *packet.Packet, flow *conntrack.Flow, dir conntrack.Direction, x *fragment.Datagram) verdict.Reason {
	w.datagram, w.led = x, key(p)
	r := w.forward(d, frame, p, flow, dir)
	w.datagram = nil
	return r
}

// nameDatagram is the identification that all fragments of the datagram at hand
// leave with (RFC 6864): the first that leaves draws it.
func (w *Worker) nameDatagram(p *packet.Packet) uint16 {
	x := w.datagram
	if !x.Named {
		x.ID, x.Named = w.idents.next(p.Src, p.Dst, p.Proto), true
	}
	return x.ID
}
