package conntrack

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	portSpaces = 3 // TCP, UDP, ICMP identifiers
	portWords  = 1 << 16 / 64

	// HeldWords is the length of the bitmap of an External: a bit for each
	// TCP port, then each UDP port, then each ICMP identifier.
	HeldWords = portSpaces * portWords
)

// External is one external address: which mapping holds which of its ports.
//
// The array of ids is where a port is claimed, by compare-and-swap, and what
// filtering and hairpinning look at. The bitmap mirrors it for the steering
// program, which sends a packet for a held port to a worker and any other to
// the host. The bit is set after the claim, but before NewMapping returns and so
// before a packet can leave that is answered to this port. It is cleared before
// the id is: were the id cleared first, another worker could claim the port and
// set the bit, and we would clear that one's.
//
// A port whose mapping has ended may rest: its word then says for whom and until
// when, see rest.go, and its bit stays.
//
// An External outlives its place in the table: it is removed while mappings use
// it, and stays theirs until the last has ended.
type External struct {
	addr     uint32
	at       atomic.Uint32 // place in externals.list
	gone     atomic.Bool
	mapped   [portSpaces]atomic.Int32 // ports that mappings hold
	resting  [portSpaces]atomic.Int32
	refused  [portSpaces]atomic.Uint64 // new mappings, for want of a port
	held     []uint64                  // shared with the kernel where it is a map's memory
	reserved [portSpaces][portWords]atomic.Uint64
	static   [portSpaces][portWords]atomic.Uint64 // see SetStatic
	ports    [portSpaces][1 << 16]atomic.Uint32

	control  sync.Mutex // guards reserves
	reserves [reservers][portSpaces]*[portWords]uint64
}

// Reserver is who keeps ports from being given out. Each has a set of its own.
type Reserver uint8

// The reservers.
const (
	ByHost    Reserver = iota // sockets of the gateway's own host
	ByService                 // services that are balanced
	reservers
)

// NewExternal makes an external address without mappings. held are HeldWords
// zero words that mirror what is claimed, for example a memory-mapped BPF map;
// with nil the External has its own.
func NewExternal(addr uint32, held []uint64) *External {
	if held == nil {
		held = make([]uint64, HeldWords)
	}
	return &External{addr: addr, held: held[:HeldWords]}
}

// Address is the external address in host byte order.
func (x *External) Address() uint32 { return x.addr }

// Gone reports whether the address was removed. Nothing new is mapped to it.
func (x *External) Gone() bool { return x.gone.Load() }

// Claimed is how many ports are mapped or rest.
func (x *External) Claimed() (n int) {
	for space := range portSpaces {
		n += int(x.mapped[space].Load() + x.resting[space].Load())
	}
	return n
}

// Reserve sets the ports of proto that must never be given out, as far as `by` is
// concerned: what is reserved is what any of them reserves. A bit is a port. nil
// is none. Mappings that hold one already keep it (RFC 4787 REQ-11). It is for
// the control plane.
func (x *External) Reserve(by Reserver, proto uint8, ports *[portWords]uint64) {
	space, ok := portSpace(proto)
	if !ok || by >= reservers {
		return
	}
	x.control.Lock()
	defer x.control.Unlock()
	x.reserves[by][space] = nil
	if ports != nil {
		own := *ports
		x.reserves[by][space] = &own
	}
	for i := range portWords {
		var union uint64
		for by := range x.reserves {
			if set := x.reserves[by][space]; set != nil {
				union |= set[i]
			}
		}
		x.reserved[space][i].Store(union)
	}
}

// Holds reports whether a mapping holds the port.
func (x *External) Holds(proto uint8, port uint16) bool {
	space, ok := portSpace(proto)
	if !ok {
		return false
	}
	word := x.ports[space][port].Load()
	return word != 0 && word&restBit == 0
}

// Held reports whether a mapping holds the port or held it until a while ago, or a
// static forward has it: what the steering program sees.
func (x *External) Held(proto uint8, port uint16) bool {
	space, ok := portSpace(proto)
	return ok && (x.ports[space][port].Load() != 0 || x.static[space][port/64].Load()&(1<<(port%64)) != 0)
}

// FreeNear returns a free port, as NextFree does, of the 64 that `from` is among.
func (x *External) FreeNear(proto uint8, from, lo, hi uint16) (port uint16, ok bool) {
	return x.freeNear(proto, ^uint64(0), from, lo, hi)
}

// FreeNearLike is FreeNear among the ports that are even as port like is, or odd.
func (x *External) FreeNearLike(proto uint8, like, from, lo, hi uint16) (port uint16, ok bool) {
	return x.freeNear(proto, evenPorts<<(like&1), from, lo, hi)
}

func (x *External) freeNear(proto uint8, among uint64, from, lo, hi uint16) (port uint16, ok bool) {
	space, known := portSpace(proto)
	if !known || from < lo || from > hi {
		return 0, false
	}
	first := from &^ 63
	if port, ok = x.firstFree(space, among, from, min(hi, first|63)); !ok && from > max(lo, first) {
		port, ok = x.firstFree(space, among, max(lo, first), from-1)
	}
	return port, ok
}

// NextFree returns the first port from `from` on that is neither held nor
// reserved and does not rest, continuing at lo after hi. It looks at every port of [lo, hi] before
// it gives up (RFC 6888 REQ-13). A from outside means lo. Another worker may claim the port
// before the caller does.
func (x *External) NextFree(proto uint8, from, lo, hi uint16) (port uint16, ok bool) {
	return x.nextFree(proto, ^uint64(0), from, lo, hi)
}

// NextFreeLike is NextFree among the ports that are even as port like is, or odd.
func (x *External) NextFreeLike(proto uint8, like, from, lo, hi uint16) (port uint16, ok bool) {
	return x.nextFree(proto, evenPorts<<(like&1), from, lo, hi)
}

// evenPorts are those of 64 ports that are even.
const evenPorts uint64 = 0x5555_5555_5555_5555

func (x *External) nextFree(proto uint8, among uint64, from, lo, hi uint16) (port uint16, ok bool) {
	space, known := portSpace(proto)
	if !known || lo > hi {
		return 0, false
	}
	if from < lo || from > hi {
		from = lo
	}
	if port, ok = x.firstFree(space, among, from, hi); !ok && from > lo {
		port, ok = x.firstFree(space, among, lo, from-1)
	}
	return port, ok
}

// firstFree returns the lowest free port of [lo, hi], 64 at a time, of which those
// that among has may be taken.
func (x *External) firstFree(space int, among uint64, lo, hi uint16) (uint16, bool) {
	held := x.held[space*portWords:][:portWords]
	for i := int(lo) / 64; i <= int(hi)/64; i++ {
		free := among &^ (atomic.LoadUint64(&held[i]) | x.reserved[space][i].Load())
		if i == int(lo)/64 {
			free &= ^uint64(0) << (lo % 64)
		}
		if free == 0 {
			continue
		}
		port := i*64 + bits.TrailingZeros64(free)
		return uint16(port), port <= int(hi)
	}
	return 0, false
}

// claim takes a free port for mapping id.
func (x *External) claim(space int, port uint16, id uint32) bool {
	if x.barred(space, port) || !x.ports[space][port].CompareAndSwap(0, id) {
		return false
	}
	x.take(space, port)
	return true
}

// barred reports whether the port is not to be given out to mappings.
func (x *External) barred(space int, port uint16) bool {
	return (x.reserved[space][port/64].Load()|x.static[space][port/64].Load())&(1<<(port%64)) != 0
}

// take counts a claimed port, and sets its bit.
func (x *External) take(space int, port uint16) {
	x.mapped[space].Add(1)
	x.setHeld(space, port)
}

func (x *External) setHeld(space int, port uint16) {
	atomic.OrUint64(&x.held[space*portWords+int(port/64)], 1<<(port%64))
}

// free gives up a port of mapping id at once.
func (x *External) free(space int, port uint16, id uint32) {
	x.unhold(space, port)
	x.ports[space][port].CompareAndSwap(id, 0)
	x.mapped[space].Add(-1)
}

// SetStatic sets the ports of proto that static forwards have: they are held
// whether or not a flow is there, and never given out. A mapping that has one
// already keeps it.
func (x *External) SetStatic(proto uint8, ports *[portWords]uint64) {
	space, ok := portSpace(proto)
	if !ok {
		return
	}
	for i, word := range ports {
		was := x.static[space][i].Swap(word)
		atomic.OrUint64(&x.held[space*portWords+i], word)
		for gone := was &^ word; gone != 0; gone &= gone - 1 {
			port := uint16(i*64 + bits.TrailingZeros64(gone))
			x.unhold(space, port)
			if x.ports[space][port].Load() != 0 {
				atomic.OrUint64(&x.held[space*portWords+i], 1<<(port%64))
			}
		}
	}
}

// unhold clears the bit of a port, unless it is static, or becomes so meanwhile.
func (x *External) unhold(space int, port uint16) {
	static, bit := &x.static[space][port/64], uint64(1)<<(port%64)
	if static.Load()&bit != 0 {
		return
	}
	atomic.AndUint64(&x.held[space*portWords+int(port/64)], ^bit)
	if static.Load()&bit != 0 {
		atomic.OrUint64(&x.held[space*portWords+int(port/64)], bit)
	}
}

// externals is the table's list: immutable, replaced as a whole.
type externals struct {
	list   []*External // by External.at; nil where the place is free
	byAddr []*External // those not gone, sorted by address
	gone   int         // how many of list are
}

func byAddress(x *External, addr uint32) int {
	switch {
	case x.addr < addr:
		return -1
	case x.addr > addr:
		return 1
	}
	return 0
}

// External returns the external address addr, or nil if there is none or it is
// gone. Any worker may ask.
func (t *Table) External(addr uint32) *External {
	list := t.externals.Load().byAddr
	if i, ok := slices.BinarySearchFunc(list, addr, byAddress); ok {
		return list[i]
	}
	return nil
}

// AddExternal makes an address known. One that was removed and comes back while
// mappings still hold ports of it must come back as the same External, or two
// mappings could hold one port: AddExternal refuses another.
func (t *Table) AddExternal(x *External) error {
	t.control.Lock()
	defer t.control.Unlock()
	now := t.externals.Load()
	list := slices.Clone(now.list)
	at := -1
	for i, other := range list {
		switch {
		case other == x:
			x.gone.Store(false)
			t.publishExternals(list)
			return nil
		case other == nil || other.Gone() && other.Claimed() == 0:
			at = i
		case other.addr == x.addr && other.Gone():
			return fmt.Errorf("external address %#08x: %d ports of its former life are still held; add the External that was removed", x.addr, other.Claimed())
		case other.addr == x.addr:
			return fmt.Errorf("external address %#08x: it is there already; remove it first", x.addr)
		}
	}
	if at < 0 {
		if len(list) == 1<<16 {
			return fmt.Errorf("external address %#08x: the table has %d already, which is the most", x.addr, len(list))
		}
		at, list = len(list), append(list, nil)
	}
	list[at] = x
	x.gone.Store(false)
	x.at.Store(uint32(at))
	t.publishExternals(list)
	return nil
}

// RemoveExternal makes an address unknown. Flows that use it end in the Sweeps
// that follow, with ExternalAddressMoved.
func (t *Table) RemoveExternal(x *External) {
	t.control.Lock()
	defer t.control.Unlock()
	list := slices.Clone(t.externals.Load().list)
	if !slices.Contains(list, x) {
		return
	}
	x.gone.Store(true)
	t.publishExternals(list)
}

func (t *Table) publishExternals(list []*External) {
	next := &externals{list: list}
	for _, x := range list {
		switch {
		case x == nil:
		case x.Gone():
			next.gone++
		default:
			next.byAddr = append(next.byAddr, x)
		}
	}
	slices.SortFunc(next.byAddr, func(a, b *External) int { return byAddress(a, b.addr) })
	t.externals.Store(next)
}
