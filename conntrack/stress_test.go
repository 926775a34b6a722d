package conntrack

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// The stress test lets many goroutines create, look up, update, end and expire
// the same few flows, and writes down what each saw and when, by a clock that
// every operation moves on. What the clock says for certain is then checked: a
// flow that was created before another one of the same key ended (doubled), a
// look-up that missed a flow that was there all the time (lost), one that found
// a flow that had ended before (stale), and what a found record holds (torn).

const (
	stressWorkers = 8
	stressHosts   = 4
	stressServers = 4
	stressPorts   = stressHosts + 2 // external ports: others' claims fail all the time

	// Buckets are so few that some overflow, and as many as a chain needs.
	stressBuckets = 17
)

// conn is one key that is worked on. Conns of one class are the same flow.
type conn struct {
	original Tuple
	class    int
	masked   bool
}

// stressConns are masqueraded connections that share mappings, and plain ones
// that both ends open.
func stressConns() (conns []conn, classes int) {
	for h := range uint32(stressHosts) {
		for s := range uint32(stressServers) {
			inside := udp(client+h, 5000, server+s, 53)
			conns = append(conns, conn{inside, classes, true})
			open := udp(client+h, 6000, client+100+s, 6000)
			conns = append(conns, conn{open, classes + 1, false}, conn{open.Reverse(), classes + 1, false})
			classes += 2
		}
	}
	return conns, classes
}

// span is an interval of the test's clock.
type span struct{ from, to int64 }

// sighting is what an operation saw of a class.
type sighting struct {
	at    span
	class int
	id    uint64 // generation << 32 | id; 0 = a miss
}

// life is what is known of one flow: the operations it began and ended in.
type life struct {
	class      int
	id         uint64
	began, end span
	host, port uint32 // inside address and external port, 0 where not masqueraded
}

// certain reports whether there was a moment at which the flow was there for
// sure: not if it ended while the operation that made it still went on.
func (l *life) certain() bool { return l.began.to < l.end.from }

type stress struct {
	table   *Table
	x       *External
	conns   []conn
	classes map[Tuple]int
	clock   atomic.Int64
	tick    atomic.Uint32
	failed  atomic.Bool
}

// actor is one goroutine's part.
type actor struct {
	*stress
	t      *testing.T
	w      *Worker
	rng    *rand.Rand
	lookup Lookup
	events [64]Event
	lives  []life // began or ended here; the other half is another's
	seen   []sighting
	ops    int

	// A goroutine that the kernel stopped in the middle of a burst holds all
	// ended records in limbo, so that the table can fill up with them.
	refused int
}

func (a *actor) fail(format string, args ...any) {
	a.failed.Store(true)
	a.t.Errorf(format, args...)
}

// pattern is what a flow's backend is made of, so that a torn record shows.
func pattern(t Tuple) uint32 { return t.Src*31 ^ t.Dst*17 ^ uint32(t.SrcPort)<<16 ^ uint32(t.DstPort) }

// step is one burst: look-ups, then something done with each result.
func (a *actor) step() {
	now := Tick(a.tick.Load())
	if a.rng.IntN(400) == 0 {
		now = Tick(a.tick.Add(1))
	}
	n := 1 + a.rng.IntN(4)
	picked := [4]*conn{}
	for i := range n {
		picked[i] = &a.conns[a.rng.IntN(len(a.conns))]
		a.lookup.Keys[i] = picked[i].original
	}
	at := a.do(func() { a.w.LookupBurst(&a.lookup, n, now) })
	for i, c := range picked[:n] {
		a.sight(at, c, a.lookup.Flow[i])
		if f := a.lookup.Flow[i]; f != nil {
			a.use(c, f, a.lookup.Dir[i], now)
		} else {
			a.create(c, now)
		}
	}
	if a.rng.IntN(8) == 0 {
		a.do(func() { a.w.Sweep(16, now) })
	}
	a.w.Quiesce()
	if a.rng.IntN(64) == 0 {
		a.w.Offline()
		a.w.Online()
	}
	a.ops += n
}

// do runs an operation and attributes the events that it caused to its span.
func (a *actor) do(op func()) span {
	from := a.clock.Add(1)
	op()
	at := span{from, a.clock.Add(1)}
	n, lost := a.w.events.Read(a.events[:])
	if lost > 0 {
		a.fail("%d events lost", lost)
	}
	for _, e := range a.events[:n] {
		l := life{class: a.classes[e.Original], id: uint64(e.Generation)<<32 | uint64(e.ID)}
		if e.Kind == Masquerade {
			l.host, l.port = e.Original.Src, uint32(e.Reply.DstPort)
		}
		switch e.Type {
		case EventNew:
			l.began = at
		case EventEnd:
			l.end = at
		default:
			continue
		}
		a.lives = append(a.lives, l)
	}
	return at
}

func (a *actor) name(f *Flow) uint64 {
	return uint64(f.Generation())<<32 | uint64(a.table.ID(f))
}

// sight writes a look-up's result down and checks the record.
func (a *actor) sight(at span, c *conn, f *Flow) {
	s := sighting{at: at, class: c.class}
	if f != nil {
		s.id = a.name(f)
		a.inspect(c, f)
	}
	a.seen = append(a.seen, s)
}

// inspect checks a record that was found for c. It may have ended meanwhile, but
// holds what it held.
func (a *actor) inspect(c *conn, f *Flow) {
	o, r := f.Tuple(Original), f.Tuple(Reply)
	if o != c.original && r != c.original || !f.sealed() || f.Backend() != pattern(o) {
		a.fail("torn: looked for %v, found %v %v, backend %#x", c.original, o, r, f.Backend())
	}
	if f.Kind() == Masquerade {
		m := &a.table.mappings[f.mapping]
		addr, port := m.Inside()
		_, extPort := m.External()
		if addr != o.Src || port != o.SrcPort || extPort != r.DstPort {
			a.fail("flow %v %v has the mapping of %#x:%d at %d", o, r, addr, port, extPort)
		}
	}
}

// use does one of the things that are done to a flow.
func (a *actor) use(c *conn, f *Flow, d Direction, now Tick) {
	if f.Tuple(d) != c.original {
		a.fail("found %v for %v in direction %v", f.Tuple(d), c.original, d)
	}
	switch a.rng.IntN(8) {
	case 0:
		a.do(func() { a.w.Retire(f, verdict.Filtered) })
	case 1:
		a.w.Update(f, d, &packet.Packet{Proto: packet.ProtoUDP})
	case 2:
		// The answer, by its own tuple. The flow may have ended meanwhile
		// and another have begun, by another port.
		reply := f.Tuple(Reply)
		at := a.do(func() { f, d = a.w.Find(reply, now) })
		if f != nil {
			a.inspect(&conn{original: reply}, f)
			a.seen = append(a.seen, sighting{at, a.classes[f.Tuple(Original)], a.name(f)})
		}
	default:
		f.Touch(d, 100, now)
	}
}

// create does what the gateway does on a miss.
func (a *actor) create(c *conn, now Tick) {
	nf := &NewFlow{Original: c.original, Reply: c.original.Reverse(), Backend: pattern(c.original), Inside: true}
	if c.masked {
		nf.Kind = Masquerade
		if nf.Mapping = a.mapping(c, now); nf.Mapping == nil {
			return
		}
		nf.Reply.Dst, nf.Reply.DstPort = nf.Mapping.External()
	}
	var f *Flow
	var existed bool
	var r verdict.Reason
	at := a.do(func() { f, _, existed, r = a.w.Create(nf, now) })
	if nf.Mapping != nil && (existed || r != verdict.None) {
		a.do(func() { a.w.Release(nf.Mapping) })
	}
	if r == verdict.FlowTableFull || r == verdict.SourceTableFull {
		a.refused++
		return
	}
	if r != verdict.None {
		a.fail("Create(%v): %v", c.original, r)
		return
	}
	a.inspect(c, f)
	a.seen = append(a.seen, sighting{at, c.class, a.name(f)})
}

// mapping finds or makes c's, from a range that is only just large enough.
func (a *actor) mapping(c *conn, now Tick) *Mapping {
	o := c.original
	for {
		if m := a.w.FindMapping(o.Proto, o.Src, o.SrcPort, a.x); m != nil {
			return m
		}
		port, ok := a.x.NextFree(o.Proto, uint16(1000+a.rng.IntN(stressPorts)), 1000, 999+stressPorts)
		if !ok {
			// Others hold ports that they will find they do not need.
			runtime.Gosched()
			continue
		}
		src, r := a.w.Source(o.Src)
		if r == verdict.SourceTableFull {
			a.refused++
			return nil
		}
		m, existed, taken, r := a.w.NewMapping(o.Proto, o.Src, o.SrcPort, a.x, port, src, now)
		if m == nil || existed {
			a.w.ReleaseSource(src)
		}
		if r == verdict.MappingTableFull {
			a.refused++
			return nil
		}
		if r != verdict.None {
			a.fail("NewMapping: %v", r)
			return nil
		}
		if !taken {
			return m
		}
	}
}

func TestStressHeap(t *testing.T) { runStress(t, aligned, stressSteps) }

// The race detector does not see mapped memory; without it, this is the memory
// that the daemon uses.
func TestStressMapped(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector does not see mapped memory: TestStressHeap is for it")
	}
	runStress(t, func(n int) []byte {
		mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(mem) })
		return mem
	}, stressSteps)
}

func runStress(t *testing.T, memory func(int) []byte, steps int) {
	// More threads than processors: the kernel then stops them anywhere, in
	// the middle of an insert too.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(stressWorkers))
	conns, _ := stressConns()
	cfg := Config{MaxFlows: 20000, Workers: stressWorkers, Timeouts: Timeouts{UDP: 3, UDPUnreplied: 2}, Seed: [2]uint64{rand.Uint64(), rand.Uint64()}}
	table, err := New(memory(Size(cfg)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	table.buckets, table.nBuckets = table.buckets[:stressBuckets], stressBuckets
	table.SetSourceLimit(1 << 30) // each flow is counted to its source
	s := &stress{table: table, x: NewExternal(external, nil), conns: conns, classes: map[Tuple]int{}}
	if err := table.AddExternal(s.x); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		s.classes[c.original] = c.class
	}
	s.tick.Store(100)
	actors := make([]*actor, stressWorkers)
	for i := range actors {
		actors[i] = &actor{stress: s, t: t, w: table.Worker(i), rng: rand.New(rand.NewPCG(uint64(i), rand.Uint64()))}
		actors[i].w.events.open.Store(true)
	}
	ops := 0
	for round := 0; ops < steps && !s.failed.Load(); round++ {
		ops += s.round(t, actors, 2000)
	}
	refused := 0
	for _, a := range actors {
		refused += a.refused
	}
	t.Logf("%d look-ups with what followed, %d refusals", ops, refused)
}

// round lets all actors run, checks the table and their history, ends what is
// left, and checks that nothing is.
func (s *stress) round(t *testing.T, actors []*actor, steps int) (ops int) {
	var wg sync.WaitGroup
	for _, a := range actors {
		wg.Go(func() {
			a.ops = 0
			for range steps {
				a.step()
			}
		})
	}
	wg.Wait()
	audit(t, s.table, 0)
	for i := range s.table.flows {
		if f := &s.table.flows[i]; f.Alive() {
			actors[0].do(func() { actors[0].w.Retire(f, verdict.Filtered) })
		}
	}
	for range 3 {
		for _, a := range actors {
			a.w.Quiesce()
		}
	}
	audit(t, s.table, 0)
	if c := s.table.Count(); c.Flows+c.Mappings+c.Sources != 0 {
		t.Errorf("after everything ended: %+v", c)
	}
	if err := checkHistory(actors); err != nil {
		actors[0].fail("%v", err)
	}
	for _, a := range actors {
		ops += a.ops
		a.lives, a.seen = a.lives[:0], a.seen[:0]
	}
	return ops
}

// checkHistory joins what the actors wrote down.
func checkHistory(actors []*actor) error {
	byID := map[uint64]*life{}
	for _, a := range actors {
		for _, half := range a.lives {
			l := byID[half.id]
			if l == nil {
				l = &life{}
				*l = half
				byID[half.id] = l
				continue
			}
			if half.began.to != 0 && l.began.to != 0 || half.end.to != 0 && l.end.to != 0 {
				return fmt.Errorf("flow %#x began or ended twice", half.id)
			}
			if half.began.to != 0 {
				l.began = half.began
			} else {
				l.end = half.end
			}
		}
	}
	classes := map[int][]*life{}
	for _, l := range byID {
		if l.began.to == 0 || l.end.to == 0 {
			return fmt.Errorf("flow %#x began %v, ended %v", l.id, l.began, l.end)
		}
		if l.certain() {
			classes[l.class] = append(classes[l.class], l)
		}
	}
	for class, lives := range classes {
		slices.SortFunc(lives, func(a, b *life) int { return int(a.began.to - b.began.to) })
		for i := 1; i < len(lives); i++ {
			if a, b := lives[i-1], lives[i]; b.began.to < a.end.from {
				return fmt.Errorf("doubled: class %d: %+v and %+v", class, *a, *b)
			}
		}
	}
	if err := checkPorts(byID); err != nil {
		return err
	}
	for _, a := range actors {
		for _, s := range a.seen {
			if err := checkSighting(s, byID, classes[s.class]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkSighting checks a look-up against the flows of its class.
func checkSighting(s sighting, byID map[uint64]*life, lives []*life) error {
	if s.id != 0 {
		l := byID[s.id]
		if l == nil || l.class != s.class || s.at.to < l.began.from || s.at.from > l.end.to {
			return fmt.Errorf("stale: %+v saw %+v", s, l)
		}
		return nil
	}
	// The last one that was certainly there before the look-up began.
	i, _ := slices.BinarySearchFunc(lives, s.at.from, func(l *life, at int64) int { return int(l.began.to - at) })
	if i > 0 && lives[i-1].end.from > s.at.to {
		return fmt.Errorf("lost: %+v did not see %+v", s, *lives[i-1])
	}
	return nil
}

// checkPorts checks that of flows that certainly lived at the same time, those
// of one inside endpoint had one external port (RFC 4787 REQ-1), and those of
// different ones had different ports (REQ-3).
func checkPorts(byID map[uint64]*life) error {
	var lives []*life
	for _, l := range byID {
		if l.port != 0 && l.certain() {
			lives = append(lives, l)
		}
	}
	slices.SortFunc(lives, func(a, b *life) int { return int(a.began.to - b.began.to) })
	var open []*life
	for _, l := range lives {
		open = slices.DeleteFunc(open, func(o *life) bool { return o.end.from <= l.began.to })
		for _, o := range open {
			if (o.host == l.host) != (o.port == l.port) {
				return fmt.Errorf("ports: %+v and %+v", *o, *l)
			}
		}
		open = append(open, l)
	}
	return nil
}
