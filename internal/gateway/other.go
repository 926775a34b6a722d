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
// towards a peer on each external address. The source's own address is tried
// first, then the others of the pool.
func (w *Worker) masqueradeAddress(p *packet.Packet, key conntrack.Tuple, d *Decision) (*conntrack.Flow, conntrack.Direction, verdict.Reason) {
	nf := conntrack.NewFlow{Original: key, Reply: d.Target.Reverse(), Kind: conntrack.Masquerade, OutPort: d.Hop.Port}
	first := d.External
	pool := w.snapshot.Pools[d.Hop.Port]
	if first == nil {
		if first = pool.For(w.flows, p.Src); first == nil {
			return nil, 0, verdict.NoExternalAddress
		}
	}
	nf.Kind, nf.Reply.Dst = d.Kind, first.Address()
	flow, dir, r := w.create(p, &nf)
	if r != verdict.ReplyTupleTaken || d.External != nil {
		return flow, dir, takenByPeer(r)
	}
	for _, x := range pool.Others() {
		nf.Reply.Dst = x.Address()
		if flow, dir, r = w.create(p, &nf); r != verdict.ReplyTupleTaken {
			break
		}
	}
	return flow, dir, takenByPeer(r)
}

// takenByPeer names the reason by what the operator can do about it.
func takenByPeer(r verdict.Reason) verdict.Reason {
	if r == verdict.ReplyTupleTaken {
		return verdict.PeerTaken
	}
	return r
}

// forecastAddress says what masqueradeAddress would come to.
func (s *Snapshot) forecastAddress(d *Decision, flows *conntrack.Worker, p *packet.Packet, now conntrack.Tick) nat.Forecast {
	reply := d.Target.Reverse()
	free := func(x *conntrack.External) bool {
		reply.Dst = x.Address()
		other, _ := flows.Find(reply, now)
		return other == nil
	}
	pool := s.Pools[d.Hop.Port]
	first := d.External
	if first == nil {
		first = pool.For(flows, p.Src)
	}
	switch {
	case first == nil:
		return nat.Forecast{Reason: verdict.NoExternalAddress}
	case free(first):
		return nat.Forecast{External: first, Origin: nat.PortKept}
	case d.External != nil:
		return nat.Forecast{External: first, Reason: verdict.PeerTaken}
	}
	for _, x := range pool.Others() {
		if free(x) {
			return nat.Forecast{External: x, Origin: nat.PortKept}
		}
	}
	return nat.Forecast{External: first, Reason: verdict.PeerTaken}
}
