package gateway

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/verdict"
)

// mutator damages valid frames, from a seed.
type mutator struct {
	random *rand.Rand
	valid  []arriving
	buffer [chunk - headroom]byte
}

// fields are numbers at which lengths, offsets and ports break.
var fields = []uint16{0, 1, 4, 7, 8, 19, 20, 28, 80, 443, 576, 1500, 0x1fff, 0x2000, 0x2001, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xffff, servedPort}

// next is one frame: every sixteenth as it should be, the others damaged in one to
// four places, many with a header that says so and a checksum that is right all the
// same, because what fails the first check tries no other.
func (m *mutator) next() arriving {
	a := m.valid[m.random.IntN(len(m.valid))]
	b := m.buffer[:copy(m.buffer[:], a.frame)]
	if m.random.IntN(16) == 0 {
		return arriving{a.on, b}
	}
	for range 1 + m.random.IntN(4) {
		b = m.damage(b)
	}
	if m.random.IntN(2) == 0 && len(b) >= 34 {
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	}
	if m.random.IntN(8) > 0 {
		mend(b)
	}
	if m.random.IntN(16) == 0 {
		a.on = 1 - a.on
	}
	return arriving{a.on, b}
}

// damage changes one thing.
func (m *mutator) damage(b []byte) []byte {
	r := m.random
	if len(b) < 38 {
		return append(b, byte(r.Uint32()), 0, 1, 2, 3, 4, 5, 6)
	}
	switch r.IntN(11) {
	case 0:
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	case 1:
		b[r.IntN(len(b))] = byte(r.Uint32())
	case 2: // any field of any header
		binary.BigEndian.PutUint16(b[12+r.IntN(len(b)-13)&^1:], fields[r.IntN(len(fields))])
	case 3:
		b = b[:r.IntN(len(b))]
	case 4:
		for range r.IntN(64) {
			b = append(b, byte(r.Uint32()))
		}
	case 5:
		copy(b[14+r.IntN(len(b)-14):], b[14+r.IntN(len(b)-14):])
	case 6:
		a := m.valid[r.IntN(len(m.valid))].frame
		copy(b[26:34], a[26:34])
	case 7:
		b[22] = byte(r.IntN(3))
	case 8:
		binary.BigEndian.PutUint16(b[20:], uint16(r.IntN(8))<<13|uint16(r.IntN(4))*uint16(r.IntN(60)))
	case 9:
		b[14] = 4<<4 | byte(r.IntN(16))
	case 10:
		b[23] = []byte{1, 6, 17, 33, 47, 50, 132, 136, byte(r.Uint32())}[r.IntN(9)]
	}
	return b
}

// mutations is how many frames the test sends; make soak asks for ten million.
func mutations(t *testing.T) int {
	if s := os.Getenv("SLUICE_MUTATIONS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("SLUICE_MUTATIONS: %v", err)
		}
		return n
	}
	if raceDetector {
		return 100_000
	}
	return 600_000
}

// TestMutatedFrames: damaged frames of every kind go through the whole pipeline of
// two workers, by turns and at once. Nothing panics, no frame, flow, mapping or port
// is lost, nothing leaves outside that should not, and flows beside them go on as if
// nothing had happened.
func TestMutatedFrames(t *testing.T) {
	for name, atOnce := range map[string]bool{"by turns": false, "at once": true} {
		t.Run(name, func(t *testing.T) {
			c := newCampaign(t)
			rounds := mutations(t) / 2 / Burst / 2
			if atOnce {
				var running sync.WaitGroup
				for i := range c.workers {
					running.Go(func() {
						for round := range rounds {
							c.round(i, round)
						}
						c.workers[i].worker.Offline() // the other may go on for long
					})
				}
				running.Wait()
				for _, r := range c.workers {
					r.worker.Online()
				}
			} else {
				for round := range rounds {
					c.round(0, round)
					c.round(1, round)
				}
			}
			c.end()
		})
	}
}

// campaign is a gateway under mutated frames.
type campaign struct {
	t        *testing.T
	workers  [2]*rig
	mutators [2]mutator
	controls [2][]*control
	now      atomic.Uint32
	left     [2]int
}

func newCampaign(t *testing.T) *campaign {
	c := &campaign{t: t, workers: everythingPair(t)}
	c.now.Store(uint32(startTick))
	for i, r := range c.workers {
		c.mutators[i] = mutator{random: rand.New(rand.NewPCG(uint64(i), 5)), valid: validFrames(t)}
		c.controls[i] = newControls(uint16(i))
		for _, k := range c.controls[i] {
			k.open(r)
		}
	}
	return c
}

// round lets one burst of damaged frames arrive at a worker, and now and then has
// its control flows say something.
func (c *campaign) round(i, round int) {
	r, m := c.workers[i], &c.mutators[i]
	r.now = conntrack.Tick(c.now.Add(1))
	if round%64 == 63 { // as after a change of routes: every flow is decided again
		r.publish(func(s *Snapshot) { s.Generation++ })
	}
	for range Burst {
		a := m.next()
		r.ports[a.on].rx = append(r.ports[a.on].rx, r.memory.take(r.t, a.frame))
	}
	r.step()
	c.look(i)
	if round%16 == 0 {
		for _, k := range c.controls[i] {
			k.talk(r)
			c.look(i)
		}
	}
}

// look judges what left a worker.
func (c *campaign) look(i int) {
	for on, p := range c.workers[i].ports {
		for _, frame := range p.sent() {
			c.left[i]++
			if wrong := judge(frame, fib.PortID(on) == outsidePort); wrong != "" {
				c.t.Errorf("a frame left by port %d with %s: %x", on, wrong, frame)
			}
		}
	}
}

// end checks that the run went deep, and that all that it took comes back.
func (c *campaign) end() {
	if c.t.Failed() {
		c.t.FailNow()
	}
	if err := c.workers[0].table.Verify(); err != nil {
		c.t.Errorf("the table under traffic: %v", err)
	}
	var reasons [verdict.Count]bool
	met, seen := 0, uint64(0)
	for _, r := range c.workers {
		seen += r.worker.counters.Packets
		for reason, n := range r.worker.counters.Drops {
			if n > 0 && !reasons[reason] {
				reasons[reason] = true
				met++
			}
		}
	}
	count := c.workers[0].table.Count()
	left := c.left[0] + c.left[1]
	c.t.Logf("%d frames, %d left, dropped for %d reasons; %d flows, %d mappings", seen, left, met, count.Flows, count.Mappings)
	if met < 30 || uint64(left) < seen/10 || count.Flows < 500 {
		c.t.Error("the damage is too great, or too small, to say much")
	}
	for _, wait := range []conntrack.Tick{61 * conntrack.TicksPerSecond, 3 * 3600 * conntrack.TicksPerSecond} {
		for i, r := range c.workers {
			r.now = conntrack.Tick(c.now.Add(uint32(wait)))
			r.step()
			r.step()
			c.look(i)
		}
	}
	for _, r := range c.workers {
		r.now = conntrack.Tick(c.now.Load())
		r.worker.Idle(r.now, 4*r.workers*c.workers[0].maxFlows)
		r.balanced()
		if n, held := r.worker.Waiting(), r.worker.store.Held(); n != 0 || held != 0 {
			c.t.Errorf("%d frames and %d fragments still wait", n, held)
		}
	}
	if n := c.workers[0].table.Count(); n.Flows != 0 || n.Mappings != 0 || n.Sources != 0 {
		c.t.Errorf("%d flows, %d mappings and %d sources outlive every time-out", n.Flows, n.Mappings, n.Sources)
	}
	if err := c.workers[0].table.Verify(); err != nil {
		c.t.Errorf("the table at the end: %v", err)
	}
}
