package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// begun opens a flow from server to the service, and returns the packet as it
// left.
func (v *served) begun(t *testing.T, proto uint8) view {
	t.Helper()
	v.send(outsidePort, leg{proto: proto, from: from{src: server, dst: vip, sport: 40000, dport: servedPort}, flags: packet.TCPSyn}.frame(t))
	return v.one(insidePort)
}

// except is the state in which the backend at addr is as given, and the other
// serves.
func except(addr uint32, state dsr.State) (s [2]dsr.State) {
	for i := range backends {
		if backends[i] == addr {
			s[i] = state
		}
	}
	return s
}

// TestBackendsComeAndGo: what becomes of a flow whose backend changes.
func TestBackendsComeAndGo(t *testing.T) {
	syn := leg{proto: packet.ProtoTCP, from: from{src: server, dst: vip, sport: 40000, dport: servedPort}, flags: packet.TCPSyn}
	ack, udp := syn, syn
	ack.flags, udp.proto = packet.TCPAck, packet.ProtoUDP
	for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
		for _, c := range []struct {
			name  string
			state dsr.State
			drop  bool
			next  leg
			moves bool
			reset bool
			drops verdict.Reason
		}{
			{"draining keeps a connection", dsr.Draining, false, ack, false, false, verdict.None},
			{"draining keeps one that is opening", dsr.Draining, false, syn, false, false, verdict.None},
			{"draining keeps datagrams", dsr.Draining, false, udp, false, false, verdict.None},
			{"dead: datagrams move at once", dsr.Dead, false, udp, true, false, verdict.None},
			{"dead: a SYN moves", dsr.Dead, false, syn, true, false, verdict.None},
			{"dead: a connection is reset", dsr.Dead, false, ack, false, true, verdict.BackendGone},
			{"dead: a connection is dropped", dsr.Dead, true, ack, false, false, verdict.BackendGone},
		} {
			t.Run(fmt.Sprintf("mode %v/%s", mode, c.name), func(t *testing.T) {
				v := newServed(t, serviceSpec{mode: mode, backends: backends[:], drop: c.drop})
				first := v.begun(t, c.next.proto)
				was := first.packet.Dst
				v.change(func(s *serviceSpec) { s.state = except(was, c.state) })
				v.send(outsidePort, c.next.frame(t))
				if c.drops != verdict.None {
					if v.drops(c.drops) != 1 {
						t.Fatalf("drops %v", v.allDrops())
					}
					sent := v.ports[outsidePort].sent()
					if reset := len(sent) == 1 && decode(t, sent[0]).tcp.RST; reset != c.reset {
						t.Fatalf("reset %v, want %v", reset, c.reset)
					}
					if !c.reset { // a new connection goes elsewhere
						v.send(outsidePort, syn.frame(t))
						if got := v.one(insidePort); got.packet.Dst == was {
							t.Fatalf("the SYN left as %s", endpoints(got))
						}
					}
					return
				}
				got := v.one(insidePort)
				if moved := got.packet.Dst != was; moved != c.moves {
					t.Fatalf("left as %s, after %s", endpoints(got), endpoints(first))
				}
				if option := len(got.ip.Options) > 0; mode == dsr.DSR && c.moves && !option {
					t.Fatal("the new backend was not told of the service")
				}
			})
		}
	}
}

// TestDrainedReuse: a new connection between end points whose last one is over does
// not go to a backend that drains.
func TestDrainedReuse(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:]})
	first := v.begun(t, packet.ProtoTCP)
	was := first.packet.Dst
	v.change(func(s *serviceSpec) { s.state = except(was, dsr.Draining) })
	c := from{src: server, dst: vip, sport: 40000, dport: servedPort}
	v.send(outsidePort, c.tcp(t, packet.TCPRst))
	v.one(insidePort)
	v.send(outsidePort, c.tcp(t, packet.TCPSyn))
	if got := v.one(insidePort); got.packet.Dst == was {
		t.Errorf("the new connection left as %s", endpoints(got))
	}
}

// TestServiceRemoved: a flow of a service that is configured no more ends.
func TestServiceRemoved(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:]})
	v.begun(t, packet.ProtoUDP)
	v.change(func(s *serviceSpec) { s.removed = true })
	v.send(outsidePort, from{src: server, dst: vip, sport: 40000, dport: servedPort}.udp(t))
	v.none(verdict.ServiceRemoved)
	if n := v.table.Count().Flows; n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

// TestSharedBackend: a client that uses one port towards two services with the same
// backend has two flows, in either mode, and each gets its own answers.
func TestSharedBackend(t *testing.T) {
	for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			one := []uint32{backends[0], backends[0]}
			v := newServed(t, serviceSpec{mode: mode, backends: one[:1]})
			for i, to := range []uint32{vip, vip2} {
				v.send(outsidePort, from{src: server, dst: to, sport: 40000, dport: servedPort}.tcp(t, packet.TCPSyn))
				got := v.one(insidePort)
				if mode == dsr.DSR && i == 0 {
					continue // answered past the gateway
				}
				s, d := ports(got)
				v.send(insidePort, from{src: backends[0], dst: got.packet.Src, sport: d, dport: s}.tcp(t, packet.TCPSyn|packet.TCPAck))
				if a := v.one(outsidePort); a.packet.Src != to || a.packet.Dst != server {
					t.Errorf("the answer of service %d left as %s", i, endpoints(a))
				}
			}
			if n := v.worker.counters.Services.Returns[ReturnTaken]; n != uint64(mode) {
				t.Errorf("%d flows had their tuple taken", n)
			}
		})
	}
}

// TestServiceMTU: what does not fit with what is added to it is refused with the
// size that fits, by the service's address, where DF is set, and divided where it
// is not.
func TestServiceMTU(t *testing.T) {
	for _, c := range []struct {
		name string
		mode dsr.Mode
		size int // of the IPv4 packet
		df   bool
		mtu  int // told; 0: it left
	}{
		{"dsr fits", dsr.DSR, 1492, true, 0},
		{"dsr does not fit", dsr.DSR, 1493, true, 1492},
		{"dsr is divided", dsr.DSR, 1493, false, 0},
		{"snat fits", dsr.SNAT, 1500, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newServed(t, serviceSpec{mode: c.mode, backends: backends[:]})
			f := from{src: server, dst: vip, sport: 40000, dport: servedPort, df: c.df, payload: string(bytes.Repeat([]byte{7}, c.size-28))}
			v.send(outsidePort, f.udp(t))
			if c.mtu == 0 {
				sent, total := v.ports[insidePort].sent(), 0
				for _, frame := range sent {
					p := decode(t, frame)
					total += int(p.packet.End - p.packet.L4)
					if p.packet.Length() > 1500 || c.mode == dsr.DSR && !bytes.Equal(frame[34:42], cilium) {
						t.Errorf("a piece of %d bytes with options %x", p.packet.Length(), p.ip.Options)
					}
				}
				if total != c.size-20 {
					t.Errorf("%d bytes left in %d pieces", total, len(sent))
				}
				return
			}
			e := v.one(outsidePort)
			if e.icmp == nil || e.icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || int(binary.BigEndian.Uint16(e.raw[e.packet.L4+6:])) != c.mtu {
				t.Fatalf("%x", e.raw)
			}
			if q := e.icmp.Payload; e.packet.Src != vip || !bytes.Equal(q[16:20], []byte{172, 18, 0, 2}) || len(q) < 28 {
				t.Errorf("from %v, about %x", e.ip.SrcIP, q[:28])
			}
		})
	}
}

// TestServiceICMPErrors: an error about either direction reaches the end whose
// packet it is about, quoting that as its sender knows it.
func TestServiceICMPErrors(t *testing.T) {
	for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			v := newServed(t, serviceSpec{mode: mode, backends: backends[:]})
			got := v.begun(t, packet.ProtoUDP)
			backend := got.packet.Dst
			// A router's, about what the client got: it arrives at the service.
			answer := from{src: vip, dst: server, sport: servedPort, dport: 40000, payload: "an answer that was too long"}.udp(t)
			v.send(outsidePort, from{src: ip("198.51.100.1"), dst: vip}.quote(t, 3, 4, answer, 60))
			e := v.one(insidePort)
			_, quoted := quotedBy(t, e)
			s, _ := ports(got)
			if e.packet.Dst != backend || quoted.Src != backend || quoted.SrcPort != backendPort || quoted.Dst != got.packet.Src || quoted.DstPort != s {
				t.Errorf("to %v, quoting %+v", e.ip.DstIP, quoted)
			}
			// The backend's network's, about what the gateway sent there.
			v.send(insidePort, from{src: ip("10.0.0.99"), dst: got.packet.Src}.quote(t, 3, 4, got.raw, 60))
			e = v.one(outsidePort)
			_, quoted = quotedBy(t, e)
			if e.packet.Dst != server || e.packet.Src != vip || quoted.Src != server || quoted.SrcPort != 40000 || quoted.Dst != vip || quoted.DstPort != servedPort {
				t.Errorf("%v to %v, quoting %+v", e.ip.SrcIP, e.ip.DstIP, quoted)
			}
		})
	}
}

func quotedBy(t *testing.T, e view) (conntrack.Tuple, packet.Packet) {
	t.Helper()
	if e.icmp == nil || packet.Fold(packet.Sum(e.raw[e.packet.L4:e.packet.End], 0)) != 0xffff {
		t.Fatalf("no sound ICMP error: %x", e.raw)
	}
	var q packet.Packet
	if r := packet.ParseQuoted(e.icmp.Payload, &q); r != verdict.None {
		t.Fatal(r)
	}
	return conntrack.Tuple{}, q
}

// TestDirectAnswers: what the backends' nodes answer themselves, with the service's
// address, crosses the gateway as it is from inside, and is forged from outside.
func TestDirectAnswers(t *testing.T) {
	v := newServed(t, serviceSpec{mode: dsr.DSR, backends: backends[:], masquerade: true})
	v.begun(t, packet.ProtoTCP)
	for _, to := range []uint32{server, ip("198.51.100.77")} { // one with a flow, one whose flow is gone
		frame := from{src: vip, dst: to, sport: servedPort, dport: 40000, payload: "data"}.tcp(t, packet.TCPAck)
		v.send(insidePort, frame)
		got := v.one(outsidePort)
		if got.packet.Src != vip || got.packet.Dst != to || got.ip.TTL != 63 || !bytes.Equal(got.raw[34:58], frame[34:58]) {
			t.Errorf("left as %s", endpoints(got))
		}
	}
	v.send(insidePort, from{src: vip, dst: server, sport: 9, dport: 40000}.udp(t))
	v.none(verdict.OwnSource)
	v.send(outsidePort, from{src: vip, dst: client, sport: servedPort, dport: 40000}.tcp(t, packet.TCPAck))
	if v.drops(verdict.OwnSource) != 2 {
		t.Errorf("drops %v", v.allDrops())
	}
}

// TestServiceARP: the neighbours are told at the start, and who asks is answered.
func TestServiceARP(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:]})
	if n := v.worker.counters.Services.Announcements; n != announceTimes*2*2 {
		t.Errorf("%d announcements, want %d rounds of two addresses on two ports", n, announceTimes)
	}
	v.send(outsidePort, arpRequest(t, router, vip))
	if sent := v.ports[outsidePort].sent(); len(sent) != 1 || sent[0][21] != 2 || !bytes.Equal(sent[0][6:12], gatewayMACs[1][:]) {
		t.Errorf("%x", sent)
	}
	v.publish(func(s *Snapshot) { s.Balance.Announced = []uint32{vip2} })
	v.send(outsidePort, arpRequest(t, router, vip))
	v.settle()
	v.send(outsidePort, arpRequest(t, router, vip))
	if n := len(v.ports[outsidePort].sent()); n != 0 {
		t.Errorf("%d answers for an address that is announced no more", n)
	}
}

// TestAddressDefended: the neighbours are asked at the start and once a minute whether
// any has one of the addresses, too; an address that somebody else claims is
// announced once for each time that the control plane says so, where it is ours.
func TestAddressDefended(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:]})
	probes := func() (n int) {
		v.step()
		for _, p := range v.ports {
			for _, f := range p.sent() {
				if [4]byte(f[28:32]) == [4]byte{} && f[21] == 1 {
					n++
				} else {
					t.Errorf("left: %x", f)
				}
			}
		}
		return n
	}
	v.now += probeEvery - 1
	if n := probes(); n != 0 {
		t.Errorf("%d probes too early", n)
	}
	v.now++
	if n := probes(); n != 2*2 {
		t.Errorf("%d probes for two addresses on two ports", n)
	}
	defend := make(chan Neighbour, 4)
	v.worker.defend = defend
	defend <- Neighbour{outsidePort, vip}
	defend <- Neighbour{outsidePort, router}
	for range 4 {
		v.now++
		v.step()
	}
	sent := v.ports[outsidePort].sent()
	if len(sent) != 1 || address(sent[0][28:]) != vip || address(sent[0][38:]) != vip || !bytes.Equal(sent[0][22:28], gatewayMACs[1][:]) || len(v.ports[insidePort].sent()) != 0 {
		t.Errorf("%x", sent)
	}
}

// TestServiceCounters: per backend, what passed and what got no answer.
func TestServiceCounters(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:1]})
	c := from{src: server, dst: vip, sport: 40000, dport: servedPort}
	for range unansweredPackets + 1 {
		v.send(outsidePort, c.tcp(t, packet.TCPSyn))
		v.one(insidePort)
	}
	v.now++
	v.step()
	got := v.worker.Backend(1)
	want := BackendCounters{Packets: [2]uint64{5, 0}, Bytes: [2]uint64{200, 0}, Flows: 1, Connections: 1, Unanswered: 1}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if none := v.worker.Backend(77); none != (BackendCounters{}) {
		t.Errorf("a backend that is not: %+v", none)
	}
}

// TestRoutedBackendOnTheClientsPort: a backend behind a router on the client's
// port answers past its own node, and gets no source of ours.
func TestRoutedBackendOnTheClientsPort(t *testing.T) {
	v := newServed(t, serviceSpec{mode: dsr.DSR, backends: farBackends[:]})
	v.send(outsidePort, from{src: server, dst: vip, sport: 40000, dport: servedPort}.tcp(t, packet.TCPSyn))
	if got := v.one(outsidePort); got.packet.Src != server {
		t.Errorf("left as %s", endpoints(got))
	}
}

// arpRequest asks for an address.
func arpRequest(t testing.TB, from, target uint32) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	mac := net.HardwareAddr(routerMAC[:])
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: mac, SourceProtAddress: fib.Addr(from).AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: fib.Addr(target).AsSlice(),
		}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestServiceOutOfWindow: RFC 5961, as of any flow: segments with numbers that no
// end would send neither end a client's connection nor keep it.
func TestServiceOutOfWindow(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:]})
	call := from{src: server, dst: vip, sport: 40000, dport: servedPort}
	v.send(outsidePort, call.segment(t, packet.TCPSyn, 100, 0))
	got := v.one(insidePort)
	sport, _ := ports(got)
	back := from{src: got.packet.Dst, dst: gatewayInside, sport: backendPort, dport: sport}
	v.send(insidePort, back.segment(t, packet.TCPSyn|packet.TCPAck, 500, 101))
	v.one(outsidePort)
	v.send(outsidePort, call.segment(t, packet.TCPAck, 101, 501))
	v.one(insidePort)
	if n := v.table.Count().States[conntrack.TCPEstablished]; n != 1 {
		t.Fatalf("%+v", v.table.Count())
	}
	v.pass(conntrack.DefaultTimeouts().TCPEstablished)
	for _, flags := range []uint8{packet.TCPRst, packet.TCPFin | packet.TCPAck, packet.TCPAck} {
		v.send(outsidePort, call.segment(t, flags, 0x70000000, 0x70000000))
		v.one(insidePort)
	}
	if n := v.table.Count().States[conntrack.TCPEstablished]; n != 1 || v.worker.counters.OutOfWindow != 3 {
		t.Errorf("%d out of window, %+v", v.worker.counters.OutOfWindow, v.table.Count())
	}
	v.now++
	v.rig.sweep()
	if n := v.table.Count().Flows; n != 0 {
		t.Error("what nobody in the connection sent kept it")
	}
}

// TestServiceMSS: mss-clamp is for the SYNs of a service's connections as well.
func TestServiceMSS(t *testing.T) {
	for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
		v := newServed(t, serviceSpec{mode: mode, backends: backends[:]}, func(_ *rig, s *Snapshot) { s.MSS = 1200 })
		v.send(outsidePort, from{src: server, dst: vip, sport: 40000, dport: servedPort}.segment(t, packet.TCPSyn, 100, 0, mssOption(1460)))
		got := v.one(insidePort)
		if len(got.tcp.Options) == 0 || binary.BigEndian.Uint16(got.tcp.Options[0].OptionData) != 1200 {
			t.Errorf("mode %v: the SYN left with %v", mode, got.tcp.Options)
		}
	}
}
