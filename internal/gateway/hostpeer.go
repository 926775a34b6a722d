package gateway

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// hostSpeaks reports whether the host itself speaks a protocol without ports with
// the peer by an external address that it has as well: a tunnel, an IPsec
// association, a raw socket. A flow of NAT's would take the answers to that.
func (s *Snapshot) hostSpeaks(proto uint8, external, peer uint32) bool {
	return packet.Portless(proto) && s.Host.Find(proto, external, peer) != nil && s.Routes.Local(external)
}

// orHostPeer is r, the reason so far, or that the flow of a protocol without ports
// would take the host's answers: the one that leaves as d says by a static forward.
func (s *Snapshot) orHostPeer(r verdict.Reason, d *Decision) verdict.Reason {
	if r == verdict.None && s.hostSpeaks(d.Target.Proto, d.Target.Src, d.Target.Dst) {
		return verdict.HostPeer
	}
	return r
}

// TakesFromHost reports whether a flow gets answers that are the host's own: it
// began before the host spoke that protocol with that peer.
func (s *Snapshot) TakesFromHost(f *conntrack.Snapshot) bool {
	return f.Original.Src != f.Reply.Dst && s.hostSpeaks(f.Reply.Proto, f.Reply.Dst, f.Reply.Src)
}
