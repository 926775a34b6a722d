package gateway

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// shake opens a connection from client:sport to server:443 and reports whether
// the SYN and its answers passed.
func (r *rig) shake(sport uint16) bool {
	c := from{src: client, dst: server, sport: sport, dport: 443}
	s := from{src: server, dst: external, sport: 443, dport: sport}
	r.send(insidePort, c.tcp(r.t, packet.TCPSyn))
	if len(r.forwarded(outsidePort)) != 1 {
		return false
	}
	r.send(outsidePort, s.tcp(r.t, packet.TCPSyn|packet.TCPAck))
	if len(r.forwarded(insidePort)) != 1 {
		return false
	}
	r.send(insidePort, c.tcp(r.t, packet.TCPAck))
	return len(r.forwarded(outsidePort)) == 1
}

// TestSYNFlood: a hundred thousand SYNs that nobody answers, through a table of
// four thousand flows. Connections that were answered before all go on, and new
// ones can be opened meanwhile.
func TestSYNFlood(t *testing.T) {
	const flows, established, floods = 4096, 1000, 100_000
	r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = flows })
	for i := range uint16(established) {
		if !r.shake(20000 + i) {
			t.Fatalf("connection %d of an empty table failed", i)
		}
	}
	tried, opened, again := 0, 0, 0
	var burst [][]byte
	for i := range floods {
		f := from{src: client2, dst: server + 1 + uint32(i/40000), sport: 1024 + uint16(i%40000), dport: 80}
		if burst = append(burst, f.tcp(t, packet.TCPSyn)); len(burst) < Burst {
			continue
		}
		r.send(insidePort, burst...)
		burst = burst[:0]
		for i := range r.ports {
			r.ports[i].sent()
		}
		if i/Burst%8 == 7 {
			tried++
			port := uint16(50000 + tried)
			if r.shake(port) {
				opened++
				continue
			}
			r.step() // every client tries again, after a while
			r.step()
			if r.shake(port) {
				again++
			}
		}
	}
	t.Logf("%d of %d connections opened at once during the flood, %d at the second SYN; %d flows yielded, %d SYNs refused",
		opened, tried, again, r.worker.counters.EarlyDrops, r.drops(verdict.FlowTableFull)+r.drops(verdict.MappingTableFull))
	if opened+again < tried*9/10 {
		t.Errorf("only %d of %d connections could be opened during the flood", opened+again, tried)
	}
	for i := range uint16(established) {
		r.send(outsidePort, from{src: server, dst: external, sport: 443, dport: 20000 + i}.tcp(t, packet.TCPAck))
	}
	if n := len(r.forwarded(insidePort)); n != established {
		t.Errorf("%d of %d established connections go on", n, established)
	}
	if r.worker.counters.EarlyDrops == 0 {
		t.Error("nothing yielded, so the table was never full")
	}
}

// TestFloodOfUnansweredDatagrams: UDP and echo likewise: what was answered stays.
func TestFloodOfUnansweredDatagrams(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = 512 })
	for i := range uint16(64) {
		r.send(insidePort, from{src: client, dst: server, sport: 5000 + i, dport: 53}.udp(t))
		r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 5000 + i}.udp(t))
		r.send(insidePort, from{src: client, dst: server}.echo(t, packet.ICMPEchoRequest, i))
		r.send(outsidePort, from{src: server, dst: external}.echo(t, packet.ICMPEchoReply, i))
	}
	for i := range uint16(20000) {
		f := from{src: client2, dst: stranger, sport: i, dport: 53}
		if i%2 == 0 {
			r.send(insidePort, f.udp(t))
		} else {
			r.send(insidePort, f.echo(t, packet.ICMPEchoRequest, i))
		}
		r.ports[outsidePort].sent()
	}
	r.ports[insidePort].sent()
	for i := range uint16(64) {
		r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 5000 + i}.udp(t))
		r.send(outsidePort, from{src: server, dst: external}.echo(t, packet.ICMPEchoReply, i))
	}
	if n := len(r.forwarded(insidePort)); n != 128 {
		t.Errorf("%d of 128 answered flows go on", n)
	}
	if r.worker.counters.EarlyDrops == 0 {
		t.Error("nothing yielded, so the table was never full")
	}
}
