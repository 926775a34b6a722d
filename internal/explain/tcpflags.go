package explain

import (
	"sluice/internal/control"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// tellFlags is about the flags of a TCP segment, where the question has any.
func (a *account) tellFlags(q control.Question) {
	if q.Flags == "" {
		return
	}
	a.syn = a.p.TCPFlags&(packet.TCPSyn|packet.TCPAck) == packet.TCPSyn
	words := tcpFlags(a.p.TCPFlags)
	if words == "" {
		words = "no flags"
	}
	a.decide(stageParse, 0, "TCP: %s", words)
	if a.Assumed && !a.syn {
		a.e.Assumptions = append(a.e.Assumptions, "the segment belongs to no flow")
	}
}

// tellPickUp is about a segment that opens no connection and belongs to no flow.
func (a *account) tellPickUp() {
	line := a.Config.Line("masquerade.tcp-pickup")
	switch {
	case a.outcome.Decision.Reason != verdict.TCPWithoutFlow:
		if a.outcome.Decision.Maps && a.p.Proto == packet.ProtoTCP && a.p.TCPFlags&packet.TCPSyn == 0 {
			a.decide(stageTranslate, line, "a segment of a connection from before: adopted (masquerade.tcp-pickup: outbound)")
		}
	case a.p.TCPFlags&packet.TCPRst != 0:
		a.decide(stageTranslate, 0, "a reset ends a connection, and begins none")
	case a.p.TCPFlags&packet.TCPSyn != 0:
		a.decide(stageTranslate, 0, "it answers a SYN that never passed here")
	case a.Snapshot.PickUp:
		a.decide(stageTranslate, line, "a connection from before is adopted by segments from inside alone (masquerade.tcp-pickup: outbound)")
	default:
		a.decide(stageTranslate, line, "a segment of no connection that is known (masquerade.tcp-pickup: off)")
	}
}
