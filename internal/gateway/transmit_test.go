package gateway

import (
	"testing"

	"sluice/internal/verdict"
)

// TestPortDown: what a port does not take since it knows already that its link
// is down is not blamed on a full ring, although the routes do not know yet.
func TestPortDown(t *testing.T) {
	r := newRig(t)
	r.ports[outsidePort].room, r.ports[outsidePort].down = 0, true
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f, f)
	if r.drops(verdict.InterfaceDown) != 2 || r.drops(verdict.TransmitRingFull) != 0 {
		t.Errorf("%d dropped as interface-down, %d as transmit-ring-full", r.drops(verdict.InterfaceDown), r.drops(verdict.TransmitRingFull))
	}
}

// TestTransmitFailed: frames that a port took and could not send are drops, not
// packets out, each once.
func TestTransmitFailed(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f, f, f)
	r.ports[outsidePort].wasted = 2
	r.step()
	r.step()
	r.worker.Idle(r.now, 1) // publishes
	if n, out := r.drops(verdict.TransmitFailed), r.worker.Counters().Ports[outsidePort].TxPackets; n != 2 || out != 1 {
		t.Errorf("%d dropped as transmit-failed, %d packets out; want 2 and 1", n, out)
	}
}
