package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// errorBothWays gives the rig a flow of each kind, and returns an ICMP error about
// it from outside and one from inside, with the ports that they arrive on.
func errorBothWays(t *testing.T, r *rig, proto uint8, length int) map[string]struct {
	in    fib.PortID
	frame []byte
} {
	t.Helper()
	out := from{src: client, dst: server, sport: 5000, dport: 80, payload: big(300)}
	back := from{src: server, dst: external, sport: 80, dport: 5000, payload: big(300)}
	var sent, answer []byte
	switch proto {
	case packet.ProtoTCP:
		r.send(insidePort, out.tcp(t, packet.TCPSyn))
		r.send(outsidePort, back.tcp(t, packet.TCPSyn|packet.TCPAck))
		sent, answer = out.tcp(t, packet.TCPAck), back.tcp(t, packet.TCPAck)
	case packet.ProtoICMP:
		sent, answer = out.echo(t, packet.ICMPEchoRequest, 5000), back.echo(t, packet.ICMPEchoReply, 5000)
	case packet.ProtoUDP:
		sent, answer = out.udp(t), back.udp(t)
	default:
		sent, answer = out.raw(t, proto, big(300)), back.raw(t, proto, big(300))
	}
	r.ports[0].sent()
	r.ports[1].sent()
	r.send(insidePort, sent)
	left := r.one(outsidePort)
	r.send(outsidePort, answer)
	arrived := r.one(insidePort)
	return map[string]struct {
		in    fib.PortID
		frame []byte
	}{
		"from outside": {outsidePort, from{src: router, dst: external}.quote(t, 3, 1, left.raw, length)},
		// By a router on the way to the inside host.
		"from inside": {insidePort, from{src: client2, dst: server}.quote(t, 11, 1, arrived.raw, length)},
	}
}

// TestFragmentedError: an ICMP error that arrives in fragments, in any order,
// becomes what the whole one becomes, byte for byte; all four checksums are right.
// A quoted TCP checksum that is not in the first fragment stays as it is.
func TestFragmentedError(t *testing.T) {
	for _, proto := range []uint8{packet.ProtoUDP, packet.ProtoTCP, packet.ProtoICMP, packet.ProtoGRE} {
		for _, size := range []int{40, 48, 160} {
			for _, way := range []string{"from outside", "from inside"} {
				for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}} {
					t.Run(fmt.Sprintf("protocol %d/%s/%d/%v", proto, way, size, order), func(t *testing.T) {
						r := newRig(t)
						e := errorBothWays(t, r, proto, 328)[way]
						r.send(e.in, e.frame)
						whole := r.one(1 - e.in).raw[packet.EthernetLength:]
						train := pieces(e.frame, 77, size)
						joined := newReassembler(t)
						for _, i := range append(order, seq(3, len(train))...) {
							if i < len(train) {
								r.send(e.in, train[i])
							}
						}
						for _, frame := range r.ports[1-e.in].sent() {
							joined.take(frame)
						}
						if len(joined.whole) != 1 {
							t.Fatalf("%d datagrams left; drops %v", len(joined.whole), r.allDrops())
						}
						sameError(t, joined.whole[0], bytes.Clone(whole), proto == packet.ProtoTCP && size < 48)
					})
				}
			}
		}
	}
}

func seq(from, to int) (list []int) {
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

// sameError compares ICMP errors from the IPv4 header on. The identification is any.
// tcpSum says that a quoted TCP checksum may differ, and with it the message's.
func sameError(t *testing.T, got, want []byte, tcpSum bool) {
	t.Helper()
	if packet.Fold(packet.Sum(got[packet.IPv4MinLength:], 0)) != 0xffff {
		t.Error("the message's checksum is wrong")
	}
	// The header is the first fragment's: its length, flags and checksum are its own.
	copy(got[2:8], want[2:8])
	copy(got[10:12], want[10:12])
	if tcpSum {
		const message, quoted = packet.IPv4MinLength + 2, packet.IPv4MinLength + packet.ICMPLength + packet.IPv4MinLength + 16
		for _, at := range []int{message, quoted} {
			copy(got[at:at+2], want[at:at+2])
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("became\n%x, whole\n%x", got, want)
	}
}

// TestFragmentedErrorStaysWrong: whether the checksum is right, no fragment can
// tell: a wrong one leaves as wrong as it came (RFC 5508 REQ-3 has whole ones
// dropped), and the receiver drops it.
func TestFragmentedErrorStaysWrong(t *testing.T) {
	r := newRig(t)
	e := errorBothWays(t, r, packet.ProtoUDP, 328)["from outside"]
	const message = packet.EthernetLength + packet.IPv4MinLength
	e.frame[message+2] ^= 0x55
	wrong := packet.Fold(packet.Sum(e.frame[message:], 0))
	joined := newReassembler(t)
	for _, f := range pieces(e.frame, 77, 48) {
		r.send(e.in, f)
	}
	for _, frame := range r.ports[insidePort].sent() {
		joined.take(frame)
	}
	if len(joined.whole) != 1 {
		t.Fatalf("%d datagrams left; drops %v", len(joined.whole), r.allDrops())
	}
	if sum := packet.Fold(packet.Sum(joined.whole[0][packet.IPv4MinLength:], 0)); sum == 0xffff || sum != wrong {
		t.Errorf("arrived with the sum %04x, left with %04x", wrong, sum)
	}
}

// TestFragmentedErrorRefused: what refuses a whole error refuses one in fragments,
// and all of them.
func TestFragmentedErrorRefused(t *testing.T) {
	type make func(t *testing.T, r *rig) (fib.PortID, []byte)
	outside := func(change func(frame []byte)) make {
		return func(t *testing.T, r *rig) (fib.PortID, []byte) {
			e := errorBothWays(t, r, packet.ProtoTCP, 328)["from outside"]
			change(e.frame)
			return e.in, e.frame
		}
	}
	const message = packet.EthernetLength + packet.IPv4MinLength
	const quote = message + packet.ICMPLength
	for name, c := range map[string]struct {
		make make
		size int
		want verdict.Reason
	}{
		"no flow": {func(t *testing.T, r *rig) (fib.PortID, []byte) {
			return outsidePort, from{src: router, dst: external}.quote(t, 3, 3, from{src: external, dst: server, sport: 9, dport: 9, payload: big(200)}.udp(t), 200)
		}, 48, verdict.ICMPErrorWithoutFlow},
		"a number that was never sent": {outside(func(f []byte) { binary.BigEndian.PutUint32(f[quote+20+4:], 1<<30) }), 48, verdict.ICMPErrorImplausible},
		"no room for the ports":        {outside(func([]byte) {}), 24, verdict.ICMPErrorMalformed},
		"a redirect's like":            {outside(func(f []byte) { f[message+1] = 99 }), 48, verdict.ICMPUnsupported},
		"a broken quote":               {outside(func(f []byte) { f[quote+10] ^= 1 }), 48, verdict.ICMPErrorMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reversed := range []bool{false, true} {
				r := newRig(t)
				in, frame := c.make(t, r)
				train := pieces(frame, 77, c.size)
				if reversed {
					train[0], train[len(train)-1] = train[len(train)-1], train[0]
				}
				before := r.worker.counters.Drops
				for _, f := range train {
					r.send(in, f)
				}
				if out := r.ports[1-in].sent(); len(out) != 0 {
					t.Errorf("reversed %v: %d fragments left", reversed, len(out))
				}
				if n := r.worker.counters.Drops[c.want] - before[c.want]; n != uint64(len(train)) {
					t.Errorf("reversed %v: %d of %d are dropped as %v: %v", reversed, n, len(train), c.want, r.allDrops())
				}
			}
		})
	}
}

// TestFragmentedErrorChangesItsMind: the first fragment comes again and quotes
// another flow: the datagram is over.
func TestFragmentedErrorChangesItsMind(t *testing.T) {
	r := newRig(t)
	e := errorBothWays(t, r, packet.ProtoUDP, 328)["from outside"]
	other := from{src: client2, dst: server, sport: 6000, dport: 80, payload: big(300)}
	r.send(insidePort, other.udp(t))
	left := r.one(outsidePort)
	second := from{src: router, dst: external}.quote(t, 3, 1, left.raw, 328)
	train, forged := pieces(e.frame, 77, 48), pieces(second, 77, 48)
	r.send(outsidePort, train[0], forged[0], train[1])
	for _, frame := range r.ports[insidePort].sent() {
		if dst := address(frame[packet.EthernetLength+16:]); dst != client {
			t.Errorf("a fragment went to %v", fib.Addr(dst))
		}
	}
	if r.drops(verdict.FragmentOverlap) == 0 {
		t.Errorf("drops %v", r.allDrops())
	}
}

// TestFragmentedErrorForward: between addresses that stay each fragment goes by
// itself, if the first one is about a flow whose addresses stay as well.
func TestFragmentedErrorForward(t *testing.T) {
	r := newRig(t)
	sent := from{src: client, dst: excluded, sport: 9, dport: 9, payload: big(300)}.udp(t)
	r.send(insidePort, sent)
	r.one(outsidePort)
	whole := from{src: excluded, dst: client}.quote(t, 3, 3, sent, 328)
	joined := newReassembler(t)
	for _, f := range pieces(whole, 77, 48) {
		r.send(outsidePort, f)
	}
	for _, frame := range r.ports[insidePort].sent() {
		joined.take(frame)
	}
	if len(joined.whole) != 1 || !bytes.Equal(joined.whole[0][packet.IPv4MinLength:], whole[packet.EthernetLength+packet.IPv4MinLength:]) {
		t.Errorf("%d datagrams left, or others; drops %v", len(joined.whole), r.allDrops())
	}
}
