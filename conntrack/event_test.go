package conntrack

import (
	"testing"

	"sluice/internal/verdict"
)

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
