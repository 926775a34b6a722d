package gateway

import (
	"encoding/binary"
	"sync/atomic"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// PathMTUs are what routers on the way to backends forward at most of packets in an
// outer header, which has the gateway as its source: nobody but the gateway is told
// (RFC 2003 5.1). All workers and snapshots share them. The zero value knows none.
type PathMTUs struct {
	any   atomic.Bool
	slots [1 << 8]atomic.Uint64 // address, MTU, minute in which it was learned
}

const (
	pathMTUMinutes = 10  // RFC 1191 6.3: then a larger packet is tried
	lowestPathMTU  = 552 // as net.ipv4.route.min_pmtu: who invents errors gets no further
	ticksPerMinute = 60 * conntrack.TicksPerSecond
)

func (m *PathMTUs) slot(addr uint32) *atomic.Uint64 {
	return &m.slots[addr*0x9e3779b1>>24]
}

// limit is the path's MTU to a backend, or mtu where that is lower or nothing is
// known.
func (m *PathMTUs) limit(addr uint32, mtu uint16, now conntrack.Tick) uint16 {
	if m == nil || !m.any.Load() {
		return mtu
	}
	v := m.slot(addr).Load()
	if uint32(v>>32) != addr || uint16(now/ticksPerMinute)-uint16(v) >= pathMTUMinutes {
		return mtu
	}
	return min(mtu, uint16(v>>16))
}

// learn notes the MTU that a router told for a backend.
func (m *PathMTUs) learn(addr uint32, mtu uint16, now conntrack.Tick) {
	v := uint64(addr)<<32 | uint64(max(mtu, lowestPathMTU))<<16 | uint64(uint16(now/ticksPerMinute))
	m.slot(addr).Store(v)
	m.any.Store(true)
}

// outerError takes an ICMP error about a packet that left for a backend in an outer
// header: what it says of the path's MTU is for the gateway, and the rest for the
// client, as far as the quote reaches into the packet inside. ours is false where it
// is no such error; then nothing has changed.
func (w *Worker) outerError(d xdp.Desc, frame []byte, p *packet.Packet, quoted conntrack.Tuple) (ours bool) {
	b := &w.snapshot.Balance
	if quoted.Src != p.Dst || !b.Dispatch.Wraps(quoted.Proto, quoted.DstPort) || !b.IsBackend(quoted.Dst) {
		return false
	}
	mtu, tells := tellsMTU(frame, p)
	tells = tells && b.Paths != nil
	at, ok := b.Dispatch.Inside(frame[p.L4:p.End][packet.ICMPLength:])
	switch {
	case ok:
		d, frame = w.unwrapError(d, p, at)
		if r := w.relayError(d, frame, p); r != verdict.None {
			w.drop(d, r)
			return true
		}
	case tells:
		w.counters.Services.PathMTUs++
		w.discard(d)
	default:
		return false
	}
	if tells {
		b.Paths.learn(quoted.Dst, mtu, w.now)
	}
	return true
}

// tellsMTU reads what an error says of the path's MTU, if it does. What did not fit
// is longer than what does; routers older than RFC 1191 say 0.
func tellsMTU(frame []byte, p *packet.Packet) (mtu uint16, tells bool) {
	m := frame[p.L4:p.End]
	mtu = binary.BigEndian.Uint16(m[6:])
	return mtu, p.ICMPType == packet.ICMPUnreachable && p.ICMPCode == fragmentationNeeded && mtu < binary.BigEndian.Uint16(m[packet.ICMPLength+2:])
}

// unwrapError takes outer headers, at bytes of them, out of what an ICMP error
// quotes, and RFC 4884's extensions, whose place behind the quote would change.
func (w *Worker) unwrapError(d xdp.Desc, p *packet.Packet, at int) (xdp.Desc, []byte) {
	frame := w.frame(d)
	head := int(p.L4) + packet.ICMPLength
	end := int(p.End)
	if words := int(frame[p.L4+5]); words > 0 && head+4*words < end {
		end = head + 4*words
	}
	copy(frame[at:], frame[:head])
	d.Addr += uint64(at)
	d.Len = uint32(end - at)
	frame = w.frame(d)
	header, message := frame[p.L3:p.L4], frame[p.L4:]
	binary.BigEndian.PutUint16(header[2:], uint16(len(frame)-int(p.L3)))
	binary.BigEndian.PutUint16(header[10:], 0)
	binary.BigEndian.PutUint16(header[10:], packet.Checksum(header))
	message[5] = 0
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint16(message[2:], packet.Checksum(message))
	return d, frame
}

// relayError sends an error whose outer headers are off to the client (RFC 2003 4).
func (w *Worker) relayError(d xdp.Desc, frame []byte, p *packet.Packet) verdict.Reason {
	if r := packet.Parse(frame, p); r != verdict.None {
		return r
	}
	if w.snapshot.Balance.Dispatch != dsr.IPIP {
		return w.translateError(d, frame, p)
	}
	// The packet inside goes to the service; the other dispatches quote it as it
	// goes to the backend.
	t, quoted, r := nat.QuotedTuple(frame, p)
	if r != verdict.None {
		return r
	}
	flow, dir := w.flows.Find(t, w.now)
	if flow == nil || dir != conntrack.Original || flow.Kind() != conntrack.ServiceDSR {
		return verdict.ICMPErrorWithoutFlow
	}
	nat.RewriteError(frame, p, &quoted, flow.Translated(dir), p.Src, p.Dst)
	return w.translateError(d, frame, p)
}
