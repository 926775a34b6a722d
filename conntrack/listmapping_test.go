package conntrack

import (
	"slices"
	"sync"
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

func TestEachMapping(t *testing.T) {
	table := newTable(t, 4000, 1)
	w := table.Worker(0)
	first, second := NewExternal(0xc0000201, nil), NewExternal(0xc0000202, nil)
	for _, x := range []*External{first, second} {
		if err := table.AddExternal(x); err != nil {
			t.Fatal(err)
		}
	}
	type name struct {
		addr  uint32
		proto uint8
		port  uint16
	}
	want := map[name]uint32{}
	add := func(x *External, proto uint8, port uint16) {
		inside := client + uint32(len(want))
		m, _, taken, r := w.NewMapping(proto, inside, 7, x, port, nil, 3)
		if m == nil || taken || r != verdict.None {
			t.Fatalf("port %d: taken %v, %v", port, taken, r)
		}
		want[name{x.Address(), proto, port}] = inside
	}
	for _, x := range []*External{first, second} {
		for _, proto := range spaceProtocols {
			for port := 1000; port < 1000+3*chunk; port++ {
				add(x, proto, uint16(port))
			}
			add(x, proto, 0xffff)
		}
	}
	add(first, packet.ProtoICMP, 0)
	var c MappingCursor
	var seen []name
	for done := false; !done; {
		n := 0
		done = true
		table.EachMapping(&c, func(s MappingSnapshot) bool {
			k := name{s.External, s.Proto, s.ExternalPort}
			seen = append(seen, k)
			if s.Inside != want[k] || s.InsidePort != 7 || s.Users != 1 || s.Created != 3 || s.Gone {
				t.Fatalf("%+v, want inside %#x", s, want[k])
			}
			n++
			done = n < 37
			return done
		})
	}
	if len(seen) != len(want) {
		t.Errorf("%d mappings came, %d are there", len(seen), len(want))
	}
	if !slices.IsSortedFunc(seen, func(a, b name) int {
		if a.addr != b.addr {
			return int(a.addr) - int(b.addr)
		}
		i, _ := portSpace(a.proto)
		j, _ := portSpace(b.proto)
		return (i-j)<<16 + int(a.port) - int(b.port)
	}) {
		t.Error("not in the order of the external endpoints")
	}
	table.RemoveExternal(second)
	s, known, held := table.Holder(packet.ProtoUDP, second.Address(), 1000)
	if !known || !held || !s.Gone || s.Inside != want[name{second.Address(), packet.ProtoUDP, 1000}] {
		t.Errorf("a removed address's holder: %+v, %v, %v", s, known, held)
	}
	if _, known, held := table.Holder(packet.ProtoUDP, first.Address(), 999); !known || held {
		t.Errorf("a free port: known %v, held %v", known, held)
	}
	if _, known, _ := table.Holder(packet.ProtoUDP, 0x01010101, 999); known {
		t.Error("an address that is not NAT's is known")
	}
}

// TestWalksBesideAWorker: mappings and sources are born and end while they are
// listed, and what is seen is always whole.
func TestWalksBesideAWorker(t *testing.T) {
	table := newTable(t, 256, 1)
	w := table.Worker(0)
	x := NewExternal(0xc0000201, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() {
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			port := uint16(i%200) + 1
			src, r := w.Source(client + uint32(port))
			if r == verdict.SourceTableFull { // what has ended waits for the walk
				w.Quiesce()
				continue
			}
			if r != verdict.None {
				t.Error(r)
				return
			}
			src.Pair(x.Address())
			m, existed, taken, r := w.NewMapping(packet.ProtoUDP, client+uint32(port), port, x, port, src, Tick(port))
			if r == verdict.MappingTableFull {
				w.ReleaseSource(src)
				w.Quiesce()
				continue
			}
			if m == nil || existed || taken {
				t.Errorf("existed %v, taken %v, %v", existed, taken, r)
				return
			}
			w.Release(m)
			w.Quiesce()
		}
	})
	for range 2000 {
		var at MappingCursor
		table.EachMapping(&at, func(s MappingSnapshot) bool {
			if s.InsidePort != s.ExternalPort || s.Inside != client+uint32(s.InsidePort) || s.Created != Tick(s.InsidePort) {
				t.Errorf("torn: %+v", s)
			}
			return true
		})
		var from Cursor
		table.EachSource(&from, func(s SourceSnapshot) bool {
			if s.Address <= client || s.Address > client+200 {
				t.Errorf("torn: %+v", s)
			}
			return true
		})
	}
	close(stop)
	working.Wait()
}

func TestEachSource(t *testing.T) {
	table := newTable(t, 4000, 1)
	w := table.Worker(0)
	want := map[uint32]bool{}
	for i := range uint32(1000) {
		s, r := w.Source(client + i)
		if r != verdict.None {
			t.Fatal(r)
		}
		if i%3 == 0 {
			w.ReleaseSource(s)
			continue
		}
		s.Pair(i)
		want[client+i] = true
	}
	var c Cursor
	for done := false; !done; {
		n := 0
		done = true
		table.EachSource(&c, func(s SourceSnapshot) bool {
			if !want[s.Address] || s.External != s.Address-client || s.Mappings != 1 {
				t.Fatalf("%+v came twice, or should not have come", s)
			}
			delete(want, s.Address)
			n++
			done = n < 31
			return done
		})
	}
	if len(want) != 0 {
		t.Errorf("%d sources did not come", len(want))
	}
}

// TestClosedRing: who stops reading leaves nothing that costs or that the next
// reader could take for news.
func TestClosedRing(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	var e [8]Event
	w.events.Read(e[:])
	w.Retire(mustCreate(t, w, plain(udp(client, 1, server, 1)), 1), verdict.None)
	w.events.Close()
	w.Retire(mustCreate(t, w, plain(udp(client, 2, server, 2)), 1), verdict.None)
	if n, _ := w.events.Read(e[:]); n != 0 {
		t.Errorf("%d events of before", n)
	}
	mustCreate(t, w, plain(udp(client, 3, server, 3)), 1)
	if n, lost := w.events.Read(e[:]); n != 1 || lost != 0 || e[0].Type != EventNew {
		t.Errorf("%d events, %d lost: %+v", n, lost, e[0])
	}
}
