// Package fib is the forwarding information base that workers read: an
// immutable snapshot of policy rules, routing tables, next hops and neighbours,
// compiled so that one lookup answers what Linux would answer for a forwarded
// packet (net/core/fib_rules.c, net/ipv4/fib_trie.c, net/ipv4/fib_semantics.c).
//
// It owns the lookup and the assignment of hop ids. It does not know where
// routes come from: internal/route mirrors the kernel's into a Builder, tests
// fill one by hand. Nothing here reads a clock, a socket or a file.
//
// Concurrency: a Snapshot is immutable and read by any number of goroutines. A
// Builder belongs to one goroutine. Lookup, Hop, Local and Broadcast allocate
// nothing.
//
// Addresses are uint32 in host order (10.0.0.1 is 0x0a000001); netip at the
// edges. Only IPv4.
package fib

import (
	"math/bits"
	"net/netip"
)

// PortID is an interface's index in the configured list of interfaces.
type PortID = uint8

// NoPort is the PortID of no listed interface.
const NoPort PortID = 0xff

// HopID names a hop within one generation of snapshots; 0 names none.
type HopID uint16

// HopType says what a route does with a packet.
type HopType uint8

const (
	NoRoute     HopType = iota // no rule and no table has an answer
	Forward                    // leaves by a listed interface
	Local                      // is for the host itself
	Broadcast                  // the broadcast address of a connected network
	Kernel                     // leaves by an interface that is not listed, or in a way only the kernel knows
	Unreachable                // the route or rule says unreachable
	Prohibit                   // the route or rule says prohibit
	Blackhole                  // the route or rule says blackhole
)

var hopTypes = [...]string{"no-route", "forward", "local", "broadcast", "kernel", "unreachable", "prohibit", "blackhole"}

// String returns the type's kebab-case word.
func (t HopType) String() string {
	if int(t) < len(hopTypes) {
		return hopTypes[t]
	}
	return "unknown"
}

// NeighState is what is known of a neighbour's link address.
type NeighState uint8

const (
	Unresolved NeighState = iota // not asked yet, or no answer yet
	Resolved                     // Hop.MAC is good
	Failed                       // the kernel asked and got no answer
)

var neighStates = [...]string{"unresolved", "resolved", "failed"}

// String returns the state's kebab-case word.
func (s NeighState) String() string {
	if int(s) < len(neighStates) {
		return neighStates[s]
	}
	return "unknown"
}

// Hop is the answer of a lookup: what to do with the packet and, where Type is
// Forward, the way out and the neighbour to send it to. For other types only
// Type, Port and Ifindex (of the route, where it has them) mean anything.
type Hop struct {
	Type    HopType
	State   NeighState
	Port    PortID // NoPort unless the interface is listed
	Up      bool   // the interface can send: administratively up, with carrier
	Ifindex int32
	Gateway uint32  // the neighbour's address; the packet's destination itself where that is on the link
	MAC     [6]byte // the neighbour's, valid where State is Resolved
	Source  [6]byte // the interface's own
	MTU     uint16  // bytes of an IPv4 packet: the interface's, or the route's where that is lower
}

// Interface is what is known of a listed interface. One that does not exist now
// has Ifindex 0 and Up false.
type Interface struct {
	Port    PortID
	Name    string
	Ifindex int32
	MAC     [6]byte
	MTU     uint16
	Up      bool // administratively up, with carrier
	Virtual bool // veth, tun, virtio: a local stack may hand out partial checksums

	// Primary is the address that masquerade `auto` and locally made packets
	// use: the first global one that is not secondary; 0 where there is none.
	Primary   uint32
	Addresses []netip.Prefix // each with its network's length, host bits set
}

// U32 returns an IPv4 address in host order. It panics on any other address.
func U32(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// Addr is the inverse of U32.
func Addr(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// mask returns the netmask of a prefix of bits length.
func mask(bits int) uint32 { return uint32(^uint64(0) << (32 - bits)) }

// onesOf returns the length of a netmask.
func onesOf(mask uint32) int { return bits.OnesCount32(mask) }
