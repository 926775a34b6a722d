package bench

import (
	"fmt"
	"time"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// tuple is the key by which a packet of a direction is found.
func (f *flow) tuple(direction int) conntrack.Tuple {
	v := f.arriving(direction)
	return conntrack.Tuple{Src: v.src, Dst: v.dst, SrcPort: v.sport, DstPort: v.dport, Proto: packet.ProtoUDP}
}

// hot is the hot work alone, made of the gateway's own parts, in the gateway's
// order: what the twin does.
type hot struct {
	flows   *conntrack.Worker
	frames  []byte
	packets [burst]packet.Packet
	lookup  conntrack.Lookup
	stages  [len(stageNames)]time.Duration
	missed  int
}

// stageNames are the stages of the hot work.
var stageNames = [...]string{"parse", "look up", "rewrite"}

func newHot(r *rig) *hot {
	h := &hot{flows: r.table.Worker(hotWorker), frames: r.frames}
	h.flows.Offline()
	return h
}

// group does the hot work for the frames of a group.
func (h *hot) group(descs *[group]xdp.Desc) time.Duration {
	h.flows.Online()
	start := time.Now()
	for i := 0; i < group; i += burst {
		part := descs[i : i+burst]
		for at := 0; at < burst; at += askAhead {
			h.parse(part, at, at+askAhead)
			h.flows.Ask(&h.lookup, at, at+askAhead)
		}
		h.flows.Match(&h.lookup, burst, now)
		for at, to := 0, 0; at < burst; at = to {
			to = h.flows.Settle(&h.lookup, at)
			h.rewrite(part, at, to, i/burst%2)
		}
		h.flows.Quiesce()
	}
	took := time.Since(start)
	h.flows.Offline()
	return took
}

// staged is group with a clock between the stages, each of which has to be
// over for that: the look-up waits for all of its memory.
func (h *hot) staged(descs *[group]xdp.Desc) {
	h.flows.Online()
	for i := 0; i < group; i += burst {
		part := descs[i : i+burst]
		t0 := time.Now()
		h.parse(part, 0, burst)
		t1 := time.Now()
		h.flows.LookupBurst(&h.lookup, burst, now)
		t2 := time.Now()
		h.rewrite(part, 0, burst, i/burst%2)
		t3 := time.Now()
		h.stages[0] += t1.Sub(t0)
		h.stages[1] += t2.Sub(t1)
		h.stages[2] += t3.Sub(t2)
		h.flows.Quiesce()
	}
	h.flows.Offline()
}

// askAhead is how many keys the flow table is asked for at once, as in the gateway.
const askAhead = 8

// parse validates frames [from, to) of a burst and fills in their keys. All of them
// are good, so that key i is frame i's.
func (h *hot) parse(part []xdp.Desc, from, to int) {
	for i := from; i < to; i++ {
		d, p := part[i], &h.packets[i]
		if packet.Parse(h.frames[d.Addr:d.Addr+uint64(d.Len)], p) != verdict.None {
			h.missed++
		}
		k := &h.lookup.Keys[i]
		k.Src, k.Dst, k.SrcPort, k.DstPort, k.Proto = p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto
	}
}

// rewrite does what is to be done to packets [first, end) whose flows were found.
func (h *hot) rewrite(part []xdp.Desc, first, end, direction int) {
	to, from := &uplinkMAC, &outsideMAC
	if direction == 1 {
		to, from = &accessMAC, &insideMAC
	}
	for i := first; i < end; i++ {
		d, p := part[i], &h.packets[i]
		f, dir := h.lookup.Flow[i], h.lookup.Dir[i]
		if f == nil {
			h.missed++
			continue
		}
		frame := h.frames[d.Addr : d.Addr+uint64(d.Len)]
		if h.flows.Update(f, dir, p) {
			f.Touch(dir, p.Length(), now)
		}
		nat.Forward(frame, p, f.Answer(dir))
		copy(frame[0:6], to[:])
		copy(frame[6:12], from[:])
	}
}

// clockCost is what one reading of the clock adds to a stage.
func clockCost() time.Duration {
	const n = 10_000
	start := time.Now()
	last := start
	for range n {
		last = time.Now()
	}
	return last.Sub(start) / n
}

// mapped is the hot work with Go's map in the place of the flow table: each
// direction an entry of its own, leading to a record. Nothing expires, and the
// map belongs to one goroutine.
type mapped struct {
	hot
	index   map[conntrack.Tuple]uint32 // record << 1 | direction
	records []mapRecord
}

type mapRecord struct {
	leaving        [2]conntrack.Tuple
	packets, bytes [2]uint64
	seen           conntrack.Tick
}

func newMapped(r *rig, flows []flow) *mapped {
	m := &mapped{index: make(map[conntrack.Tuple]uint32, 2*len(flows)), records: make([]mapRecord, len(flows))}
	m.frames = r.frames
	for i := range flows {
		original, reply := flows[i].tuple(0), flows[i].tuple(1)
		m.index[original], m.index[reply] = uint32(i)<<1, uint32(i)<<1|1
		m.records[i].leaving = [2]conntrack.Tuple{reply.Reverse(), original.Reverse()}
	}
	return m
}

func (m *mapped) group(descs *[group]xdp.Desc) time.Duration {
	start := time.Now()
	for i := 0; i < group; i += burst {
		part := descs[i : i+burst]
		m.parse(part, 0, burst)
		m.translate(part, i/burst%2)
	}
	return time.Since(start)
}

func (m *mapped) translate(part []xdp.Desc, direction int) {
	to, from := &uplinkMAC, &outsideMAC
	if direction == 1 {
		to, from = &accessMAC, &insideMAC
	}
	for i := range part {
		d, p := part[i], &m.packets[i]
		at, ok := m.index[m.lookup.Keys[i]]
		if !ok {
			m.missed++
			continue
		}
		f, dir := &m.records[at>>1], at&1
		f.seen = now
		f.packets[dir]++
		f.bytes[dir] += uint64(p.Length())
		frame := m.frames[d.Addr : d.Addr+uint64(d.Len)]
		nat.Rewrite(frame, p, f.leaving[dir])
		nat.DecrementTTL(frame, p)
		copy(frame[0:6], to[:])
		copy(frame[6:12], from[:])
	}
}

// verifyPackets is how many packets all ways are compared over.
const verifyPackets = 1 << 16

// verify runs the first packets of the traffic through one way and returns the
// digest of the frames that leave.
func (r *rig) verify(t *traffic, way func()) digest {
	d := newDigest()
	for t.at = 0; t.at < verifyPackets; {
		way()
		for i := range r.descs {
			d = d.add(r.frame(i))
		}
	}
	return d
}

// agree checks that all ways make the same frames of the same packets.
func (r *rig) agree(t *traffic, h *hot, m *mapped, w *twin) error {
	want := r.verify(t, func() { r.step(t) })
	if err := r.dropped(); err != nil {
		return err
	}
	if got := r.verify(t, func() { r.write(t); h.group(&r.descs) }); got != want || h.missed != 0 {
		return fmt.Errorf("bench: the hot work leaves other frames than the gateway (%x, %x), %d missed", got, want, h.missed)
	}
	if got := r.verify(t, func() { r.write(t); m.group(&r.descs) }); got != want || m.missed != 0 {
		return fmt.Errorf("bench: the hot work over Go's map leaves other frames than the gateway (%x, %x), %d missed", got, want, m.missed)
	}
	if w == nil {
		return nil
	}
	got, refused, err := w.verify(verifyPackets)
	if err == nil && (got != want || refused != 0) {
		err = fmt.Errorf("bench: the twin leaves other frames than the gateway (%x, %x), %d refused", got, want, refused)
	}
	return err
}
