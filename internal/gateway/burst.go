package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// frame returns the bytes of a received frame. The capacity ends with the
// frame, so that nothing can grow into the next one.
func (w *Worker) frame(d xdp.Desc) []byte {
	end := d.Addr + uint64(d.Len)
	return w.bytes[d.Addr:end:end]
}

// burst takes n frames that arrived on port in through all stages.
func (w *Worker) burst(in fib.PortID, n int) {
	if w.looks != nil {
		w.lookBurst(in, n)
		return
	}
	w.pass(in, n)
}

// pass is burst when nobody looks.
func (w *Worker) pass(in fib.PortID, n int) {
	w.in = in
	keys := w.parse(n)
	unmatched := w.flows.Match(&w.lookup, keys, w.now)
	if w.ahead.decided = 0; unmatched > 0 {
		w.decideAhead(keys)
	}
	for k, to := 0, 0; k < keys; {
		// What the next packets need is under way meanwhile.
		for to = w.flows.Settle(&w.lookup, k); k < to; k++ {
			if w.ahead.decided>>k != 0 {
				w.sendAhead(k)
			}
			w.decide(k)
		}
	}
	if w.nDead > 0 {
		w.free()
	}
}

// askAhead is after how many keys the flow table is asked for them, so that their
// buckets come while the next frames are parsed.
const askAhead = 8

// parse validates each frame and classifies it. Packets that belong to a flow
// get a slot in the lookup; their number is returned. Everything else, which is
// rare, is dealt with here.
func (w *Worker) parse(n int) (keys int) {
	iface := w.snapshot.Routes.Interface(w.in)
	virtual := iface != nil && iface.Virtual
	c := &w.counters.Ports[w.in]
	asked := 0
	for i := range n {
		if keys-asked == askAhead {
			w.flows.Ask(&w.lookup, asked, keys)
			asked = keys
		}
		d := w.frames[i]
		c.RxPackets++
		c.RxBytes += uint64(d.Len)
		frame, p := w.frame(d), &w.packets[i]
		if r := packet.Parse(frame, p); r != verdict.None {
			w.refuse(d, frame, r)
			continue
		}
		if virtual && packet.Partial(frame, p) {
			packet.Complete(frame, p)
			w.counters.Completed++
		}
		if p.Flags&(packet.FlagFragment|packet.FlagICMPError|packet.FlagOptions) != 0 && w.special(i, d, frame, p) {
			continue
		}
		// In place: to copy a tuple that was made field by field means to wait
		// until the fields are through to the cache.
		k := &w.lookup.Keys[keys]
		k.Src, k.Dst, k.SrcPort, k.DstPort, k.Proto = p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto
		w.index[keys] = uint8(i)
		keys++
	}
	w.flows.Ask(&w.lookup, asked, keys)
	return keys
}

// special deals with the packets that the flow lookup cannot serve by itself
// and reports whether it took frame i of the burst.
func (w *Worker) special(i int, d xdp.Desc, frame []byte, p *packet.Packet) bool {
	if p.Is(packet.FlagOptions) && w.snapshot.Balance.Strips {
		d, frame = w.stripForeign(i, p)
	}
	switch {
	case p.Is(packet.FlagFragment):
		w.fragment(d, frame, p)
	case p.Is(packet.FlagOptions) && w.snapshot.DropOptions:
		w.reject(d, frame, p, w.in, verdict.OptionsRefused)
	case p.Is(packet.FlagICMPError):
		w.icmpError(d, frame, p)
	default:
		return false
	}
	return true
}

// key is the five-tuple that a packet is looked up by, as it arrives.
func key(p *packet.Packet) conntrack.Tuple {
	return conntrack.Tuple{Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto}
}

// refuse drops a frame that Parse would not have, unless it is an ARP request
// that the gateway has to answer.
func (w *Worker) refuse(d xdp.Desc, frame []byte, r verdict.Reason) {
	if r == verdict.NotIPv4 && w.answerARP(d, frame) {
		return
	}
	w.drop(d, r)
}

// decide takes the packet in lookup slot k to its verdict.
func (w *Worker) decide(k int) {
	i := w.index[k]
	d, p := w.frames[i], &w.packets[i]
	// RFC 1812 4.2.2.9: what is for the host itself may arrive with any TTL.
	if p.TTL <= 1 && !w.snapshot.Routes.Local(p.Dst) && !w.snapshot.serves(p.Dst) {
		w.reject(d, w.frame(d), p, w.in, verdict.TTLExpired)
		return
	}
	flow, dir := w.lookup.Flow[k], w.lookup.Dir[k]
	var decided *Decision
	if flow == nil {
		if w.atService(d, p) {
			return
		}
		decided = w.decidedAhead(k)
	}
	r := w.deliver(d, p, w.lookup.Keys[k], decided, flow, dir)
	if r == verdict.BackendGone && w.moved {
		w.moved = false
		r = w.deliver(d, p, w.lookup.Keys[k], nil, nil, 0)
	}
	switch {
	case r == verdict.None:
	case r == verdict.PortSearchWaiting:
		if r = w.holdSearch(d, p, true); r != verdict.None {
			w.reject(d, w.frame(d), p, w.in, r)
		}
	case flow == nil && w.answersEcho(p, r):
		w.answerEcho(d, p)
	default:
		w.reject(d, w.frame(d), p, w.in, r)
	}
}

// deliver sends a packet on its way by its flow, which begins here where it is nil:
// by a decision that is made already, or nil.
func (w *Worker) deliver(d xdp.Desc, p *packet.Packet, key conntrack.Tuple, decided *Decision, flow *conntrack.Flow, dir conntrack.Direction) verdict.Reason {
	if flow == nil {
		var r verdict.Reason
		if flow, dir, r = w.miss(p, key, decided); r != verdict.None {
			w.holdSYN(w.frame(d), p, r)
			return r
		}
	}
	return w.forward(d, w.frame(d), p, flow, dir)
}

// answerARP answers a request for an external or a service address that the host
// does not hold: nobody else would. Reports whether it took the frame.
func (w *Worker) answerARP(d xdp.Desc, frame []byte) bool {
	target, ok := nat.ARPTarget(frame)
	if !ok || w.table.External(target) == nil && !w.snapshot.announces(target) || w.snapshot.Routes.Local(target) {
		return false
	}
	iface := w.snapshot.Routes.Interface(w.in)
	if iface == nil {
		return false
	}
	nat.ARPReply(frame, iface.MAC)
	w.queue(w.in, d)
	w.counters.ARPReplies++
	return true
}
