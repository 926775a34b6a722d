package daemon

import (
	"strings"
	"testing"

	"sluice/internal/packet"
	"sluice/nat"
)

// A forwarded port that a socket of the host has, too, is reported with the line of
// its entry; one report for each address and protocol.
func TestShadowedForwards(t *testing.T) {
	const external = 0xc0000202
	p := &publisher{static: nat.NewStatic([]nat.PortForward{
		{External: external, Inside: 0x0a141e0b, Proto: packet.ProtoTCP, First: 7000, Last: 7010, To: 7000, Out: nat.AnyOut, Line: 8},
	})}
	var host [1 << 16 / 64]uint64
	if list := p.shadowed(external, packet.ProtoTCP, &host); list != nil {
		t.Errorf("no socket: %v", list)
	}
	host[7003/64] |= 1 << (7003 % 64)
	const one = "tcp 7003 of 192.0.2.2 is forwarded (port-forwards, line 8), and a socket of the host has it as well, which gets the packets"
	if list := p.shadowed(external, packet.ProtoTCP, &host); len(list) != 1 || list[0].What != one {
		t.Errorf("one socket: %v", list)
	}
	host[7010/64] |= 1 << (7010 % 64)
	host[80/64] |= 1 << (80 % 64)
	if list := p.shadowed(external, packet.ProtoTCP, &host); len(list) != 1 || !strings.HasSuffix(list[0].What, one+"; so it is with 1 more") {
		t.Errorf("two sockets: %v", list)
	}
	if list := p.shadowed(external, packet.ProtoUDP, &host); list != nil {
		t.Errorf("another protocol: %v", list)
	}
}
