package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// KindResult is what was measured in memory of one kind of traffic. Times are
// nanoseconds per packet, of the whole pass.
type KindResult struct {
	Flows      int     `json:"flows"` // of this kind; those of the others are in the table, too
	Kind       string  `json:"kind"`
	Whole      Summary `json:"whole"`
	Against    string  `json:"against"` // the kind that the ratios are to
	Ratio      Summary `json:"ratio"`
	SetUp      Summary `json:"set_up"` // ns of a flow's first packet; without samples where it has no flows of its own
	SetUpRatio Summary `json:"set_up_ratio"`
}

// kindSizes are the numbers of flows of each kind.
var kindSizes = []int{1 << 10, 1 << 15}

// chatter is the traffic of one kind.
type chatter struct {
	*kind
	talks []talk
	fresh []talk
	order []uint32 // packets: which flow each is of
	at    int
	bytes [group]packetOf // of the group at hand
}

// packetOf says what a frame of the group is.
type packetOf struct {
	talk      *talk
	direction int
}

// kindRig has the flows of all kinds in one table.
type kindRig struct {
	*rig
	chatters [len(kinds)]chatter
}

func newKindRig(n int) (k *kindRig, err error) {
	k = new(kindRig)
	if k.rig, err = newRig(n); err != nil {
		return nil, err
	}
	if err := k.serve(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	r := rand.New(rand.NewPCG(4814, uint64(n)))
	for i := range k.chatters {
		c := &k.chatters[i]
		c.kind = &kinds[i]
		if c.opens(i) {
			c.talks, c.fresh = c.kind.talks(0, n), c.kind.talks(n+portsPerHost, freshFlows)
			if err := k.open(c); err != nil {
				return nil, errors.Join(err, k.close())
			}
		} else {
			c.talks = k.chatters[c.flowsOf].talks
		}
		c.order = make([]uint32, packets)
		for j := range c.order {
			c.order[j] = uint32(r.UintN(uint(n)))
		}
	}
	return k, nil
}

// keep has both ports remember what they send, in place of what they did before.
func (r *rig) keep(on bool) {
	for _, p := range r.ports {
		p.keep, p.kept = on, p.kept[:0]
	}
}

// pass has the first n frames of the group arrive on a port each, and returns how
// long the gateway took.
func (r *rig) pass(n int, port func(i int) int) time.Duration {
	for i := range n {
		r.ports[port(i)].load(r.descs[i])
	}
	steps := (max(r.ports[0].n, r.ports[1].n) + burst - 1) / burst
	start := time.Now()
	for range steps {
		r.worker.Step(now)
	}
	return time.Since(start)
}

// open opens all flows of a kind as their clients and servers would.
func (k *kindRig) open(c *chatter) error {
	for at := 0; at < len(c.talks); at += group {
		part := c.talks[at:min(at+group, len(c.talks))]
		for i := range part {
			c.first(k.frame(i), &part[i])
		}
		k.keep(true)
		k.pass(len(part), func(i int) int { return part[i].port[0] })
		if err := k.learn(c, part); err != nil {
			return err
		}
		k.keep(false)
		for i := range part {
			if c.direct() {
				c.write(k.frame(i), &part[i], 0, false)
			} else {
				c.answer(k.frame(i), &part[i])
			}
		}
		k.pass(len(part), func(i int) int { return part[i].port[b2i(!c.direct())] })
		if c.proto != packet.ProtoTCP || c.direct() {
			continue
		}
		for i := range part {
			c.write(k.frame(i), &part[i], 0, false)
		}
		k.pass(len(part), func(i int) int { return part[i].port[0] })
	}
	return k.dropped()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// learn reads off the first packets as they left what the answers are to look
// like, and looks at each.
func (k *kindRig) learn(c *chatter, part []talk) error {
	seen := 0
	for _, p := range k.ports {
		for _, d := range p.kept {
			i := d.Addr / frameStride
			if i >= uint64(len(part)) {
				return fmt.Errorf("bench: %s: a frame left that did not come", c.name)
			}
			t, frame := &part[i], k.sent(d)
			var f packet.Packet
			if r := packet.Parse(frame, &f); r != verdict.None {
				return fmt.Errorf("bench: %s: a first packet left as %v", c.name, r)
			}
			t.to = f.Dst
			if !c.direct() {
				t.ways[1] = endpoints{f.Dst, f.Src, f.DstPort, f.SrcPort}
			}
			if wrong, _ := c.wrong(frame, t, 0, c.direct(), 0); wrong != "" {
				return fmt.Errorf("bench: %s: a first packet left wrong: %s", c.name, wrong)
			}
			seen++
		}
	}
	if seen != len(part) {
		return errors.Join(fmt.Errorf("bench: %s: %d of %d first packets left", c.name, seen, len(part)), k.dropped())
	}
	return nil
}

// sent is a frame as it left.
func (r *rig) sent(d xdp.Desc) []byte { return r.frames[d.Addr : d.Addr+uint64(d.Len)] }

// step runs one group of a kind's packets through the gateway: bursts of either
// port in turn, as for the traffic in memory.
func (k *kindRig) step(c *chatter) (packets int, took time.Duration) {
	k.writeGroup(c)
	return group, k.pass(group, func(i int) int { return i / burst % 2 })
}

func (k *kindRig) writeGroup(c *chatter) {
	for i := range group {
		port := i / burst % 2
		later := c.fragments && i%2 == 1
		n := c.order[(c.at+i-b2i(later))%len(c.order)]
		t, direction := &c.talks[n], port
		if c.service != nil {
			direction = 1 - port // clients are outside
		}
		if c.direct() {
			direction = 0
			t = &c.talks[int(n)&^1|port] // whose client is there
		}
		c.write(k.frame(i), t, direction, later)
		c.bytes[i] = packetOf{t, direction}
	}
	c.at += group
}

// verify runs groups of a kind through the gateway and looks at every byte that
// leaves.
func (k *kindRig) verify(c *chatter, groups int) error {
	defer k.keep(false)
	for range groups {
		k.keep(true)
		k.step(c)
		seen, sums := 0, make(map[uint64]uint32)
		for _, p := range k.ports {
			for _, d := range p.kept {
				i := d.Addr / frameStride
				of := &c.bytes[i]
				option := c.direct() && c.proto == packet.ProtoUDP
				wrong, sum := c.wrong(k.sent(d), of.talk, of.direction, option, sums[i-1])
				if wrong != "" {
					return fmt.Errorf("bench: %s: a packet left wrong: %s", c.name, wrong)
				}
				sums[i] = sum
				seen++
			}
		}
		if seen != group {
			return errors.Join(fmt.Errorf("bench: %s: %d of %d packets left", c.name, seen, group), k.dropped())
		}
	}
	return nil
}

// setUp opens flows that do not exist yet, and ends them again, untimed.
func (k *kindRig) setUp(c *chatter) (packets int, took time.Duration) {
	for at := 0; at < len(c.fresh); at += group {
		part := c.fresh[at:min(at+group, len(c.fresh))]
		for i := range part {
			c.first(k.frame(i), &part[i])
		}
		took += k.pass(len(part), func(i int) int { return part[i].port[0] })
	}
	k.worker.Offline() // see rig.setUp
	for i := range c.fresh {
		v := &c.fresh[i].ways[0]
		k.table.Look(func(w *conntrack.Worker) {
			tuple := conntrack.Tuple{Src: v.src, Dst: v.dst, SrcPort: v.sport, DstPort: v.dport, Proto: c.proto}
			if f, _ := w.Find(tuple, now); f != nil {
				w.Retire(f, verdict.None)
			}
		})
	}
	k.worker.Online()
	return len(c.fresh), took
}

// measureKinds measures all kinds in turns.
func (m *memoryRun) measureKinds(ctx context.Context) (results []KindResult, err error) {
	for _, size := range m.kindSizes {
		part, err := m.kindsOf(ctx, size)
		if err != nil {
			return nil, err
		}
		results = append(results, part...)
		runtime.GC()
	}
	return results, nil
}

func (m *memoryRun) kindsOf(ctx context.Context, size int) (results []KindResult, err error) {
	m.note("kinds of traffic: filling the table")
	k, err := newKindRig(size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	var whole, setUp [len(kinds)]*series
	var list []*series
	for i := range k.chatters {
		c := &k.chatters[i]
		if err := k.verify(c, 16); err != nil {
			return nil, err
		}
		whole[i] = m.series(func() (int, time.Duration) { return k.step(c) })
		list = append(list, whole[i])
		if c.opens(i) {
			setUp[i] = m.series(func() (int, time.Duration) { return k.setUp(c) })
			list = append(list, setUp[i])
		}
	}
	runtime.GC()
	if err := inTurns(ctx, m.rounds, time.Now().Add(m.most), list, func() { m.note("kinds of traffic, " + sizeName(size) + " flows of each") }); err != nil {
		return nil, err
	}
	for i := range kinds {
		other := kinds[i].against
		r := KindResult{Flows: size, Kind: kinds[i].name, Against: kinds[other].name, Whole: whole[i].summary(), SetUp: setUp[i].summary()}
		r.Ratio = summarize(ratios(whole[i].readings, whole[other].readings))
		if setUp[i] != nil {
			r.SetUpRatio = summarize(ratios(setUp[i].readings, setUp[other].readings))
		}
		results = append(results, r)
	}
	return results, k.dropped()
}
