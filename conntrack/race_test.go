package conntrack

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// threads makes more threads than processors for the time of a test, so that the
// kernel stops them anywhere.
func threads(t *testing.T, n int) {
	old := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(old) })
}

// Two to eight workers get the first packets of one masqueraded flow at the same
// moment: one flow, one mapping, one port.
func TestRacingTwins(t *testing.T) {
	const workers = 8
	threads(t, workers)
	table := newTable(t, 1000, workers)
	x := NewExternal(external, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	ws := make([]*Worker, workers)
	for i := range ws {
		ws[i] = table.Worker(i)
	}
	for round := range 2000 / (1 + 3*raceFactor) {
		key := udp(client, 4000, server, uint16(round))
		var flows [workers]*Flow
		var fresh atomic.Int32
		var start, done sync.WaitGroup
		start.Add(workers)
		for i, w := range ws {
			done.Go(func() {
				start.Done()
				start.Wait()
				m := mapTwin(w, x, uint16(2000+i))
				nf := &NewFlow{Original: key, Reply: key.Reverse(), Kind: Masquerade, Mapping: m}
				nf.Reply.Dst, nf.Reply.DstPort = m.External()
				f, d, existed, r := w.Create(nf, 1)
				if r != verdict.None || d != Original {
					t.Errorf("Create: %v, %v", d, r)
				}
				if existed {
					w.Release(m)
				} else {
					fresh.Add(1)
				}
				flows[i] = f
			})
		}
		done.Wait()
		for _, f := range flows {
			if f != flows[0] {
				t.Fatal("two flows of one key")
			}
		}
		if c := table.Count(); fresh.Load() != 1 || c.Flows != 1 || c.Mappings != 1 || c.Sources != 1 || x.Claimed() != 1 {
			t.Fatalf("%d made a flow; counts %+v, %d ports", fresh.Load(), c, x.Claimed())
		}
		if round%100 == 0 {
			audit(t, table, 0)
		}
		ws[round%workers].Retire(flows[0], verdict.Filtered)
		for range 3 {
			for _, w := range ws {
				w.Quiesce()
			}
		}
	}
	audit(t, table, 0)
}

// mapTwin maps the client's endpoint, to port if nobody else was faster.
func mapTwin(w *Worker, x *External, port uint16) *Mapping {
	if m := w.FindMapping(packet.ProtoUDP, client, 4000, x); m != nil {
		return m
	}
	src, _ := w.Source(client)
	m, existed, _, _ := w.NewMapping(packet.ProtoUDP, client, 4000, x, port, src, 1)
	if existed {
		w.ReleaseSource(src)
	}
	return m
}

// A creator that stops after its original entry does not stop its twin, nor the
// flow that the other end opens; when it goes on it finds theirs.
func TestStalledCreator(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		for _, later := range []bool{false, true} {
			table := newTable(t, 100, 2)
			stalled, other := table.Worker(0), table.Worker(1)
			nf := plain(udp(client, 1, client+1, 1))
			twin := plain(nf.Original)
			if reverse {
				twin = plain(nf.Reply)
			}
			id := stalled.flows.take()
			if later {
				// The other's record gets the lower id, and so must wait.
				lower := id
				id = stalled.flows.take()
				if lower > id {
					lower, id = id, lower
				}
				other.flows.untake(lower)
			}
			stalled.fill(id, nf, 1)
			if _, out := stalled.attachOriginal(id, nf); out != inserted {
				t.Fatal(out)
			}
			f := mustCreate(t, other, twin, 1)
			if _, out := stalled.attachReply(id, nf); out == inserted || stalled.publish(id) {
				t.Error("the stalled creator published a second flow")
			}
			if !stalled.withdraw(id) {
				t.Error("the stalled creator was not told that it was aborted")
			}
			g, d, existed, r := stalled.Create(nf, 1)
			if g != f || !existed || r != verdict.None || f.Tuple(d) != nf.Original {
				t.Errorf("reverse %v: got %p (%v, %v), want %p", reverse, g, existed, r, f)
			}
			audit(t, table, 0)
		}
	}
}

// A creator that stops with a tentative entry, at a lower or a higher position,
// does not stop its twin.
func TestStalledTentative(t *testing.T) {
	table := newTable(t, 100, 2)
	stalled, other := table.Worker(0), table.Worker(1)
	nf := plain(udp(client, 1, server, 1))
	k := nf.Original.key()
	h := table.seed.hash(k)
	id := stalled.flows.take()
	stalled.fill(id, nf, 1)
	word := tag(h) | kindOriginal | uint64(id)
	mine, ok := table.claim(h, word|slotTentative)
	if !ok {
		t.Fatal("no slot")
	}
	if f, _ := other.Find(nf.Original, 1); f != nil {
		t.Error("a look-up saw a tentative entry")
	}
	mustCreate(t, other, nf, 1)
	if mine.slot.CompareAndSwap(word|slotTentative, word|slotLive) {
		t.Error("both were promoted")
	}
	stalled.discard(id)
	audit(t, table, 0)
}

// Whoever holds a port sees its bit set, from the claim until it is freed.
func TestClaimKeepsBit(t *testing.T) {
	threads(t, 4)
	x := NewExternal(external, nil)
	var owner atomic.Uint32
	var wg sync.WaitGroup
	for i := range uint32(4) {
		wg.Go(func() {
			for range 200_000 / (1 + 9*raceFactor) {
				if !x.claim(1, 5000, i+1) {
					continue
				}
				if !owner.CompareAndSwap(0, i+1) {
					t.Error("a port has two owners")
				}
				for range 64 { // who was before may be about to clear it
					if atomic.LoadUint64(&x.held[portWords+5000/64])&(1<<(5000%64)) == 0 {
						t.Error("a port that is held has no bit")
						return
					}
				}
				owner.Store(0)
				x.free(1, 5000, i+1)
			}
		})
	}
	wg.Wait()
	if x.Claimed() != 0 || x.held[portWords+5000/64] != 0 {
		t.Error("the port is still held")
	}
}

// Many goroutines take ids and give them back: never has an id two owners.
func TestPoolHammer(t *testing.T) {
	const ids, goroutines = 12, 6
	threads(t, goroutines)
	links := make([]atomic.Uint32, ids+1)
	p := newPool(ids, 1, func(id uint32) *atomic.Uint32 { return &links[id] })
	owners := make([]atomic.Uint32, ids+1)
	var wg sync.WaitGroup
	for g := range uint32(goroutines) {
		wg.Go(func() {
			var mine [3]uint32
			for i := range 300_000 / (1 + 9*raceFactor) {
				n := p.pop(mine[:1+i%3])
				for _, id := range mine[:n] {
					if !owners[id].CompareAndSwap(0, g+1) {
						t.Errorf("id %d was handed out twice", id)
						return
					}
				}
				for _, id := range mine[:n] {
					owners[id].Store(0)
					p.push(id, id)
				}
			}
		})
	}
	wg.Wait()
	seen := map[uint32]bool{}
	for id := uint32(p.head.Load()); id != 0; id = links[id].Load() {
		if seen[id] {
			t.Fatalf("id %d is in the stack twice", id)
		}
		seen[id] = true
	}
	if len(seen)+ids-int(p.fresh.Load()) != ids {
		t.Errorf("%d of %d ids came back", len(seen), ids)
	}
}

// The head of the stack differs after the same ids came and went (ABA).
func TestPoolABA(t *testing.T) {
	links := make([]atomic.Uint32, 4)
	p := newPool(3, 1, func(id uint32) *atomic.Uint32 { return &links[id] })
	var a, b, c [1]uint32
	p.pop(a[:])
	p.pop(b[:])
	p.pop(c[:])
	p.push(b[0], b[0])
	p.push(a[0], a[0])
	before, next := p.head.Load(), links[a[0]].Load()
	p.pop(a[:])
	p.pop(b[:])
	p.push(a[0], a[0])
	after := p.head.Load()
	if uint32(before) != uint32(after) || next == links[a[0]].Load() {
		t.Fatal("the test does not make the situation it is about")
	}
	if p.head.CompareAndSwap(before, uint64(next)) {
		t.Error("a pop that began before would have handed out an id that is in use")
	}
}

// A flow that is refreshed between an expirer's look and its swap stays; of many
// expirers one ends it.
func TestExpiryAgainstRefresh(t *testing.T) {
	table := newTable(t, 100, 4)
	w := table.Worker(0)
	key := udp(client, 1, server, 1)
	f := mustCreate(t, w, plain(key), 1)
	const late = 1 + 121*TicksPerSecond
	w.now = late
	seen := f.lastSeen()
	f.Touch(Original, 1, late)
	if w.endSilent(f, seen) {
		t.Error("a flow that was refreshed ended")
	}
	if got, _ := w.Find(key, late+1); got != f {
		t.Error("a flow that was refreshed is not found")
	}
	threads(t, 4)
	for range 500 / (1 + 4*raceFactor) {
		for _, w := range table.workers {
			w.events.open.Store(true)
		}
		f := mustCreate(t, w, plain(udp(client, 2, server, 2)), late)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				w := table.workers[i]
				if i%2 == 0 {
					w.Find(f.Tuple(Reply), 2*late)
				} else {
					w.Sweep(4, 2*late)
				}
			})
		}
		wg.Wait()
		ends := 0
		var e [8]Event
		for _, w := range table.workers {
			n, _ := w.events.Read(e[:])
			for _, e := range e[:n] {
				if e.Type == EventEnd && e.Original == f.Tuple(Original) {
					ends++
				}
			}
		}
		if ends != 1 {
			t.Fatalf("the flow ended %d times", ends)
		}
		for i := range 12 {
			table.workers[i%4].Quiesce()
		}
	}
	audit(t, table, 0)
}

// An ended record is not reused while a worker may look at it, and afterwards
// under a new generation.
func TestReuseWaitsForEveryWorker(t *testing.T) {
	table := newTable(t, 1, 2)
	w, reader := table.Worker(0), table.Worker(1)
	f := mustCreate(t, w, plain(udp(client, 1, server, 1)), 1)
	old := f.Tuple(Original)
	w.Retire(f, verdict.Filtered)
	next := plain(udp(client, 2, server, 2))
	for range 10 {
		w.Quiesce()
		if _, _, _, r := w.Create(next, 1); r != verdict.FlowTableFull {
			t.Fatal("a record was reused under a reader:", r)
		}
	}
	if f.Tuple(Original) != old || f.Generation() != 1 {
		t.Error("the record changed under a reader")
	}
	reader.Offline()
	for range 3 {
		w.Quiesce()
	}
	g := mustCreate(t, w, next, 1)
	if g != f || g.Generation() != 2 {
		t.Errorf("reused as %p, generation %d", g, g.Generation())
	}
	reader.Online()
	audit(t, table, 0)
}
