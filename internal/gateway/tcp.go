package gateway

import (
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/nat"
)

// MSSAuto is the value of Snapshot.MSS that stands for the path's MTU.
const MSSAuto = 0xffff

// ipTCPOverhead is what the headers without options take (RFC 6691 2: options are
// the sender's to subtract).
const ipTCPOverhead = packet.IPv4MinLength + packet.TCPMinLength

// opens reports whether a TCP segment from inside with flags can begin a
// masqueraded flow: a SYN, or with tcp-pickup: outbound any segment of a running
// connection. Others begin nothing (RFC 5382 REQ-5): a SYN+ACK answers what never
// passed here, and a RST ends what is not there.
func (s *Snapshot) opens(flags uint8) bool {
	switch flags & (packet.TCPSyn | packet.TCPAck | packet.TCPRst) {
	case packet.TCPSyn:
		return true
	case packet.TCPAck:
		return s.PickUp
	}
	return false
}

// clamp lowers the maximum segment size in a SYN, which arrived as p and is about to
// leave by hop, to what fits both ways: what its receiver will send comes back to
// p's source by another MTU than its own. It is for path-MTU discovery that fails
// elsewhere (RFC 2923 2.1).
func (w *Worker) clamp(frame []byte, p *packet.Packet, hop *fib.Hop) {
	limit := w.snapshot.MSS
	switch limit {
	case 0:
		return
	case MSSAuto:
		mtu := hop.MTU
		_, back := w.snapshot.Routes.Lookup(p.Src, 0, fib.NoPort, pathHash(p.Src))
		if back.Type == fib.Forward {
			mtu = min(mtu, back.MTU)
		}
		if mtu <= ipTCPOverhead {
			return
		}
		limit = mtu - ipTCPOverhead
	}
	if nat.ClampMSS(frame, p, limit) {
		w.counters.Clamped++
	}
}
