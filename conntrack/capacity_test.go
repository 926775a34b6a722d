package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// A full table refuses what is new, with the reason, and harms nothing else:
// with its mappings, each flow the only one of its own, it holds what it says.
func TestFullTable(t *testing.T) {
	for _, capacity := range []int{1, 10, 1000, 20000} {
		table := newTable(t, capacity, 1)
		w := table.Worker(0)
		x := NewExternal(external, nil)
		if err := table.AddExternal(x); err != nil {
			t.Fatal(err)
		}
		flows := make([]*Flow, capacity)
		for i := range flows {
			flows[i] = masquerade(t, w, x, udp(client, uint16(1000+i), server, 53), uint16(1000+i))
		}
		for range 100 {
			if _, _, _, r := w.Create(plain(udp(client, 1, server, 1)), 2); r != verdict.FlowTableFull {
				t.Fatalf("%d flows: one more: %v", capacity, r)
			}
		}
		// The twin of a flow that is there is no new flow.
		if f, _, existed, r := w.Create(plain(flows[0].Tuple(Original)), 2); f != flows[0] || !existed || r != verdict.None {
			t.Errorf("%d flows: an existing one: %v, %v", capacity, existed, r)
		}
		if _, _, _, r := w.NewMapping(packet.ProtoTCP, client, 1, x, 1, nil, 1); r != verdict.MappingTableFull {
			t.Errorf("%d mappings: one more: %v", capacity, r)
		}
		for i, f := range flows {
			for _, d := range []Direction{Original, Reply} {
				if got, dir := w.Find(f.Tuple(d), 2); got != f || dir != d {
					t.Fatalf("flow %d of %d: Find(%v) = %p, %v", i, capacity, d, got, dir)
				}
			}
		}
		audit(t, table, 0)
		w.Retire(flows[0], verdict.Filtered)
		for range 3 {
			w.Quiesce()
		}
		mustCreate(t, w, plain(udp(client, 1, server, 1)), 2)
		audit(t, table, 0)
	}
}

func TestFullSources(t *testing.T) {
	table := newTable(t, 8000, 1)
	w := table.Worker(0)
	for i := range uint32(2000) {
		if _, r := w.Source(client + i); r != verdict.None {
			t.Fatalf("source %d: %v", i, r)
		}
	}
	if _, r := w.Source(client - 1); r != verdict.SourceTableFull {
		t.Errorf("one more: %v", r)
	}
	if _, r := w.Source(client); r != verdict.None {
		t.Errorf("an existing one: %v", r)
	}
}

// The reply tuple is the claim: a flow whose replies another flow would get is
// refused, and leaves nothing behind.
func TestReplyTupleTaken(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	f := mustCreate(t, w, plain(udp(client, 1, server, 1)), 1)
	for _, reply := range []Tuple{f.Tuple(Reply), f.Tuple(Original)} {
		nf := &NewFlow{Original: udp(client+1, 1, server, 1), Reply: reply}
		if g, _, _, r := w.Create(nf, 1); g != nil || r != verdict.ReplyTupleTaken {
			t.Errorf("Create = %p, %v", g, r)
		}
		if g, _ := w.Find(nf.Original, 1); g != nil {
			t.Error("a flow that was refused is found")
		}
	}
	audit(t, table, 0)
	// Unless that flow's time is over.
	nf := &NewFlow{Original: udp(client+1, 1, server, 1), Reply: f.Tuple(Reply)}
	mustCreate(t, w, nf, 1+121*TicksPerSecond)
	if f.Alive() {
		t.Error("both flows live")
	}
	audit(t, table, 0)
}

// A packet to oneself: both tuples are the same, and so are the entries.
func TestOneEntryForEqualTuples(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	f := mustCreate(t, w, plain(Tuple{Src: client, Dst: client, Proto: 47}), 1)
	if got, _ := w.Find(f.Tuple(Reply), 1); got != f {
		t.Error("not found")
	}
	audit(t, table, 0)
	w.Retire(f, verdict.Filtered)
	audit(t, table, 0)
}

// The hot path allocates nothing, and neither does the life of a flow.
func TestNoAllocations(t *testing.T) {
	table := newTable(t, 1000, 1)
	w := table.Worker(0)
	x := NewExternal(external, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	l := new(Lookup)
	for i := range l.Keys {
		l.Keys[i] = udp(client, uint16(i), server, 53)
		masquerade(t, w, x, l.Keys[i], uint16(i))
	}
	p := &packet.Packet{Proto: packet.ProtoUDP}
	w.events.open.Store(true)
	var events [16]Event
	if n := testing.AllocsPerRun(100, func() {
		w.LookupBurst(l, Burst, 2)
		for i, f := range l.Flow {
			w.Update(f, l.Dir[i], p)
			f.Touch(l.Dir[i], 100, 2)
			f.SetNextHop(l.Dir[i], 7)
		}
		key := udp(client, 999, server, 53)
		src, _ := w.Source(client)
		port, _ := x.NextFree(key.Proto, 999, 1, 65535)
		m, _, _, _ := w.NewMapping(key.Proto, key.Src, key.SrcPort, x, port, src, 2)
		nf := NewFlow{Original: key, Reply: key.Reverse(), Mapping: m}
		nf.Reply.Dst, nf.Reply.DstPort = m.External()
		f, _, _, _ := w.Create(&nf, 2)
		w.Retire(f, verdict.Filtered)
		w.Sweep(64, 2)
		w.Quiesce()
		w.events.Read(events[:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
