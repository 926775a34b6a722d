package fib

import (
	"math/bits"
	"net/netip"
)

// maxHopID is the last hop that has an id.
const maxHopID = 1<<16 - 1

// hopKey is what a hop is: a neighbour on a port, and the size of packets that
// the route to it allows.
type hopKey struct {
	addr uint32
	port PortID
	mtu  uint16
}

func (k hopKey) pack() uint64 { return uint64(k.addr)<<32 | uint64(k.mtu)<<8 | uint64(k.port) }

// golden is 2^64 over the golden ratio: multiplication by it spreads the
// consecutive addresses of a network over the table (Knuth, TAOCP 6.4).
const golden = 0x9e3779b97f4a7c15

// hopIndex finds a hop by its key: open addressing, linear probing, at most
// half full, so that a probe ends after a slot or two.
type hopIndex struct {
	slots []hopSlot // a power of two
	shift uint8     // 64 - log2(len(slots))
}

type hopSlot struct {
	key uint64
	hop uint32 // 0: the slot is empty
}

func newHopIndex(hops []Hop) hopIndex {
	size := 1 << bits.Len(uint(2*len(hops)))
	x := hopIndex{slots: make([]hopSlot, size), shift: uint8(64 - bits.TrailingZeros(uint(size)))}
	for i := 1; i < len(hops); i++ {
		h := &hops[i]
		key := hopKey{h.Gateway, h.Port, h.MTU}.pack()
		n := key * golden >> x.shift
		for x.slots[n].hop != 0 {
			n = (n + 1) & uint64(size-1)
		}
		x.slots[n] = hopSlot{key, uint32(i)}
	}
	return x
}

// find returns the hop of k, 0 where there is none.
func (x *hopIndex) find(k hopKey) uint32 {
	key := k.pack()
	for n := key * golden >> x.shift; ; n = (n + 1) & uint64(len(x.slots)-1) {
		if s := &x.slots[n]; s.hop == 0 || s.key == key {
			return s.hop
		}
	}
}

// addrSet is a set of addresses: single ones by open addressing as in hopIndex,
// and the few whole networks (127.0.0.0/8) one by one.
type addrSet struct {
	slots    []uint32 // a power of two; 0 is an empty slot
	shift    uint8
	networks []network
}

type network struct{ addr, mask uint32 }

func newAddrSet(prefixes []netip.Prefix) addrSet {
	size := 1 << bits.Len(uint(2*len(prefixes)+1))
	x := addrSet{slots: make([]uint32, size), shift: uint8(64 - bits.TrailingZeros(uint(size)))}
	for _, p := range prefixes {
		addr := U32(p.Addr())
		if p.Bits() < 32 || addr == 0 {
			if n := (network{addr & mask(p.Bits()), mask(p.Bits())}); !x.covers(n) {
				x.networks = append(x.networks, n)
			}
			continue
		}
		if !x.contains(addr) {
			x.insert(addr)
		}
	}
	return x
}

func (x *addrSet) covers(n network) bool {
	for _, m := range x.networks {
		if m.mask <= n.mask && n.addr&m.mask == m.addr {
			return true
		}
	}
	return false
}

func (x *addrSet) insert(addr uint32) {
	n := uint64(addr) * golden >> x.shift
	for x.slots[n] != 0 {
		n = (n + 1) & uint64(len(x.slots)-1)
	}
	x.slots[n] = addr
}

func (x *addrSet) contains(addr uint32) bool {
	for n := uint64(addr) * golden >> x.shift; x.slots[n] != 0; n = (n + 1) & uint64(len(x.slots)-1) {
		if x.slots[n] == addr {
			return true
		}
	}
	for i := range x.networks {
		if addr&x.networks[i].mask == x.networks[i].addr {
			return true
		}
	}
	return false
}
