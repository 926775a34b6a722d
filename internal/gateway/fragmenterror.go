package gateway

import (
	"sluice/conntrack"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// leadError passes the first fragment of an ICMP error, which has the headers that
// it quotes. Those that follow have nothing but addresses to be translated.
func (w *Worker) leadError(d xdp.Desc, frame []byte, p *packet.Packet, x *fragment.Datagram) verdict.Reason {
	quotedTuple, quoted, r := nat.QuotedTuple(frame, p)
	if r != verdict.None {
		return r
	}
	about := quotedTuple.Reverse()
	if !x.LearnError(about) {
		return verdict.FragmentOverlap // it came before, and quoted something else
	}
	return w.passErrorOf(d, frame, p, &quoted, about, x)
}

// passErrorOf is passError for a fragment of x.
func (w *Worker) passErrorOf(d xdp.Desc, frame []byte, p *packet.Packet, quoted *packet.Packet, about conntrack.Tuple, x *fragment.Datagram) verdict.Reason {
	w.datagram, w.led = x, about
	r := w.passError(d, frame, p, quoted, about)
	w.datagram = nil
	return r
}

// judgeErrorFragment refuses the first fragment of an ICMP error between addresses
// that stay, whose fragments do not follow it, unless it is about a flow whose
// addresses stay as well. Other fragments it lets pass.
func (w *Worker) judgeErrorFragment(frame []byte, p *packet.Packet) verdict.Reason {
	if !p.Is(packet.FlagICMPError) {
		return verdict.None
	}
	quotedTuple, quoted, r := nat.QuotedTuple(frame, p)
	if r != verdict.None {
		return r
	}
	flow, dir := w.flows.Find(quotedTuple.Reverse(), w.now)
	switch {
	case flow == nil:
		return verdict.ICMPErrorWithoutFlow
	case flow.Kind() != conntrack.Forward:
		return verdict.FragmentUnsupported
	}
	return w.snapshot.plausible(w.in, flow, dir, &quoted)
}
