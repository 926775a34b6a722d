package conntrack

import "sync/atomic"

// Kind is what is done to a flow's packets. Its words are the contract's.
type Kind uint8

const (
	Forward     Kind = iota // routed, not translated
	Masquerade              // source translated to an external address
	ServiceSNAT             // balanced, source translated
	ServiceDSR              // balanced, the backend answers the client itself
	DSRBackend              // the other end of ServiceDSR
	PortForward
	kinds
)

var kindWords = [kinds]string{"forward", "masquerade", "service-snat", "service-dsr", "dsr-backend", "port-forward"}

// String returns the kind's kebab-case word.
func (k Kind) String() string {
	if k >= kinds {
		return "unknown-kind"
	}
	return kindWords[k]
}

// Flow is one flow: 128 bytes, two cache lines. The first is written when the
// flow is created and, but for the next hops, never again until the record is
// reused; the second changes with every packet. A pointer to a Flow is good
// until its worker's next Quiesce or Offline.
type Flow struct {
	tuple      [2]Tuple // as packets arrive, by Direction
	mapping    uint32   // id, 0 = none
	backend    uint32   // see Services
	service    uint16   // likewise
	in, out    uint8    // ports that original, reply packets arrive on
	created    Tick
	generation uint32
	seal       uint32           // check sum of the above << 8 | Kind
	nextHop    [2]atomic.Uint32 // opaque, 0 = none

	status  atomic.Uint32 // status
	seen    Tick          // last packet; see storeTick
	packets [2]uint64     // see addCounter
	bytes   [2]uint64
	sent    [2]uint32     // TCP: one past the highest sequence number sent, by Direction
	acked   [2]uint32     // TCP: the highest that this direction acknowledged
	windows atomic.Uint32 // TCP: the largest windows offered, unscaled: original | reply << 16
	link    atomic.Uint32
}

// expiring is the time last seen of a flow that an expirer is about to end. No
// clock shows it: it is the tick in which the machine booted.
const expiring Tick = 0

// Tuple is the tuple of packets that arrive in direction d.
func (f *Flow) Tuple(d Direction) Tuple { return f.tuple[d&1] }

// is reports whether k is the tuple of direction d.
func (f *Flow) is(d Direction, k *Tuple) bool { return *f.tuple[d&1].words() == *k.words() }

// Translated is the tuple with which packets leave that arrived in direction d:
// the reverse of what the answers to them arrive with.
func (f *Flow) Translated(d Direction) Tuple { return f.tuple[d&1^1].Reverse() }

// Answer is the tuple that an answer to packets of direction d arrives with:
// Translated, reversed, in place. A Tuple is too large for the compiler to keep in
// registers, and to make a copy of one for each packet costs as much as the
// rewriting. It does not change while the pointer to the flow is good.
func (f *Flow) Answer(d Direction) *Tuple { return &f.tuple[d&1^1] }

// Kind is what is done to the flow's packets.
func (f *Flow) Kind() Kind { return Kind(f.seal) }

// Generation changes whenever the record is reused. Table.ID and it together
// name a flow.
func (f *Flow) Generation() uint32 { return f.generation }

// InPort is the port on which packets of the original direction arrive.
func (f *Flow) InPort() uint8 { return f.in }

// OutPort is the port on which packets of the reply direction arrive.
func (f *Flow) OutPort() uint8 { return f.out }

// Service is the id of the flow's service, 0 for none.
func (f *Flow) Service() uint16 { return f.service }

// Backend is the id of the flow's backend, 0 for none.
func (f *Flow) Backend() uint32 { return f.backend }

// State is what the flow's packets say about it.
func (f *Flow) State() State { return status(f.status.Load()).state() }

// Alive reports whether the flow has not ended.
func (f *Flow) Alive() bool { return status(f.status.Load()).phase() == phaseLive }

// Touch counts a packet of n bytes, and puts off the flow's end: packets of both
// directions do (RFC 4787 REQ-6).
func (f *Flow) Touch(d Direction, n int, now Tick) {
	storeTick(&f.seen, now)
	f.Count(d, n)
}

// Count counts a packet of n bytes that does not put off the flow's end.
func (f *Flow) Count(d Direction, n int) {
	addCounter(&f.packets[d&1], 1)
	addCounter(&f.bytes[d&1], uint64(n))
}

// Packets is how many packets of direction d were counted.
func (f *Flow) Packets(d Direction) uint64 { return loadCounter(&f.packets[d&1]) }

// NextHop is what SetNextHop stored for direction d, or 0. Concurrent callers
// may each find it missing and store their own: the last one stays.
func (f *Flow) NextHop(d Direction) uint32 { return f.nextHop[d&1].Load() }

// SetNextHop caches where packets that arrive in direction d leave.
func (f *Flow) SetNextHop(d Direction, hop uint32) { f.nextHop[d&1].Store(hop) }

// lastSeen is the time of the last packet.
func (f *Flow) lastSeen() Tick { return Tick(atomic.LoadUint32((*uint32)(&f.seen))) }

// claimExpiry makes the caller the one that may end the flow for its silence
// since seen, unless a packet came meanwhile.
func (f *Flow) claimExpiry(seen Tick) bool {
	return atomic.CompareAndSwapUint32((*uint32)(&f.seen), uint32(seen), uint32(expiring))
}

// sum is the check sum of everything in the first line that does not change: a
// record that a crash tore does not match its seal. 24 bits. The ids of service
// and backend are left out: whoever adopts the flow numbers them anew.
func (f *Flow) sum() uint32 {
	a, b := f.tuple[0].key(), f.tuple[1].key()
	h := mix(a.a^prime0, a.b^prime1)
	h = mix(h^b.a, b.b^prime0)
	h = mix(h^uint64(f.mapping), prime1^(uint64(f.in)<<16|uint64(f.out)<<24|uint64(f.created)<<32))
	h = mix(h^(uint64(f.generation)|uint64(f.seal&0xff)<<32), golden)
	return uint32(h >> 40)
}

// sealed reports whether the record is whole.
func (f *Flow) sealed() bool { return f.seal>>8 == f.sum() }
