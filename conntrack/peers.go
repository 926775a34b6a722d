package conntrack

import (
	"sync/atomic"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// PeerSlots is the length of the array by which the steering program knows the
// flows of protocols without ports.
const PeerSlots = 1 << 16

// peers counts, in slots chosen by a keyed hash, the flows of protocols without
// ports that are translated to an external address: of external address, peer and
// protocol together. The steering program sends a packet from a peer whose slot
// is not 0 to a worker, so that nothing can be full. Where two share a slot, a
// worker may get a packet of the host's, which it hands back.
//
// A slot is counted up before its flow is live, and so before a packet can leave
// that is answered, and down after it has ended. Addition commutes: no order of
// two workers loses a flow.
type peers struct {
	slots []uint32 // shared with the kernel; nil: nobody asks
	seed  uint64
}

// SharePeers hands over the PeerSlots words to count in, and the seed that the
// steering program's hash has. It comes before Rebuild and before any flow.
func (t *Table) SharePeers(slots []uint32, seed uint64) {
	t.peers = peers{slots: slots[:PeerSlots], seed: seed}
}

func (p *peers) slot(external, peer uint32, proto uint8) *uint32 {
	return &p.slots[packet.PeerSlot(p.seed, external, peer, proto)]
}

// count adds n for a flow, if it is one that is counted.
func (p *peers) count(f *Flow, n uint32) {
	a := &f.tuple[Reply]
	if p.slots != nil && packet.Portless(a.Proto) && a.Dst != f.tuple[Original].Src {
		atomic.AddUint32(p.slot(a.Dst, a.Src, a.Proto), n)
	}
}

// Peered reports whether the steering program takes a packet of a protocol without
// ports, from peer to the external address, for NAT's.
func (t *Table) Peered(external, peer uint32, proto uint8) bool {
	return t.peers.slots != nil && atomic.LoadUint32(t.peers.slot(external, peer, proto)) != 0
}

// EndWhere ends the live flows that fn picks, for the control plane, and returns
// how many there were.
func (t *Table) EndWhere(fn func(*Snapshot) bool, why verdict.Reason, now Tick) (ended int) {
	var cursor Cursor
	t.Each(&cursor, func(s Snapshot) bool {
		if fn(&s) && t.End(s.ID, s.Generation, why, now) {
			ended++
		}
		return true
	})
	return ended
}
