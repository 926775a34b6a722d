package gateway

import (
	"sync/atomic"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/packet"
)

// ServiceCounters count what a worker did for services beyond forwarding.
type ServiceCounters struct {
	Resets          uint64 // connections that were reset, since they cannot go on
	Announcements   uint64 // of service addresses, by ARP
	OptionsStripped uint64 // packets from which a foreign DSR option was taken
	PathMTUs        uint64 // errors that told a path's MTU to a backend and had nothing for a client

	// Returns counts flows that began with the gateway as their return path, by
	// why.
	Returns [ReturnPaths]uint64
}

const serviceWords = 4 + int(ReturnPaths)

// each calls f with every counter, in an order that stays.
func (c *ServiceCounters) each(f func(*uint64)) {
	for _, v := range [...]*uint64{&c.Resets, &c.Announcements, &c.OptionsStripped, &c.PathMTUs} {
		f(v)
	}
	for i := range c.Returns {
		f(&c.Returns[i])
	}
}

// BackendCounters count what a worker forwarded for one backend of a service. A
// service's own counts are the sums over its backends.
type BackendCounters struct {
	Packets, Bytes [2]uint64 // by direction; IPv4 lengths
	Flows          uint64    // that began
	Connections    uint64    // of those, by a SYN

	// Unanswered is flows with the gateway as their return path whose client sent
	// several packets and got none back.
	Unanswered uint64
}

// Since is what was counted after the counters were as in before.
func (c BackendCounters) Since(before BackendCounters) BackendCounters {
	for dir := range c.Packets {
		c.Packets[dir] -= before.Packets[dir]
		c.Bytes[dir] -= before.Bytes[dir]
	}
	c.Flows -= before.Flows
	c.Connections -= before.Connections
	c.Unanswered -= before.Unanswered
	return c
}

// unansweredPackets is how many packets of a client without an answer make a
// flow count as unanswered: a SYN and three repetitions, 7 s.
const unansweredPackets = 4

const backendWords = 7

// backendCounts are a worker's counters by backend id, and what was published of
// them. They grow with the highest id.
type backendCounts struct {
	own       []BackendCounters
	published []atomic.Uint64 // backendWords for each id
}

func newBackendCounts(n int) *backendCounts {
	return &backendCounts{own: make([]BackendCounters, n), published: make([]atomic.Uint64, n*backendWords)}
}

// growBackends makes room for n ids. It allocates, once for a configuration with
// more backends than any before.
func (w *Worker) growBackends(n int) {
	old := w.backends.Load()
	if n <= len(old.own) {
		return
	}
	b := newBackendCounts(n)
	copy(b.own, old.own)
	b.store()
	w.backends.Store(b)
}

// countService counts a packet that a service's flow has just been touched by.
func (w *Worker) countService(flow *conntrack.Flow, dir conntrack.Direction, p *packet.Packet) {
	id := int(flow.Backend())
	own := w.backends.Load().own
	if id >= len(own) {
		return
	}
	c := &own[id]
	c.Packets[dir]++
	c.Bytes[dir] += uint64(p.Length())
	if dir == conntrack.Reply {
		return
	}
	switch sent := flow.Packets(conntrack.Original); {
	case sent == 1:
		c.Flows++
		if p.Proto == packet.ProtoTCP && p.TCPFlags&packet.TCPSyn != 0 {
			c.Connections++
		}
	case sent == unansweredPackets && flow.Kind() == conntrack.ServiceSNAT && flow.Packets(conntrack.Reply) == 0:
		c.Unanswered++
	}
}

// store publishes the counters.
func (b *backendCounts) store() {
	for id := range b.own {
		c, to := &b.own[id], b.published[id*backendWords:][:backendWords]
		if c.Packets[0]+c.Packets[1] == to[0].Load()+to[1].Load() {
			continue
		}
		for i, v := range [backendWords]uint64{c.Packets[0], c.Packets[1], c.Bytes[0], c.Bytes[1], c.Flows, c.Connections, c.Unanswered} {
			to[i].Store(v)
		}
	}
}

// Backend returns what was last published for a backend. It may be called from
// any goroutine.
func (w *Worker) Backend(id dsr.BackendID) BackendCounters {
	b := w.backends.Load()
	if int(id) >= len(b.own) {
		return BackendCounters{}
	}
	at := b.published[int(id)*backendWords:][:backendWords]
	return BackendCounters{
		Packets: [2]uint64{at[0].Load(), at[1].Load()}, Bytes: [2]uint64{at[2].Load(), at[3].Load()},
		Flows: at[4].Load(), Connections: at[5].Load(), Unanswered: at[6].Load(),
	}
}
