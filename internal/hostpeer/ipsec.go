package hostpeer

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"sluice/nat"
)

// ends are the two ends of an association, in network order of the kernel's
// messages: which of them is the host's, its addresses say.
type ends struct {
	proto    uint8
	src, dst uint32
}

func endsOf(proto netlink.Proto, src, dst net.IP) (e ends, ok bool) {
	s, d := src.To4(), dst.To4()
	if s == nil || d == nil {
		return e, false
	}
	return ends{uint8(proto), binary.BigEndian.Uint32(s), binary.BigEndian.Uint32(d)}, proto > 0 && proto < 255
}

// peers has it both ways. An address that is not the host's is one that NAT does
// not share with it, so the wrong way round asks for nothing.
func (e ends) peers(by string) []nat.HostPeer {
	return []nat.HostPeer{
		{Proto: e.proto, Local: e.src, Peer: e.dst, By: by},
		{Proto: e.proto, Local: e.dst, Peer: e.src, By: by},
	}
}

// association words IPsec states and policies. A state that is inside UDP (NAT-T,
// RFC 3948) is not ESP on the wire, and nor is what a policy expects between the
// same ends then.
func association(states []netlink.XfrmState, policies []netlink.XfrmPolicy) (peers []nat.HostPeer) {
	inUDP, plain := map[ends]bool{}, map[ends]bool{}
	for i := range states {
		e, ok := endsOf(states[i].Proto, states[i].Src, states[i].Dst)
		switch {
		case !ok || e.dst == 0:
		case states[i].Encap != nil:
			inUDP[e] = true
		case !plain[e]:
			plain[e] = true
			peers = append(peers, e.peers(fmt.Sprintf("IPsec state (%s)", states[i].Proto))...)
		}
	}
	for i := range policies {
		for _, t := range policies[i].Tmpls {
			e, ok := endsOf(t.Proto, t.Src, t.Dst)
			if ok && e.dst == 0 { // transport mode: between whom it is for
				e, ok = between(t.Proto, &policies[i])
			}
			if ok && !inUDP[e] && !plain[e] {
				plain[e] = true
				peers = append(peers, e.peers(fmt.Sprintf("IPsec policy (%s)", t.Proto))...)
			}
		}
	}
	return peers
}

// between are the ends of a policy that is for two hosts alone. One that is for
// networks names nobody yet: the states that it brings about will.
func between(proto netlink.Proto, p *netlink.XfrmPolicy) (ends, bool) {
	for _, n := range []*net.IPNet{p.Src, p.Dst} {
		if n == nil {
			return ends{}, false
		}
		if ones, bits := n.Mask.Size(); ones != 32 || bits != 32 {
			return ends{}, false
		}
	}
	return endsOf(proto, p.Src.IP, p.Dst.IP)
}
