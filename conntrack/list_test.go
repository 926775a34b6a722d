package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

func TestEach(t *testing.T) {
	table := newTable(t, 1000, 1)
	w := table.Worker(0)
	want := map[Tuple]bool{}
	for i := range uint16(300) {
		f := mustCreate(t, w, plain(udp(client, i, server, 53)), 7)
		if i%3 == 0 {
			w.Retire(f, verdict.Filtered)
			continue
		}
		want[f.Tuple(Original)] = true
		f.Touch(Original, 100, 9)
		f.Touch(Reply, 200, 8)
	}
	var c Cursor
	stops := 0
	for done := false; !done; stops++ {
		n := 0
		done = true
		table.Each(&c, func(s Snapshot) bool {
			if !want[s.Original] {
				t.Fatalf("%v came twice, or should not have come", s.Original)
			}
			delete(want, s.Original)
			if s.Created != 7 || s.LastSeen != 8 || s.Packets != [2]uint64{1, 1} || s.Bytes != [2]uint64{100, 200} ||
				s.State != UDPUnreplied || s.Timeout != 1200 || s.Reply != s.Original.Reverse() || s.Generation == 0 {
				t.Errorf("%+v", s)
			}
			n++
			done = n < 17
			return done
		})
	}
	if len(want) != 0 || stops < 200/17 {
		t.Errorf("%d flows did not come, in %d walks", len(want), stops)
	}
	table.Each(&c, func(s Snapshot) bool {
		t.Errorf("%v came after the end", s.Original)
		return true
	})
}

// What `flows flush` does: by name, and only if it is still that flow.
func TestEnd(t *testing.T) {
	table := newTable(t, 1, 1)
	w := table.Worker(0)
	f := mustCreate(t, w, plain(udp(client, 1, server, 1)), 1)
	id, generation := table.ID(f), f.Generation()
	for _, c := range []struct {
		id, generation uint32
		want           bool
	}{
		{0, generation, false}, {99, generation, false}, {id, generation + 1, false}, {id, generation, true}, {id, generation, false},
	} {
		if got := table.End(c.id, c.generation, verdict.None, 1); got != c.want {
			t.Errorf("End(%d, %d) = %v", c.id, c.generation, got)
		}
	}
	if c := table.Count(); c.Flows != 0 {
		t.Errorf("%+v", c)
	}
}

func TestEventsAndCounts(t *testing.T) {
	table := newTable(t, 100, 1)
	w := table.Worker(0)
	w.Retire(mustCreate(t, w, plain(udp(client, 9, server, 9)), 1), verdict.None)
	var e [8]Event
	if n, lost := w.events.Read(e[:]); n != 0 || lost != 0 {
		t.Errorf("%d events before anybody read", n)
	}
	tcp := Tuple{Src: client, Dst: server, SrcPort: 1, DstPort: 443, Proto: packet.ProtoTCP}
	f := mustCreate(t, w, &NewFlow{Original: tcp, Reply: tcp.Reverse(), TCPFlags: packet.TCPSyn, Service: 5, Backend: 6}, 2)
	if c := table.Count(); c.Flows != 1 || c.States[TCPSynSent] != 1 {
		t.Errorf("%+v", c)
	}
	w.Update(f, Reply, &packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPSyn | packet.TCPAck})
	w.Update(f, Original, &packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck})
	w.Update(f, Original, &packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck | packet.TCPPsh})
	f.Touch(Reply, 1500, 3)
	if c := table.Count(); c.Flows != 1 || c.States[TCPEstablished] != 1 {
		t.Errorf("%+v", c)
	}
	w.Retire(f, verdict.Filtered)
	n, lost := w.events.Read(e[:])
	if n != 4 || lost != 0 {
		t.Fatalf("%d events, %d lost", n, lost)
	}
	for i, want := range []struct {
		what  EventType
		state State
	}{{EventNew, TCPSynSent}, {EventState, TCPSynReceived}, {EventState, TCPEstablished}, {EventEnd, TCPEstablished}} {
		if e[i].Type != want.what || e[i].State != want.state || e[i].Original != tcp || e[i].ID != table.ID(f) {
			t.Errorf("event %d: %v %v, want %v %v", i, e[i].Type, e[i].State, want.what, want.state)
		}
	}
	if last := e[3]; last.Reason != verdict.Filtered || last.Bytes != [2]uint64{0, 1500} || last.Service != 5 || last.Backend != 6 {
		t.Errorf("%+v", last)
	}
	// More than fit: the newest are lost, and counted.
	for i := range uint16(defaultEvents) {
		w.Retire(mustCreate(t, w, plain(udp(client, i, server, 1)), 4), verdict.None)
		w.Quiesce()
	}
	if n, lost := w.events.Read(e[:]); n != len(e) || lost != defaultEvents || e[0].Original != udp(client, 0, server, 1) {
		t.Errorf("%d events, %d lost, first %v", n, lost, e[0].Original)
	}
}
