package agent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A client that speaks to a service and, from the same port, to the service's
// backend itself.
const (
	backendAddress = "10.0.0.2"
	named, direct  = 1000, 700000 // the first sequence numbers of the two connections
)

var (
	client    = netip.MustParseAddr("10.0.0.1")
	backend   = netip.MustParseAddr(backendAddress)
	toService = option(vipAddress, vipPort)
)

// segment is one from the client.
func segment(t testing.TB, seq uint32, flags string, options ...layers.IPv4Option) []byte {
	tcp := &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: seq, Window: 65535}
	setFlags(tcp, flags)
	return packetOf(t, ipv4(client.String(), backendAddress, layers.IPProtocolTCP, options...), tcp)
}

// answer is a segment from the server.
func answer(t testing.TB, ack uint32, flags string) []byte {
	tcp := &layers.TCP{SrcPort: 80, DstPort: 4000, Ack: ack, Window: 65535}
	setFlags(tcp, flags)
	return packetOf(t, ipv4(backendAddress, client.String(), layers.IPProtocolTCP), tcp)
}

func setFlags(tcp *layers.TCP, flags string) {
	for _, f := range flags {
		switch f {
		case 'S':
			tcp.SYN = true
		case 'A':
			tcp.ACK = true
		case 'F':
			tcp.FIN = true
		case 'R':
			tcp.RST = true
		}
	}
}

// question and response are datagrams of the two.
func question(t testing.TB, options ...layers.IPv4Option) []byte {
	return packetOf(t, ipv4(client.String(), backendAddress, layers.IPProtocolUDP, options...), &layers.UDP{SrcPort: 4000, DstPort: 80}, gopacket.Payload("?"))
}

func response(t testing.TB) []byte {
	return packetOf(t, ipv4(backendAddress, client.String(), layers.IPProtocolUDP), &layers.UDP{SrcPort: 80, DstPort: 4000}, gopacket.Payload("!"))
}

// established is a connection to the service.
func established(t *testing.T) *bed {
	b := newBed(t, anyService)
	b.delivered(next, segment(t, named, "S", toService))
	b.leaves(vipAddress, answer(t, named+1, "SA"))
	b.delivered(next, segment(t, named+1, "A"))
	return b
}

// TestDirectSYN: a SYN to the backend itself on the tuple of a connection is the
// server's to decide about. Only what answers it leaves with the backend's address.
func TestDirectSYN(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []byte
		source string
		over   bool
	}{
		{"the server stands by its connection", answer(t, named+1, "A"), vipAddress, false},
		{"and sends data", answer(t, named+500, "A"), vipAddress, false},
		{"and repeats its answer to the first SYN", answer(t, named+1, "SA"), vipAddress, false},
		{"and closes", answer(t, named+1, "FA"), vipAddress, false},
		{"and resets it", answer(t, named+1, "RA"), vipAddress, false},
		{"a reset without acknowledgement", answer(t, direct+1, "R"), vipAddress, false},
		{"the server takes the new one", answer(t, direct+1, "SA"), backendAddress, true},
		{"with data in the SYN", answer(t, direct+1+1400, "SA"), backendAddress, true},
		{"the server refuses the new one", answer(t, direct+1, "RA"), backendAddress, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := established(t)
			b.counts("direct-syn", 0)
			b.delivered(next, segment(t, direct, "S"))
			b.counts("direct-syn", 1)
			b.counts("request", 2)
			b.leaves(c.source, c.answer)
			if over := b.flow(6) == nil; over != c.over {
				t.Errorf("the flow is over: %v", over)
			}
			if c.over {
				b.delivered(next, segment(t, direct+1, "A"))
				b.leaves(backendAddress, answer(t, direct+1, "A"))
			}
		})
	}
}

// TestDirectSYNWithoutOne: no answer is the other connection's where no such SYN came.
func TestDirectSYNWithoutOne(t *testing.T) {
	b := established(t)
	b.leaves(vipAddress, answer(t, direct+1, "SA"))
	b.leaves(vipAddress, answer(t, 1, "RA")) // the flow's member is 0 then
}

// TestDirectDatagram: a datagram to the backend itself on the tuple of a flow is
// dropped, since the answer would leave with the service's address. A flow that
// rests gives way.
func TestDirectDatagram(t *testing.T) {
	for name, datagram := range map[string][]byte{
		"without option":             question(t),
		"with one that is not heard": question(t, option("192.0.2.1", 9)),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 0)
			b.serve(Service{Prefix: netip.MustParsePrefix(vipAddress + "/32")})
			b.delivered(next, datagram)
			b.leaves(backendAddress, response(t)) // without a flow it is nobody's business

			b.delivered(next, question(t, toService))
			b.leaves(vipAddress, response(t))
			b.delivered(shot, datagram)
			b.counts("direct-datagram", 1)
			b.counts("request", 1)
			b.leaves(vipAddress, response(t))

			b.rests(17)
			b.delivered(next, datagram)
			if b.flow(17) != nil {
				t.Error("the flow did not give way")
			}
			b.leaves(backendAddress, response(t))
			b.counts("direct-datagram", 1)
		})
	}
}

// TestOwnOption: an option that a server of this node or a pod sends is counted, and
// changes nothing.
func TestOwnOption(t *testing.T) {
	b := newBed(t, anyService)
	frame := packetOf(t, ipv4(backendAddress, "10.0.0.77", layers.IPProtocolUDP, toService), &layers.UDP{SrcPort: 80, DstPort: 4000}, gopacket.Payload("?"))
	b.leaves(backendAddress, frame)
	b.counts("own-side", 1)
	// One that arrived as a request was judged there; it keeps the option where
	// strip-option is off. BPF_PROG_RUN has packets arrive on no interface.
	if err := b.o.Arrivals.Put(uint32(0), uint8(1)); err != nil {
		t.Fatal(err)
	}
	b.leaves(backendAddress, frame)
	b.counts("own-side", 1)
	b.counts("learned", 0)
}

// fragmented is a piece of a datagram or segment, at an offset in units of 8 bytes.
func fragmented(t testing.TB, src, dst string, protocol layers.IPProtocol, id, at uint16, more bool) []byte {
	ip := ipv4(src, dst, protocol)
	ip.Id, ip.FragOffset = id, at
	if more {
		ip.Flags = layers.IPv4MoreFragments
	}
	if at > 0 {
		return packetOf(t, ip, gopacket.Payload(make([]byte, 64)))
	}
	return packetOf(t, ip, &layers.UDP{SrcPort: 80, DstPort: 4000}, gopacket.Payload(make([]byte, 56)))
}

// TestReplyFragments: a later fragment from a backend leaves only when its first one
// said whether it is a reply; of others no fragment is the agent's affair.
func TestReplyFragments(t *testing.T) {
	udp, icmp := layers.IPProtocolUDP, layers.IPProtocolICMPv4
	b := newBed(t, anyService)
	later := func(id uint16) []byte { return fragmented(t, backendAddress, client.String(), udp, id, 8, false) }
	b.leaves(backendAddress, later(1)) // no flow, no backend

	b.delivered(next, question(t, toService))
	if v, _, _ := b.run(b.o.Reply, later(2)); v != shot {
		t.Errorf("a fragment that may be a reply: verdict %d", v)
	}
	b.counts("reply-fragment-unknown", 1)
	b.leaves(vipAddress, fragmented(t, backendAddress, client.String(), udp, 2, 0, true))
	b.leaves(vipAddress, later(2))
	if v, _, _ := b.run(b.o.Reply, later(3)); v != shot {
		t.Errorf("of another datagram: verdict %d", v)
	}

	const stranger = "10.0.0.9" // a client of the backend itself
	b.leaves(backendAddress, fragmented(t, backendAddress, stranger, udp, 2, 0, true))
	b.leaves(backendAddress, fragmented(t, backendAddress, stranger, udp, 2, 8, false))
	b.leaves(backendAddress, fragmented(t, backendAddress, client.String(), icmp, 5, 8, false))
	b.leaves(stranger, fragmented(t, stranger, client.String(), udp, 7, 8, false))
	b.counts("reply-fragment-unknown", 2)

	// A first fragment too short for a TCP header does not say it.
	short := ipv4(backendAddress, client.String(), layers.IPProtocolTCP)
	short.Flags = layers.IPv4MoreFragments
	if v, _, _ := b.run(b.o.Reply, packetOf(t, short, gopacket.Payload(make([]byte, 8)))[:14+20+8]); v != shot { // without Ethernet's padding
		t.Errorf("a first fragment without flags: verdict %d", v)
	}
	b.counts("reply-fragment-unknown", 3)
}

// TestBackendsSweep: a backend is remembered while it has flows and for a while
// after, and is learned anew from flows that another version left.
func TestBackendsSweep(t *testing.T) {
	b := newBed(t, anyService)
	a := &Agent{objects: *b.o, config: Config{Timeouts: Timeouts{Unreplied: time.Minute}}}
	remembered := func() bool {
		t.Helper()
		if _, err := a.expire(); err != nil {
			t.Fatal(err)
		}
		var began uint64
		return b.o.Backends.Lookup(networkOrder32(backend), &began) == nil
	}
	put := func(began uint64) {
		t.Helper()
		if err := b.o.Backends.Put(networkOrder32(backend), began); err != nil {
			t.Fatal(err)
		}
	}
	old := now() - uint64(2*rest)
	put(old)
	if remembered() {
		t.Error("remembered without flows")
	}
	b.delivered(next, question(t, toService))
	put(old)
	if !remembered() {
		t.Error("forgotten with a flow")
	}
	if err := b.o.Backends.Delete(networkOrder32(backend)); err != nil {
		t.Fatal(err)
	}
	if !remembered() {
		t.Error("not learned from a flow")
	}
	k := keyOf(17, netip.AddrPortFrom(client, 4000), netip.AddrPortFrom(backend, 80))
	if err := b.o.Flows.Delete(&k); err != nil {
		t.Fatal(err)
	}
	if !remembered() {
		t.Error("forgotten at once")
	}
}
