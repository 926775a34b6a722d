package nat

import (
	"cmp"
	"slices"
)

// HostPeer is a use that the host itself makes of a protocol without ports: what
// arrives of it from the peer at the local address is the host's own.
type HostPeer struct {
	Proto uint8
	Local uint32 // 0: each address of the host
	Peer  uint32 // 0: anybody
	By    string // what of the host speaks it, for people
}

func compareHostPeers(a, b *HostPeer) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Local, b.Local))
}

// HostPeers is all such use. NAT leaves it alone on the addresses that it shares
// with the host: without ports, nothing tells the host's answers from an inside
// host's (CVE-2021-3773, for protocols where a port cannot be reserved). It is
// immutable; nil has none.
type HostPeers struct {
	list   []HostPeer // by protocol, peer and local address
	anyone []HostPeer // those towards anybody, by local address
}

// NewHostPeers makes the table. Of several uses with the same addresses it keeps
// the one whose words come first.
func NewHostPeers(list []HostPeer) *HostPeers {
	h := &HostPeers{list: slices.Clone(list)}
	slices.SortFunc(h.list, func(a, b HostPeer) int { return cmp.Or(compareHostPeers(&a, &b), cmp.Compare(a.By, b.By)) })
	h.list = slices.CompactFunc(h.list, func(a, b HostPeer) bool { return compareHostPeers(&a, &b) == 0 })
	for _, p := range h.list {
		if p.Peer == 0 {
			h.anyone = append(h.anyone, p)
		}
	}
	return h
}

// All lists them; it is not to be changed.
func (h *HostPeers) All() []HostPeer {
	if h == nil {
		return nil
	}
	return h.list
}

// Equal reports whether both say the same.
func (h *HostPeers) Equal(other *HostPeers) bool { return slices.Equal(h.All(), other.All()) }

// Find returns the use that the host makes of a protocol between an address of its
// own and a peer, or nil.
func (h *HostPeers) Find(proto uint8, local, peer uint32) *HostPeer {
	if h == nil || len(h.list) == 0 {
		return nil
	}
	for _, local := range [...]uint32{local, 0} {
		if p := h.exact(proto, local, peer); p != nil {
			return p
		}
	}
	for i := range h.anyone {
		if p := &h.anyone[i]; p.Proto == proto && (p.Local == local || p.Local == 0) {
			return p
		}
	}
	return nil
}

func (h *HostPeers) exact(proto uint8, local, peer uint32) *HostPeer {
	want := HostPeer{Proto: proto, Local: local, Peer: peer}
	low, high := 0, len(h.list)
	for low < high {
		mid := int(uint(low+high) / 2)
		if compareHostPeers(&h.list[mid], &want) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low < len(h.list) && compareHostPeers(&h.list[low], &want) == 0 {
		return &h.list[low]
	}
	return nil
}
