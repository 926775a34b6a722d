package gateway

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// OtherProtocols is masquerade.other-protocols: what becomes of packets of
// protocols without ports that would have to be translated.
type OtherProtocols uint8

// The choices.
const (
	OtherAddressOnly OtherProtocols = iota // translated by their address
	OtherDrop
	OtherPass // left to the kernel, never sent out by a worker
)

// otherReason is why a flow of such a protocol does not begin.
var otherReason = [...]verdict.Reason{
	OtherAddressOnly: verdict.None,
	OtherDrop:        verdict.ProtocolUnsupported,
	OtherPass:        verdict.ProtocolPassed,
}

// masqueradeAddress begins a flow of a protocol without ports, whose source is
// translated by its address alone. There is no port to claim: the insertion of the
// reply's tuple is the claim, so that of several inside hosts one has a protocol
// towards a peer on each external address, and none on one where the host itself
// does. The source's own address is tried first, then the others of the pool; the
// reason is that of the first.
func (w *Worker) masqueradeAddress(p *packet.Packet, key conntrack.Tuple, d *Decision) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	nf := conntrack.NewFlow{Original: key, Reply: d.Target.Reverse(), Kind: conntrack.Masquerade, OutPort: d.Hop.Port}
	first := d.External
	pool := w.snapshot.Pools[d.Hop.Port]
	if first == nil {
		if first = pool.For(w.flows, p.Src); first == nil {
			return nil, 0, verdict.NoExternalAddress
		}
	}
	nf.Kind = d.Kind
	flow, dir, r := w.claimPeer(p, &nf, first)
	if !taken(r) || d.External != nil {
		return flow, dir, r
	}
	for _, x := range pool.Others() {
		if flow, dir, other := w.claimPeer(p, &nf, x); !taken(other) {
			return flow, dir, other
		}
	}
	return nil, 0, r
}

// claimPeer begins a flow of a protocol without ports at an external address,
// unless its answers are somebody else's.
func (w *Worker) claimPeer(p *packet.Packet, nf *conntrack.NewFlow, x *conntrack.External) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	nf.Reply.Dst = x.Address()
	if w.snapshot.hostSpeaks(p.Proto, nf.Reply.Dst, nf.Reply.Src) {
		return nil, 0, verdict.HostPeer
	}
	flow, dir, r := w.create(p, nf)
	if r == verdict.ReplyTupleTaken {
		r = verdict.PeerTaken // named by what the operator can do about it
	}
	return flow, dir, r
}

// taken reports whether a claim failed for what another address of the pool may
// not have.
func taken(r verdict.Reason) bool { return r == verdict.PeerTaken || r == verdict.HostPeer }

// forecastAddress says what masqueradeAddress would come to.
func (s *Snapshot) forecastAddress(d *Decision, flows *conntrack.Worker, p *packet.Packet, now conntrack.Tick) nat.Forecast {
	reply := d.Target.Reverse()
	claim := func(x *conntrack.External) verdict.Reason {
		reply.Dst = x.Address()
		if s.hostSpeaks(p.Proto, reply.Dst, reply.Src) {
			return verdict.HostPeer
		}
		if other, _ := flows.Find(reply, now); other != nil {
			return verdict.PeerTaken
		}
		return verdict.None
	}
	pool := s.Pools[d.Hop.Port]
	first := d.External
	if first == nil {
		first = pool.For(flows, p.Src)
	}
	if first == nil {
		return nat.Forecast{Reason: verdict.NoExternalAddress}
	}
	r := claim(first)
	switch {
	case r == verdict.None:
		return nat.Forecast{External: first, Origin: nat.PortKept}
	case d.External != nil:
		return nat.Forecast{External: first, Reason: r}
	}
	for _, x := range pool.Others() {
		if claim(x) == verdict.None {
			return nat.Forecast{External: x, Origin: nat.PortKept}
		}
	}
	return nat.Forecast{External: first, Reason: r}
}
