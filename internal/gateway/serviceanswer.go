package gateway

import (
	"slices"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// echoHop is the way back to who pings a service address, and why there will be
// no answer.
func (s *Snapshot) echoHop(table *conntrack.Table, in fib.PortID, p *packet.Packet) (fib.Hop, verdict.Reason) {
	if r := martian(p); r != verdict.None {
		return fib.Hop{}, r
	}
	if r := s.notUnicast(table, p.Src); r != verdict.None {
		return fib.Hop{}, r
	}
	return s.echoWay(in, p)
}

// echo answers a ping to a service address, which no host has (RFC 1122 3.2.2.6).
func (w *Worker) echo(d xdp.Desc, p *packet.Packet) verdict.Reason {
	if _, r := w.snapshot.echoHop(w.table, w.in, p); r != verdict.None {
		return r
	}
	return w.echoReply(d, p)
}

// resetClient answers a segment for a connection that cannot go on with a reset
// from the service's address, and reports whether it did.
func (w *Worker) resetClient(d xdp.Desc, frame []byte, p *packet.Packet) bool {
	s := w.snapshot
	if p.Proto != packet.ProtoTCP || p.TCPFlags&packet.TCPRst != 0 || p.Is(packet.FlagFragment) {
		return false
	}
	_, hop := s.Routes.Lookup(p.Src, p.Dst, fib.NoPort, 0)
	if hopReason(&hop) != verdict.None || s.fromInside(w.in, p.Src) == s.leavesOutside(hop.Port, p.Src) {
		return false
	}
	if !w.limit.allow(w.keyed.sum(uint64(p.Src), 0), w.now) {
		w.counters.ErrorsLimited++
		return false
	}
	if w.ready(&hop, p.Dst) != verdict.None {
		return false
	}
	packet.AnswerReset(frame, p, w.idents.next(p.Dst, p.Src, p.Proto))
	d.Len = uint32(p.End)
	w.counters.Services.Resets++
	w.sendFrom(d, frame, p, p.Src, fib.NoPort, &hop)
	return true
}

// announces reports whether the gateway answers ARP for a service address.
func (s *Snapshot) announces(addr uint32) bool {
	_, ok := slices.BinarySearch(s.Balance.Announced, addr)
	return ok
}

const (
	announceTimes = 3  // RFC 5227 2.3 has 2; one more against loss
	announceEvery = 20 // ticks: ANNOUNCE_INTERVAL
)

// announcement is what is left of telling the neighbours which hardware address
// has a service address now, after a start or a change of addresses or links:
// another gateway may have had it (RFC 5227).
type announcement struct {
	left  int // rounds
	next  int // address of the round at hand
	since uint32
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
	if w.id == 0 {
		w.announcing = announcement{left: announceTimes, since: uint32(w.now)}
	}
}

// announceMore sends a few of the announcements that are due, once a tick.
func (w *Worker) announceMore() {
	a := &w.announcing
	if a.left == 0 || int32(uint32(w.now)-a.since) < 0 {
		return
	}
	list := w.snapshot.Balance.Announced
	for range Burst {
		if a.next >= len(list) {
			*a = announcement{left: a.left - 1, since: uint32(w.now) + announceEvery}
			return
		}
		for i := range w.ports {
			w.announceOn(fib.PortID(i), list[a.next])
		}
		a.next++
	}
}

func (w *Worker) announceOn(port fib.PortID, addr uint32) {
	iface := w.snapshot.Routes.Interface(port)
	var d [1]xdp.Desc
	if iface == nil || !iface.Up || w.memory.Allocate(d[:]) == 0 {
		return
	}
	d[0].Len = nat.ARPAnnouncementLength
	nat.ARPAnnouncement(w.frame(d[0]), iface.MAC, addr)
	w.queue(port, d[0])
	w.counters.Services.Announcements++
}
