package gateway

import (
	"sluice/internal/fib"
	"sluice/nat"
)

// Snapshot is everything that workers read and the control plane changes. It is
// immutable once published; a change publishes another one.
type Snapshot struct {
	Policy *nat.Policy
	Routes *fib.Snapshot
	Roles  [MaxPorts]Role

	// Pools has, for every outside port, the external addresses that flows
	// leaving by it are masqueraded to; nil where there is none.
	Pools [MaxPorts]*nat.Pool
	Ports nat.PortRange // masquerade.port-range

	Behaviour nat.Behaviour // masquerade.mapping, filtering, overload-when-exhausted
	Balance   Balance       // of services

	// Generation changes with everything that may change where a flow leaves
	// or whether it may leave: routes, addresses, links, policy. A flow that
	// cached its next hop under another generation is decided again.
	Generation uint16

	Static *nat.Static    // port-forwards; nil where there is none
	Other  OtherProtocols // masquerade.other-protocols
	Host   *nat.HostPeers // with whom the host itself speaks such protocols

	Hairpin     bool // masquerade.hairpin
	OutboundUDP bool // masquerade.inbound-refresh: false
	DropOptions bool // masquerade.ip-options: drop
	DropForeign bool // masquerade.foreign-sources: drop
	PickUp      bool // masquerade.tcp-pickup: outbound

	// MSS is masquerade.mss-clamp: the largest maximum segment size that a SYN
	// may leave with, MSSAuto or 0 for off.
	MSS uint16
}

// leavesOutside reports whether a packet that leaves by port out towards dst
// crosses to the outside, where private sources must not be seen.
func (s *Snapshot) leavesOutside(out fib.PortID, dst uint32) bool {
	switch s.Roles[out] {
	case RoleOutside:
		return true
	case RoleBoth:
		return !s.Policy.InSources(dst)
	}
	return false
}

// fromInside reports whether a packet from src that arrived on port in comes
// from the inside.
func (s *Snapshot) fromInside(in fib.PortID, src uint32) bool {
	switch s.Roles[in] {
	case RoleInside:
		return true
	case RoleBoth:
		return s.Policy.InSources(src)
	}
	return false
}

// ownsExternal reports whether flows that leave by port out may use addr as
// their external address.
func (s *Snapshot) ownsExternal(out fib.PortID, addr uint32) bool {
	return s.Pools[out] != nil && s.Pools[out].Holds(addr) || s.Static.Owns(out, addr)
}

// hopKey is what a flow caches of its next hop: an id that is only good under
// the generation it was found in.
func (s *Snapshot) hopKey(id fib.HopID) uint32 { return uint32(s.Generation)<<16 | uint32(id) }

// DecidesLike reports whether flows decided under t need not be decided again
// under s: only neighbours differ.
func (s *Snapshot) DecidesLike(t *Snapshot) bool {
	return s.Policy == t.Policy && s.Routes.Generation() == t.Routes.Generation() &&
		s.Roles == t.Roles && s.Pools == t.Pools && s.Static == t.Static && s.Balance.decidesLike(&t.Balance)
}
