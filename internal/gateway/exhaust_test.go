package gateway

import (
	"bytes"
	"encoding/binary"
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestOneHostTakesEveryPort: a host sends datagrams from every port it has, over and
// over. Without a limit it takes every port there is: what others have goes on, what
// they begin is refused by name and counted to the address. With a limit they notice
// nothing. Other protocols are not concerned.
func TestOneHostTakesEveryPort(t *testing.T) {
	flood := from{src: client2, dst: server, dport: 53}.udp(t)
	flood[40], flood[41] = 0, 0 // without a checksum
	limits := []int{0, 1000}
	if raceDetector {
		limits = limits[1:] // one goroutine: there is no race to find
	}
	for _, limit := range limits {
		r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = 1 << 17 })
		r.table.SetSourceLimit(limit)
		flow := func(sport uint16) (there, back from) {
			return from{src: client, dst: server, sport: sport, dport: 53}, from{src: server, dst: external, sport: 53, dport: sport}
		}
		there, back := flow(2000)
		r.send(insidePort, there.udp(t))
		r.one(outsidePort)
		r.send(outsidePort, back.udp(t))
		r.one(insidePort)
		for port := 1; port < 1<<16; port += Burst {
			var burst [][]byte
			for i := port; i < min(port+Burst, 1<<16); i++ {
				frame := bytes.Clone(flood)
				binary.BigEndian.PutUint16(frame[34:], uint16(i))
				burst = append(burst, frame)
			}
			r.send(insidePort, burst...)
			r.ports[insidePort].sent()
			r.ports[outsidePort].sent()
		}
		use := r.ext.Use(packet.ProtoUDP)
		if limit == 0 && (use.Refused == 0 || use.Mapped != 1<<16-1024) || limit > 0 && (use.Mapped != limit+1 || r.drops(verdict.SourceLimit) == 0) {
			t.Errorf("limit %d: use %+v, drops %v", limit, use, r.allDrops())
		}
		r.send(insidePort, there.udp(t))
		r.one(outsidePort)
		r.send(outsidePort, back.udp(t))
		r.one(insidePort)
		r.send(insidePort, from{src: client, dst: server, sport: 2001, dport: 53}.udp(t))
		if n := len(r.forwarded(outsidePort)); limit == 0 && (n != 0 || r.drops(verdict.PortsExhausted) == 0) || limit > 0 && n != 1 {
			t.Errorf("limit %d: %d new flows of another host; drops %v", limit, n, r.allDrops())
		}
		r.ports[insidePort].sent()
		// Its UDP is exhausted, and nothing else.
		r.send(insidePort, from{src: client, dst: server, sport: 40000, dport: 443}.tcp(t, packet.TCPSyn))
		r.one(outsidePort)
		if err := r.table.Verify(); err != nil {
			t.Error(err)
		}
	}
}
