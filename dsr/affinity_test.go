package dsr

import (
	"fmt"
	"reflect"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
)

// sticky is a service with affinity, whose backends take turns.
func sticky(t fataler, timeout conntrack.Tick, a *Affinity, n int) *Service {
	c := web(RoundRobin, backends(repeat(1, n)...))
	c.Affinity = timeout
	x, err := New([]ServiceConfig{c}, NewIds(), nil, a)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return x.Services[0]
}

type fataler interface {
	Fatalf(format string, args ...any)
}

func repeat(v, n int) (list []int) {
	for range n {
		list = append(list, v)
	}
	return list
}

func of(host uint32, port uint16) conntrack.Tuple {
	return conntrack.Tuple{Src: host, Dst: vip, SrcPort: port, DstPort: 80, Proto: packet.ProtoTCP}
}

// TestAffinitySetIsALine: a look-up costs one miss of the cache.
func TestAffinitySetIsALine(t *testing.T) {
	if n := reflect.TypeFor[affinitySet]().Size(); n != 64 {
		t.Errorf("%d bytes", n)
	}
}

// TestAffinityIsBounded: many clients displace those not seen for the longest
// time; a client that is seen all the time stays.
func TestAffinityIsBounded(t *testing.T) {
	s := sticky(t, 1<<20, NewAffinity(64, 7), 5)
	kept := s.Pick(of(7, 1), 0, 0)
	for i := range uint32(100000) {
		if b := s.Pick(of(7, uint16(i)), conntrack.Tick(i), 0); b != kept {
			t.Fatalf("after %d clients it is %v", i, b.Endpoint())
		}
		s.Pick(of(i+100, 1), conntrack.Tick(i), 0)
	}
	if n := len(s.affinity.sets) * ways; n != 64 {
		t.Errorf("room for %d clients", n)
	}
}

// TestAffinityAgainstModel: what a client gets is what a map of clients says, for
// new connections, packets of old ones, backends that drain, and time that passes.
func TestAffinityAgainstModel(t *testing.T) {
	type entry struct {
		backend BackendID
		seen    conntrack.Tick
	}
	rapid.Check(t, func(r *rapid.T) {
		const timeout = 50
		ids, memory := NewIds(), NewAffinity(1<<12, rapid.Uint64().Draw(r, "seed"))
		config := web(RoundRobin, backends(1, 1, 1, 1))
		config.Affinity = timeout
		var table *Table
		build := func() *Service {
			next, err := New([]ServiceConfig{config}, ids, table, memory)
			if err != nil {
				r.Fatal(err)
			}
			table = next
			return next.Services[0]
		}
		s, model := build(), map[uint32]entry{}
		now := conntrack.Tick(rapid.SampledFrom([]uint32{0, 1000, 1<<32 - 60}).Draw(r, "start"))
		for range rapid.IntRange(1, 200).Draw(r, "steps") {
			host := rapid.Uint32Range(1, 6).Draw(r, "client")
			e, known := model[host]
			known = known && now-e.seen < timeout
			active := map[BackendID]bool{}
			for _, b := range s.active {
				active[b.ID] = true
			}
			switch rapid.SampledFrom([]string{"connect", "connect", "packet", "time", "drain"}).Draw(r, "what") {
			case "connect":
				peeked := s.Peek(of(host, 1), now, 0)
				b := s.Pick(of(host, 1), now, 0)
				if b != peeked || known && active[e.backend] && b.ID != e.backend {
					r.Fatalf("client %d got %v, was foretold %v, and had %d", host, b, peeked, e.backend)
				}
				if b != nil {
					model[host] = entry{b.ID, now}
				} else if !known || !active[e.backend] {
					delete(model, host)
				}
			case "packet":
				by := BackendID(rapid.Uint32Range(1, 4).Draw(r, "by"))
				s.Seen(host, by, now)
				switch _, there := model[host]; {
				case !there && active[by] || known && e.backend == by && active[by]:
					model[host] = entry{by, now}
				}
			case "time":
				now += conntrack.Tick(rapid.Uint32Range(1, 60).Draw(r, "ticks"))
			case "drain":
				at := rapid.IntRange(0, 3).Draw(r, "backend")
				config.Backends[at].State ^= Draining
				s = build()
			}
		}
	})
}

// TestAffinityConcurrently: workers that pick for one client at once all pick one
// backend, though the backends take turns: for new clients, for those whose time is
// over, whose backend drains, and while other clients come to the same set.
func TestAffinityConcurrently(t *testing.T) {
	const workers, timeout = 4, 100
	memory := NewAffinity(1<<12, 7)
	s := sticky(t, timeout, memory, 64)
	now := conntrack.Tick(1 << 31)
	for round := range 3000 {
		if round%3 == 1 {
			now += timeout + 1 // the client of the round before is over; nobody is left in the sets
		}
		host := uint32(round/3%7 + 1)
		var got [workers]*Backend
		var start, done sync.WaitGroup
		start.Add(1)
		for w := range workers {
			done.Go(func() {
				start.Wait()
				clock := now + conntrack.Tick(w&1) // one is a tick ahead
				got[w] = s.Pick(of(host, uint16(w)), clock, 0)
				s.Pick(of(host+uint32(w+1)*1000, 1), clock, 0)
			})
		}
		start.Done()
		done.Wait()
		for w := range got {
			if got[w] != got[0] {
				t.Fatalf("round %d: worker 0 picked %v, worker %d %v", round, got[0].Endpoint(), w, got[w].Endpoint())
			}
		}
	}
}

// TestAffinityCrowded: with far more clients than room, what a worker gets for a
// client is a backend of the service, entries stay whole, and nothing hangs.
func TestAffinityCrowded(t *testing.T) {
	memory := NewAffinity(16, 7)
	s := sticky(t, 1000, memory, 3)
	var running sync.WaitGroup
	for g := range 4 {
		running.Go(func() {
			for i := range 20000 {
				if s.Pick(of(uint32(i*7+g*13)%256+1, uint16(i)), conntrack.Tick(i), 0) == nil {
					t.Error("no backend")
					return
				}
			}
		})
	}
	running.Wait()
	for i := range memory.sets {
		set := &memory.sets[i]
		if op := set.op.Load(); op != 0 {
			t.Errorf("set %d: %#x never got its place", i, op)
		}
		for j := range set.words {
			w := set.words[j].Load()
			if host := uint32(w >> 32); w != 0 && (host == 0 || host > 256 || ServiceID(keyOf(w)) != s.ID || s.inSlot(slotOf(w)) == nil) {
				t.Errorf("set %d: entry %#x", i, w)
			}
		}
	}
}

// TestAffinityForgets a service whose number is given to another.
func TestAffinityForgets(t *testing.T) {
	memory := NewAffinity(1<<10, 7)
	s := sticky(t, 1000, memory, 3)
	for host := range uint32(100) {
		s.Pick(of(host+1, 1), 5, 0)
	}
	memory.forget(func(id ServiceID) bool { return id == s.ID+1 })
	left := func() (n int) {
		for i := range memory.sets {
			for j := range memory.sets[i].words {
				if memory.sets[i].words[j].Load() != 0 {
					n++
				}
			}
		}
		return n
	}
	if n := left(); n != 100 {
		t.Fatalf("%d of 100 clients", n)
	}
	if memory.forget(func(id ServiceID) bool { return id == s.ID }); left() != 0 {
		t.Errorf("%d clients of a service that is gone", left())
	}
}

// TestSlots: a backend keeps its slot for as long as it is there, two never share
// one, and a service cannot have more than there are.
func TestSlots(t *testing.T) {
	ids := NewIds()
	var before *Table
	rapid.Check(t, func(r *rapid.T) {
		c := web(Maglev, nil)
		for i := range uint32(20) {
			if rapid.Bool().Draw(r, fmt.Sprint("backend ", i)) {
				c.Backends = append(c.Backends, BackendConfig{Address: address("10.0.2.1") + i, Port: 80, Weight: 1})
			}
		}
		x, err := New([]ServiceConfig{c}, ids, before, nil)
		if err != nil {
			r.Fatal(err)
		}
		owner := map[uint16]BackendID{}
		for _, b := range x.Services[0].Backends {
			if other, taken := owner[b.slot]; taken {
				r.Fatalf("backends %d and %d have slot %d", other, b.ID, b.slot)
			}
			owner[b.slot] = b.ID
			if old := before.Backend(b.ID); old != nil && old.slot != b.slot {
				r.Fatalf("backend %d had slot %d and has %d", b.ID, old.slot, b.slot)
			}
		}
		before = x
	})
	c := web(Random, backends(repeat(1, MaxBackends+1)...))
	if _, err := New([]ServiceConfig{c}, ids, nil, nil); err == nil {
		t.Error("more backends than slots")
	}
	c.Backends = c.Backends[1:]
	if _, err := New([]ServiceConfig{c}, ids, nil, nil); err != nil {
		t.Error(err)
	}
}
