package daemon

import (
	"net/netip"
	"slices"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/internal/verdict"
	"sluice/nat"
)

// hostPeerChange hands what the host speaks now to the control goroutine; an older
// state that was not taken yet is replaced.
func (d *Daemon) hostPeerChange(h *nat.HostPeers) {
	for {
		select {
		case d.hostPeersChanged <- h:
			return
		default:
		}
		select {
		case <-d.hostPeersChanged:
		default:
		}
	}
}

// leaveToHost ends the flows that would take the host's own answers, now that every
// worker uses s and begins no more of them: the host has begun to speak a protocol
// without ports with a peer that an inside host speaks it with, or was given the
// external address.
func (p *publisher) leaveToHost(s *gateway.Snapshot) {
	var shared []uint32
	for addr, x := range p.externals {
		if p.routes.Local(x.Address()) {
			shared = append(shared, addr)
		}
	}
	slices.Sort(shared)
	if p.left.host == s.Host && slices.Equal(p.left.shared, shared) {
		return
	}
	p.left.host, p.left.shared = s.Host, shared
	if len(s.Host.All()) == 0 {
		return
	}
	ended := p.table.EndWhere(func(f *conntrack.Snapshot) bool { return s.TakesFromHost(f) }, verdict.HostPeer, p.now())
	if ended > 0 {
		p.log.Info("the host itself speaks protocols without ports with these peers, flows ended", "flows", ended, "reason", verdict.HostPeer)
	}
}

// hostPeerStatus lists what the host speaks by the external addresses that it has.
func (p *publisher) hostPeerStatus() (list []control.HostPeer) {
	address := func(addr uint32) netip.Addr {
		if addr == 0 {
			return netip.Addr{}
		}
		return fib.Addr(addr)
	}
	for _, h := range p.host.All() {
		// An association is listed from both its ends.
		if (h.Local != 0 && (p.externals[h.Local] == nil || !p.routes.Local(h.Local))) || p.routes.Local(h.Peer) {
			continue
		}
		list = append(list, control.HostPeer{Protocol: control.Protocol(h.Proto), Address: address(h.Local), Peer: address(h.Peer), By: h.By})
	}
	return list
}
