package conntrack

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// modelFlow is what a map of flows would keep.
type modelFlow struct {
	original, reply Tuple
	seen            Tick
	state           State
	bytes           [2]uint64
	inside          Tuple // of its mapping: source and port only; zero if none
}

// model is the table as one would write it without a thought of speed: a list of
// flows, searched from one end to the other.
type model struct {
	flows []*modelFlow
	ports map[Tuple]uint16 // inside endpoint → external port
}

func (m *model) find(key Tuple) (*modelFlow, Direction) {
	for _, f := range m.flows {
		if f.original == key {
			return f, Original
		}
		if f.reply == key {
			return f, Reply
		}
	}
	return nil, 0
}

// expire ends what was silent for too long.
func (m *model) expire(t *Timeouts, now Tick) (n int) {
	for _, f := range append([]*modelFlow(nil), m.flows...) {
		if now-f.seen > f.timeout(t) {
			m.end(f)
			n++
		}
	}
	return n
}

// timeout is what a UDP flow has by the words of the configuration.
func (f *modelFlow) timeout(t *Timeouts) Tick {
	own, has := Tick(0), false
	for _, p := range t.UDPPorts {
		if p.First <= f.original.DstPort && f.original.DstPort <= p.Last {
			own, has = p.Timeout, true
		}
	}
	switch {
	case f.state == UDPReplied && has:
		return own
	case f.state == UDPReplied:
		return t.UDP
	case has:
		return min(own, t.UDPUnreplied)
	}
	return t.UDPUnreplied
}

func (m *model) end(f *modelFlow) {
	last := f.inside != Tuple{}
	kept := m.flows[:0]
	for _, g := range m.flows {
		if g != f {
			kept = append(kept, g)
			last = last && g.inside != f.inside
		}
	}
	m.flows = kept
	if last {
		delete(m.ports, f.inside)
	}
}

// machine runs the table and the model side by side. Several workers take
// turns, so that what one of them buries others have to wait for.
type machine struct {
	table *Table
	ws    []*Worker
	x     *External
	model model
	times Timeouts
	now   Tick
	audit func()
	steps int
}

const modelCapacity = 12

// key draws from so few tuples that they meet all the time.
func (m *machine) key(t *rapid.T) Tuple {
	k := udp(client+uint32(rapid.IntRange(0, 2).Draw(t, "host")), uint16(rapid.IntRange(1, 2).Draw(t, "port")), server, uint16(rapid.IntRange(1, 3).Draw(t, "to")))
	if rapid.Bool().Draw(t, "reversed") {
		return k.Reverse()
	}
	return k
}

func (m *machine) worker(t *rapid.T) *Worker {
	return m.ws[rapid.IntRange(0, len(m.ws)-1).Draw(t, "worker")]
}

// same fails unless f is what the model has.
func (m *machine) same(t *rapid.T, f *Flow, d Direction, want *modelFlow, dir Direction) {
	switch {
	case (f == nil) != (want == nil):
		t.Fatalf("found %v, want %v", f, want)
	case f == nil:
	case d != dir || f.Tuple(Original) != want.original || f.Tuple(Reply) != want.reply || f.State() != want.state || f.bytes != want.bytes || f.lastSeen() != want.seen:
		t.Fatalf("found %v %v %v %v, want %+v %v", d, f.tuple, f.State(), f.bytes, want, dir)
	}
}

func (m *machine) Find(t *rapid.T) {
	key, w := m.key(t), m.worker(t)
	m.model.expire(&m.times, m.now)
	f, d := w.Find(key, m.now)
	want, dir := m.model.find(key)
	m.same(t, f, d, want, dir)
}

func (m *machine) LookupBurst(t *rapid.T) {
	var l Lookup
	n := rapid.IntRange(0, Burst).Draw(t, "n")
	for i := range n {
		l.Keys[i] = m.key(t)
	}
	m.worker(t).LookupBurst(&l, n, m.now)
	m.model.expire(&m.times, m.now)
	for i := range n {
		want, dir := m.model.find(l.Keys[i])
		m.same(t, l.Flow[i], l.Dir[i], want, dir)
	}
}

func (m *machine) Packet(t *rapid.T) {
	key, w := m.key(t), m.worker(t)
	n := rapid.IntRange(0, 1500).Draw(t, "bytes")
	m.model.expire(&m.times, m.now)
	f, d := w.Find(key, m.now)
	want, dir := m.model.find(key)
	m.same(t, f, d, want, dir)
	if f == nil {
		return
	}
	w.Update(f, d, &packet.Packet{Proto: packet.ProtoUDP})
	f.Touch(d, n, m.now)
	want.bytes[dir] += uint64(n)
	want.seen = m.now
	if dir == Reply {
		want.state = UDPReplied
	}
}

func (m *machine) Create(t *rapid.T) {
	key, w := m.key(t), m.worker(t)
	m.model.expire(&m.times, m.now)
	m.create(t, w, &NewFlow{Original: key, Reply: key.Reverse()}, Tuple{})
}

func (m *machine) Masquerade(t *rapid.T) {
	key, w := m.key(t), m.worker(t)
	m.model.expire(&m.times, m.now)
	// What the table has not noticed yet keeps its port: let it notice.
	for i := range m.table.flows {
		w.Find(m.table.flows[i].tuple[Original], m.now)
	}
	inside := Tuple{Src: key.Src, SrcPort: key.SrcPort}
	mapping := w.FindMapping(key.Proto, key.Src, key.SrcPort, m.x)
	port, mapped := m.model.ports[inside]
	if (mapping != nil) != mapped {
		t.Fatalf("mapping %v, want port %d, %v", mapping, port, mapped)
	}
	if mapping == nil {
		var r verdict.Reason
		if mapping, r = m.newMapping(t, w, key); r != verdict.None {
			return
		}
		_, port = mapping.External()
		m.model.ports[inside] = port
	}
	if _, got := mapping.External(); got != port {
		t.Fatalf("mapped to %d, want %d", got, port)
	}
	nf := &NewFlow{Original: key, Reply: key.Reverse(), Kind: Masquerade, Mapping: mapping}
	nf.Reply.Dst, nf.Reply.DstPort = mapping.External()
	m.create(t, w, nf, inside)
	used := false
	for _, f := range m.model.flows {
		used = used || f.inside == inside
	}
	if !used {
		delete(m.model.ports, inside)
	}
}

func (m *machine) newMapping(t *rapid.T, w *Worker, key Tuple) (*Mapping, verdict.Reason) {
	src, r := w.Source(key.Src)
	if r != verdict.None {
		m.mayRefuse(t, w, len(m.table.sources)-1, func(w *Worker) *stash { return &w.sources })
		return nil, r
	}
	port, _ := m.x.NextFree(key.Proto, uint16(rapid.IntRange(1, 20).Draw(t, "wish")), 1, 20)
	mapping, existed, taken, r := w.NewMapping(key.Proto, key.Src, key.SrcPort, m.x, port, src, m.now)
	if r == verdict.MappingTableFull {
		w.ReleaseSource(src)
		m.mayRefuse(t, w, modelCapacity, func(w *Worker) *stash { return &w.mappings })
		return nil, r
	}
	if mapping == nil || existed || taken || r != verdict.None {
		t.Fatalf("NewMapping: %v, existed %v, taken %v, %v", mapping, existed, taken, r)
	}
	return mapping, r
}

// create creates nf in both, and gives its mapping back as the gateway does.
func (m *machine) create(t *rapid.T, w *Worker, nf *NewFlow, inside Tuple) {
	f, d, existed, r := w.Create(nf, m.now)
	if nf.Mapping != nil && (existed || r != verdict.None) {
		w.Release(nf.Mapping)
	}
	want, dir := m.model.find(nf.Original)
	other, _ := m.model.find(nf.Reply)
	switch {
	case want != nil:
		if !existed || r != verdict.None {
			t.Fatalf("Create: existed %v, %v; want %v", existed, r, want)
		}
		m.same(t, f, d, want, dir)
	case r == verdict.FlowTableFull:
		m.mayRefuse(t, w, modelCapacity, func(w *Worker) *stash { return &w.flows })
	case other != nil:
		if r != verdict.ReplyTupleTaken {
			t.Fatalf("Create: %v, but %v has the reply tuple", r, other)
		}
	default:
		if existed || r != verdict.None {
			t.Fatalf("Create: existed %v, %v; want a new one", existed, r)
		}
		want = &modelFlow{original: nf.Original, reply: nf.Reply, seen: m.now, state: UDPUnreplied, inside: inside}
		m.model.flows = append(m.model.flows, want)
		m.same(t, f, d, want, Original)
	}
}

// mayRefuse fails unless w really cannot have a record: all are live, in limbo,
// or in other workers' stashes.
func (m *machine) mayRefuse(t *rapid.T, w *Worker, capacity int, of func(*Worker) *stash) {
	s := of(w)
	if s.n != 0 || uint32(s.pool.head.Load()) != 0 || int(s.pool.fresh.Load()) != capacity {
		t.Fatalf("refused with %d records at hand, %d in the pool, %d never used", s.n, uint32(s.pool.head.Load()), capacity-int(s.pool.fresh.Load()))
	}
}

func (m *machine) Retire(t *rapid.T) {
	key, w := m.key(t), m.worker(t)
	m.model.expire(&m.times, m.now)
	f, _ := w.Find(key, m.now)
	want, _ := m.model.find(key)
	if f == nil {
		return
	}
	if !w.Retire(f, verdict.Filtered) || w.Retire(f, verdict.Filtered) {
		t.Fatal("a flow ends exactly once")
	}
	m.model.end(want)
}

func (m *machine) Time(t *rapid.T) {
	m.now += Tick(rapid.SampledFrom([]int{1, 10, 100, 1000, 3000}).Draw(t, "ticks"))
}

// Reload gives UDP flows other time-outs by their ports, those that exist too.
func (m *machine) Reload(t *rapid.T) {
	m.model.expire(&m.times, m.now)
	m.worker(t).Sweep(2*modelCapacity, m.now) // what the old ones ended has ended
	m.times.UDPPorts = nil
	for port := uint16(1); port <= 3; port++ {
		if own := rapid.SampledFrom([]Tick{0, 5, 200, 4000}).Draw(t, "own"); own != 0 {
			m.times.UDPPorts = append(m.times.UDPPorts, PortTimeout{port, port, own})
		}
	}
	m.table.SetTimeouts(&m.times)
}

func (m *machine) Sweep(t *rapid.T) {
	w := m.worker(t)
	m.model.expire(&m.times, m.now)
	w.Sweep(2*modelCapacity, m.now)
	if c := m.table.Count(); c.Flows != len(m.model.flows) || c.Mappings != len(m.model.ports) || m.x.Claimed() != len(m.model.ports) {
		t.Fatalf("after a sweep: %+v, %d ports, want %d flows, %d mappings", c, m.x.Claimed(), len(m.model.flows), len(m.model.ports))
	}
}

func (m *machine) Quiesce(t *rapid.T) {
	// In the test one goroutine plays all workers, and holds no record now.
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		m.worker(t).Quiesce()
	}
}

func (m *machine) Sleep(t *rapid.T) {
	w := m.worker(t)
	w.Offline()
	w.Online()
}

// Check audits after every few steps: the walk over all ports is long.
func (m *machine) Check(*rapid.T) {
	if m.steps++; m.steps%8 == 0 {
		m.audit()
	}
}

// The table against the model, a worker at a time: the same answers, and a
// consistent memory all the way.
func TestModel(t *testing.T) {
	for range 5 / (1 + 2*raceFactor) {
		rapid.Check(t, checkModel)
	}
}

func checkModel(t *rapid.T) {
	cfg := Config{MaxFlows: modelCapacity, Workers: 3, Timeouts: restless(), Seed: [2]uint64{rapid.Uint64().Draw(t, "seed"), 1}}
	table, err := New(aligned(Size(cfg)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Few buckets, but as many as a chain has: entries overflow.
	table.buckets, table.nBuckets = table.buckets[:stressBuckets], stressBuckets
	m := &machine{table: table, x: NewExternal(external, nil), times: cfg.Timeouts, now: 100, model: model{ports: map[Tuple]uint16{}}}
	if err := table.AddExternal(m.x); err != nil {
		t.Fatal(err)
	}
	for i := range cfg.Workers {
		m.ws = append(m.ws, table.Worker(i))
	}
	m.audit = func() { audit(t, table, 0) }
	t.Repeat(rapid.StateMachineActions(m))
}
