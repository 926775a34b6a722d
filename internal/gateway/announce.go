package gateway

import (
	"slices"

	"sluice/internal/fib"
	"sluice/nat"
	"sluice/xdp"
)

// announces reports whether the gateway answers ARP for a service address.
func (s *Snapshot) announces(addr uint32) bool {
	_, ok := slices.BinarySearch(s.Balance.Announced, addr)
	return ok
}

const (
	announceTimes = 3   // RFC 5227 2.3 has 2; one more against loss
	announceEvery = 20  // ticks: ANNOUNCE_INTERVAL
	probeEvery    = 600 // ticks from one question to the next whether others have the addresses, too
)

// announcement is what is left of telling the neighbours which hardware address
// has a service address now, after a start or a change of addresses or links:
// another gateway may have had it (RFC 5227). Afterwards, and with the first round,
// the neighbours are asked whether any has one of the addresses, too: who only
// answers others would not be noticed otherwise. The steering program hears what
// they say.
type announcement struct {
	left int    // rounds
	next int    // address of the round at hand
	due  uint32 // tick of the next round
}

// announces reports whether the neighbours must be told anew under snapshot next:
// addresses came, or a port's link or hardware address did.
func (w *Worker) announces(next *Snapshot) bool {
	if len(next.Balance.Announced) == 0 {
		return false
	}
	for i := range w.ports {
		before, after := w.snapshot.Routes.Interface(fib.PortID(i)), next.Routes.Interface(fib.PortID(i))
		if after != nil && after.Up && (before == nil || !before.Up || before.MAC != after.MAC) {
			return true
		}
	}
	return !slices.Equal(w.snapshot.Balance.Announced, next.Balance.Announced)
}

// announce begins to tell the neighbours of the service addresses. The first
// worker does so for all: they share the ports' hardware addresses.
func (w *Worker) announce() {
	w.announcing = announcement{left: announceTimes, due: uint32(w.now)}
}

// announceMore sends what is due, once a tick: a few of the addresses of a round,
// and one that the control plane wants announced once more.
func (w *Worker) announceMore() {
	if w.id != 0 {
		return
	}
	select {
	case n := <-w.defend:
		if w.table.External(n.Addr) != nil || w.snapshot.announces(n.Addr) {
			w.claim(n.Port, n.Addr, nat.ARPAnnouncement)
		}
	default:
	}
	a := &w.announcing
	if int32(uint32(w.now)-a.due) < 0 {
		return
	}
	list := w.snapshot.Balance.Announced
	for range Burst {
		if a.next >= len(list) {
			a.rest(uint32(w.now))
			return
		}
		for i := range w.ports {
			if a.left == 0 || a.left == announceTimes {
				w.claim(fib.PortID(i), list[a.next], nat.ARPProbe)
			}
			if a.left > 0 {
				w.claim(fib.PortID(i), list[a.next], nat.ARPAnnouncement)
				w.counters.Services.Announcements++
			}
		}
		a.next++
	}
}

// rest ends a round.
func (a *announcement) rest(now uint32) {
	a.left, a.next = max(0, a.left-1), 0
	if a.due = now + announceEvery; a.left == 0 {
		a.due = now + probeEvery
	}
}

// claim sends what write makes of an address on a port whose link is up.
func (w *Worker) claim(port fib.PortID, addr uint32, write func([]byte, [6]byte, uint32)) {
	iface := w.snapshot.Routes.Interface(port)
	var d [1]xdp.Desc
	if iface == nil || !iface.Up || w.memory.Allocate(d[:]) == 0 {
		return
	}
	d[0].Len = nat.ARPAnnouncementLength
	write(w.frame(d[0]), iface.MAC, addr)
	w.queue(port, d[0])
}
