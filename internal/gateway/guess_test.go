package gateway

import (
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestErrorConfirmsNoGuess: whoever guesses the inside address that a service's
// packets to its backends leave with is not told that nothing is there.
func TestErrorConfirmsNoGuess(t *testing.T) {
	r := everythingPair(t)[0]
	for range announceTimes { // what the start announces
		r.now += announceEvery
		r.step()
	}
	r.ports[insidePort].sent()
	inside := r.pointer.Load().Balance.Sources[insidePort]
	r.send(outsidePort, from{src: server, dst: vip, sport: 5000, dport: servedPort}.tcp(t, packet.TCPSyn))
	if v := r.one(insidePort); v.packet.Src != inside.Address() || v.packet.SrcPort != 5000 {
		t.Fatalf("balanced as %+v", v.packet)
	}
	for i := range uint16(3) {
		r.send(outsidePort, from{src: server, dst: inside.Address(), sport: 443 + i, dport: 5000}.tcp(t, packet.TCPSyn))
		r.now += 7 * conntrack.TicksPerSecond // by when an unsolicited SYN is answered
		r.step()
		for _, frame := range r.ports[outsidePort].sent() {
			if ownError(frame) {
				t.Fatalf("told: %x", frame)
			}
		}
	}
}

// TestFragmentedErrorIsNotRouted: an error passes with the flow that it is about, in
// fragments too, also between addresses that stay; and where those of the error stay
// and those of its flow do not, not at all.
func TestFragmentedErrorIsNotRouted(t *testing.T) {
	r := newRig(t)
	about := from{src: excluded, dst: client, sport: 9, dport: 9, payload: "quoted"}.udp(t)
	r.send(insidePort, markMore(from{src: client, dst: excluded}.quote(t, 3, 3, about, 32)))
	r.none(verdict.ICMPErrorWithoutFlow)
	r.send(insidePort, from{src: client, dst: server, sport: 5000, dport: 6}.udp(t))
	r.one(outsidePort)
	r.send(outsidePort, from{src: server, dst: external, sport: 6, dport: 5000, payload: "quoted"}.udp(t))
	answer := r.one(insidePort)
	r.send(insidePort, markMore(from{src: ip("172.31.0.9"), dst: server}.quote(t, 3, 3, about, 32)))
	r.none(verdict.ICMPErrorWithoutFlow)
	r.send(insidePort, markMore(from{src: ip("172.31.0.9"), dst: server}.quote(t, 3, 3, answer.raw, 32)))
	r.none(verdict.FragmentUnsupported)
}
