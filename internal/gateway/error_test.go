package gateway

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// quoted holds an ICMP error that left by a port against what RFC 1812 4.3.2
// says of all of them, and against the frame that it is about, as its sender
// sent it.
func (r *rig) quoted(out fib.PortID, source string, about []byte, typ, code uint8) view {
	r.t.Helper()
	v := r.one(out) // all checksums right
	if v.icmp == nil || v.icmp.TypeCode != layers.CreateICMPv4TypeCode(typ, code) {
		r.t.Fatalf("left: %v, want ICMP %d/%d", v.packet, typ, code)
	}
	if src(v) != source || v.packet.Dst != fib.U32(netip.AddrFrom4([4]byte(about[26:30]))) {
		r.t.Errorf("the error goes %v → %v, want %v → the sender", src(v), dst(v), source)
	}
	whole := about[packet.EthernetLength:][:int(about[16])<<8|int(about[17])] // the link's padding is no part of it
	want := whole[:min(len(whole), packet.ICMPErrorMaxLength-packet.ICMPErrorOverhead)]
	if got := v.raw[v.packet.L4+packet.ICMPLength : v.packet.End]; !bytes.Equal(got, want) {
		r.t.Errorf("quotes\n     %x\nwant %x", got, want)
	}
	if v.ip.TTL != 64 || v.ip.TOS != 0xc0 || v.ip.Flags != 0 {
		r.t.Errorf("TTL %d, TOS %#x, flags %v; want 64, 0xc0, none", v.ip.TTL, v.ip.TOS, v.ip.Flags)
	}
	if [6]byte(v.eth.SrcMAC) != gatewayMACs[out] || [6]byte(v.eth.DstMAC) != [2][6]byte{clientMAC, routerMAC}[out] {
		r.t.Errorf("link addresses %v → %v", v.eth.SrcMAC, v.eth.DstMAC)
	}
	return v
}

// toServer adds a route of the given type to the server.
func (r *rig) toServer(typ fib.RouteType) {
	r.extra = []fib.Route{{Table: fib.TableMain, Prefix: netip.PrefixFrom(fib.Addr(server), 32), Type: typ}}
	r.interfaces(true)
	r.reroute()
}

// setMTU gives both ports another MTU.
func (r *rig) setMTU(mtu uint16) {
	r.mtu = mtu
	r.interfaces(true)
	r.reroute()
}

// TestOwnErrors has a row for every error that the gateway sends: from which
// address, about the packet as its sender knows it.
func TestOwnErrors(t *testing.T) {
	long := strings.Repeat("x", 1400)
	out := from{src: client, dst: server, sport: 4000, dport: 53}
	back := from{src: server, dst: external, sport: 53, dport: 4000}
	with := func(f from, change func(*from)) from { change(&f); return f }
	last := func(f *from) { f.ttl = 1 }
	large := func(f *from) { f.df, f.payload = true, long }
	mapped := func(r *rig) { r.send(insidePort, out.udp(r.t)); r.one(outsidePort) }
	oneArmed := func(r *rig) {
		r.publish(func(s *Snapshot) { s.Roles[insidePort], s.Roles[outsidePort] = RoleBoth, RoleBoth })
	}
	silentIs := func(state fib.NeighState) func(*rig) {
		return func(r *rig) {
			r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: silent, State: state})
			r.reroute()
		}
	}
	tests := []struct {
		name      string
		arrange   func(r *rig)
		on        fib.PortID
		frame     []byte
		source    string
		typ, code uint8
		mtu       uint16
		reason    verdict.Reason
	}{
		{"1812-5.3.1: TTL 1, UDP", nil, insidePort, with(out, last).udp(t), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-5.3.1: TTL 1, TCP of no flow", nil, insidePort, with(out, last).tcp(t, packet.TCPAck), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-5.3.1: TTL 1, echo request", nil, insidePort, with(out, last).echo(t, packet.ICMPEchoRequest, 7), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-5.3.1: TTL 1 in a known flow", mapped, insidePort, with(out, last).udp(t), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-4.3.2.4: an answer with TTL 1, from the external address", mapped, outsidePort, with(back, last).udp(t), "192.0.2.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-4.3.2.4: to a host that sees true sources", nil, outsidePort, from{src: excluded, dst: client, sport: 1, dport: 2, ttl: 1}.udp(t), "192.0.2.1", 11, 0, 0, verdict.TTLExpired},
		{"the external address is in sources itself", func(r *rig) { mapped(r); r.masqueradeAll() }, outsidePort, with(back, last).udp(t), "192.0.2.1", 11, 0, 0, verdict.TTLExpired},
		{"1191, 4787-REQ-13: DF and too large", func(r *rig) { r.setMTU(1300) }, insidePort, with(out, large).udp(t), "10.0.0.1", 3, 4, 1300, verdict.FragmentationNeeded},
		{"1191: DF and too large in a known flow", func(r *rig) { mapped(r); r.setMTU(1300) }, insidePort, with(out, large).udp(t), "10.0.0.1", 3, 4, 1300, verdict.FragmentationNeeded},
		{"1191: an answer with DF and too large", func(r *rig) { mapped(r); r.setMTU(1300) }, outsidePort, with(back, large).udp(t), "192.0.2.1", 3, 4, 1300, verdict.FragmentationNeeded},
		{"1812-5.2.7.1: no route", func(r *rig) { r.interfaces(false); r.reroute() }, insidePort, out.udp(t), "10.0.0.1", 3, 0, 0, verdict.NoRoute},
		{"the way out is down", func(r *rig) {
			r.extra = []fib.Route{{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Paths: []fib.Path{{Ifindex: 2, Gateway: router}}}}
			r.interfaces(false)
			r.reroute()
		}, insidePort, out.udp(t), "10.0.0.1", 3, 0, 0, verdict.InterfaceDown},
		{"one-armed: from inside", oneArmed, insidePort, with(out, last).udp(t), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"one-armed: from outside", func(r *rig) { mapped(r); oneArmed(r) }, outsidePort, with(back, last).udp(t), "192.0.2.1", 11, 0, 0, verdict.TTLExpired},
		{"route of type unreachable", func(r *rig) { r.toServer(fib.RouteUnreachable) }, insidePort, out.udp(t), "10.0.0.1", 3, 1, 0, verdict.RouteUnreachable},
		{"route of type prohibit", func(r *rig) { r.toServer(fib.RouteProhibit) }, insidePort, out.udp(t), "10.0.0.1", 3, 13, 0, verdict.RouteProhibited},
		{"1812-3.3.2: no neighbour", silentIs(fib.Failed), insidePort, with(out, func(f *from) { f.dst = silent }).udp(t), "10.0.0.1", 3, 1, 0, verdict.NeighbourUnresolved},
		{"5508-REQ-8: no port", func(r *rig) {
			mapped(r)
			r.publish(func(s *Snapshot) { s.Ports = nat.PortRange{Low: 4000, High: 4000} })
		}, insidePort, with(out, func(f *from) { f.sport = 4001 }).udp(t), "10.0.0.1", 3, 13, 0, verdict.PortsExhausted},
		{"5508-REQ-8: no address", func(r *rig) { r.publish(func(s *Snapshot) { s.Pools[outsidePort] = nil }) }, insidePort, out.udp(t), "10.0.0.1", 3, 13, 0, verdict.NoExternalAddress},
		{"5508-REQ-8: a protocol that policy refuses", func(r *rig) { r.publish(func(s *Snapshot) { s.Other = OtherDrop }) }, insidePort,
			out.frame(t, out.ipv4(layers.IPProtocolGRE), payload("greetings")), "10.0.0.1", 3, 13, 0, verdict.ProtocolUnsupported},
		{"5508-REQ-8: a hairpin that policy refuses", func(r *rig) { mapped(r); r.publish(func(s *Snapshot) { s.Hairpin = false }) }, insidePort,
			from{src: client2, dst: external, sport: 7000, dport: 4000}.udp(t), "10.0.0.1", 3, 13, 0, verdict.HairpinDisabled},
		{"5508-REQ-8: options that policy refuses", func(r *rig) { r.publish(func(s *Snapshot) { s.DropOptions = true }) }, insidePort, with(out, func(f *from) {
			f.options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}).udp(t), "10.0.0.1", 3, 13, 0, verdict.OptionsRefused},
		{"1812-4.3.2.3: as much as fits 576 bytes", nil, insidePort, with(out, func(f *from) { f.ttl, f.payload = 1, long }).udp(t), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-4.3.2.3: options are quoted too", nil, insidePort, with(out, func(f *from) {
			f.ttl, f.options = 1, []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}).udp(t), "10.0.0.1", 11, 0, 0, verdict.TTLExpired},
		{"1812-4.3.2.7: about a first fragment", nil, outsidePort, firstFragment(t, from{src: excluded, dst: client, sport: 1, dport: 2, ttl: 1, payload: "12345678"}), "192.0.2.1", 11, 0, 0, verdict.TTLExpired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.arrange != nil {
				tt.arrange(r)
			}
			before := r.worker.counters.Errors
			r.send(tt.on, tt.frame)
			v := r.quoted(tt.on, tt.source, tt.frame, tt.typ, tt.code)
			if v.icmp.Seq != tt.mtu || v.icmp.Id != 0 {
				t.Errorf("next-hop MTU %d, want %d; unused %#x", v.icmp.Seq, tt.mtu, v.icmp.Id)
			}
			if r.drops(tt.reason) != 1 {
				t.Errorf("not dropped as %v: %v", tt.reason, r.allDrops())
			}
			if k := errorFor[tt.reason]; r.worker.counters.Errors[k] != before[k]+1 {
				t.Errorf("not counted as %v", k)
			}
		})
	}
}

// masqueradeAll has policy hide every address, the external one among them.
func (r *rig) masqueradeAll() {
	r.publish(func(s *Snapshot) {
		s.Policy = nat.NewPolicy(nat.PolicyConfig{Enabled: true, Sources: []nat.Rule{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}})
	})
}

// addPooled makes pooled an external address besides the interface's own.
func (r *rig) addPooled() {
	if err := r.table.AddExternal(conntrack.NewExternal(pooled, nil)); err != nil {
		r.t.Fatal(err)
	}
}

func firstFragment(t testing.TB, f from) []byte { return markMore(f.udp(t)) }

// markMore says of a packet that fragments follow.
func markMore(frame []byte) []byte {
	h := frame[packet.EthernetLength:]
	sum := packet.Update16(uint16(h[10])<<8|uint16(h[11]), 0, 0x2000)
	h[6], h[10], h[11] = 0x20, byte(sum>>8), byte(sum)
	return frame
}

// TestNoErrorAbout: what nobody is told about (RFC 1812 4.3.2.7 and the rules of
// a NAT). Each would have been answered, were it not for what its name says.
func TestNoErrorAbout(t *testing.T) {
	last := func(src, dst uint32) from { return from{src: src, dst: dst, sport: 4000, dport: 53, ttl: 1} }
	later := func(f from) []byte {
		l := f.ipv4(layers.IPProtocolUDP)
		l.FragOffset = 100
		return f.frame(t, l, payload("fragment"))
	}
	group := last(client, server).udp(t)
	copy(group, []byte{1, 0, 0x5e, 0, 0, 1})
	tests := []struct {
		name    string
		arrange func(r *rig)
		on      fib.PortID
		frame   []byte
	}{
		{"an ICMP error", nil, insidePort, last(client, server).quote(t, 3, 3, from{src: server, dst: client}.udp(t), 28)},
		{"the first fragment of an ICMP error", nil, outsidePort, markMore(last(excluded, client).quote(t, 3, 3, from{src: client, dst: excluded}.udp(t), 28))},
		{"a redirect", nil, insidePort, last(client, server).quote(t, 5, 1, from{src: server, dst: client}.udp(t), 28)},
		{"an ICMP message that nobody knows", nil, insidePort, last(client, server).echo(t, 40, 1)},
		{"a later fragment", nil, outsidePort, later(last(excluded, client))},
		{"a packet to a broadcast address", nil, outsidePort, last(excluded, ip("10.0.0.255")).udp(t)},
		{"a packet to everybody", nil, insidePort, last(client, ip("255.255.255.255")).udp(t)},
		{"a packet to a group", nil, insidePort, last(client, ip("224.0.0.9")).udp(t)},
		{"a frame to a group of stations", nil, insidePort, group},
		{"a source 0.0.0.0", nil, insidePort, last(0, server).udp(t)},
		{"a loopback source", nil, insidePort, last(ip("127.0.0.1"), server).udp(t)},
		{"a multicast source", nil, insidePort, last(ip("224.0.0.5"), server).udp(t)},
		{"a class E source", nil, insidePort, last(ip("240.0.0.5"), server).udp(t)},
		{"a broadcast source", nil, insidePort, last(ip("10.0.0.255"), server).udp(t)},
		{"our own inside source", nil, insidePort, last(gatewayInside, server).udp(t)},
		{"our own external source", nil, outsidePort, last(external, client).udp(t)},
		{"our own source, that the host does not hold", func(r *rig) { r.addPooled() }, outsidePort, last(pooled, ip("198.51.100.77")).udp(t)},
		{"source and destination the same", nil, insidePort, last(client, client).udp(t)},
		{"2827: an inside source from outside", nil, outsidePort, last(client2, client).udp(t)},
		{"2827: an outside source from inside", nil, insidePort, last(server, excluded).udp(t)},
		{"an address that is hidden from the sender", nil, outsidePort, last(server, client).udp(t)},
		{"a route of type blackhole", func(r *rig) { r.toServer(fib.RouteBlackhole) }, insidePort, from{src: client, dst: server, sport: 1, dport: 2}.udp(t)},
		{"a packet that policy refuses", nil, outsidePort, from{src: server, dst: client, sport: 1, dport: 2}.udp(t)},
		{"options that policy refuses, from outside", func(r *rig) { r.publish(func(s *Snapshot) { s.DropOptions = true }) }, outsidePort,
			from{src: excluded, dst: client, sport: 1, dport: 2, options: []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}}.udp(t)},
		{"a port that nothing is mapped to", nil, outsidePort, from{src: server, dst: external, sport: 1, dport: 2}.udp(t)},
		{"a sender that no route leads to", func(r *rig) { r.interfaces(true); r.reroute() }, insidePort, last(ip("10.1.1.1"), client).udp(t)},
		{"a malformed packet", nil, insidePort, last(client, server).udp(t)[:30]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.arrange != nil {
				tt.arrange(r)
			}
			r.send(tt.on, tt.frame)
			for i, p := range r.ports {
				for _, f := range p.sent() {
					t.Errorf("left by port %d: %v", i, decode(t, f).packet)
				}
			}
			if len(r.allDrops()) != 1 {
				t.Errorf("drops %v", r.allDrops())
			}
		})
	}
}

// TestErrorAboutHeld: a packet that waited for its neighbour in vain was
// translated already. Its sender hears of it as it sent it, and only once.
func TestErrorAboutHeld(t *testing.T) {
	for name, frame := range map[string][]byte{
		"UDP":  from{src: client, dst: silent, sport: 4000, dport: 53, payload: "data"}.udp(t),
		"TCP":  from{src: client, dst: silent, sport: 4000, dport: 80}.tcp(t, packet.TCPSyn),
		"echo": from{src: client, dst: silent}.echo(t, packet.ICMPEchoRequest, 4000),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for _, other := range []from{{src: client2, dst: server, sport: 4000, dport: 1}} { // takes the port
				r.send(insidePort, other.udp(t), other.tcp(t, packet.TCPSyn), other.echo(t, packet.ICMPEchoRequest, 4000))
				r.ports[outsidePort].sent()
			}
			r.send(insidePort, frame)
			r.now += holdTicks
			r.step()
			r.quoted(insidePort, "10.0.0.1", frame, 3, 1)
		})
	}
}

// TestErrorAboutHeldOfAnother: while the packet waited, its flow ended, and
// another host got the same external port towards the same destination. It is
// not told about a packet that it did not send.
func TestErrorAboutHeldOfAnother(t *testing.T) {
	r := newRig(t)
	restless := conntrack.DefaultTimeouts()
	restless.PortRest = 0 // the other host is to get the port at once
	r.table.SetTimeouts(&restless)
	f := from{src: client, dst: silent, sport: 4000, dport: 53}
	r.send(insidePort, f.udp(t))
	flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: client, Dst: silent, SrcPort: 4000, DstPort: 53, Proto: packet.ProtoUDP}, r.now)
	r.worker.flows.Retire(flow, verdict.None)
	r.now += holdTicks - 1
	f.src = client2
	r.send(insidePort, f.udp(t))
	if flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: silent, Dst: external, SrcPort: 53, DstPort: 4000, Proto: packet.ProtoUDP}, r.now); flow == nil || flow.Tuple(conntrack.Original).Src != client2 {
		t.Fatal("the other host did not get the port")
	}
	r.now++
	r.step()
	if n := len(r.ports[insidePort].sent()); n != 0 || r.drops(verdict.NeighbourUnresolved) != 1 {
		t.Errorf("%d errors were sent; drops %v", n, r.allDrops())
	}
}

// TestErrorWaitsForItsReceiver: an error is held like any packet, and is not
// worth another one.
func TestErrorWaitsForItsReceiver(t *testing.T) {
	stranger := ip("10.0.0.99")
	frame := from{src: stranger, dst: server, sport: 4000, dport: 53, ttl: 1}.udp(t)
	r := newRig(t)
	r.send(insidePort, frame)
	if r.worker.Waiting() != 1 {
		t.Fatalf("%d frames wait; drops %v", r.worker.Waiting(), r.allDrops())
	}
	if got := r.asked(); len(got) != 1 || got[0] != (Neighbour{insidePort, stranger}) {
		t.Errorf("asked for %v", got)
	}
	r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: stranger, State: fib.Resolved, MAC: clientMAC})
	r.reroute()
	r.step()
	r.quoted(insidePort, "10.0.0.1", frame, 11, 0)

	r = newRig(t)
	r.send(insidePort, frame)
	r.now += holdTicks
	r.step()
	if n := len(r.ports[insidePort].sent()) + r.worker.Waiting(); n != 0 || r.drops(verdict.NeighbourUnresolved) != 1 {
		t.Errorf("%d frames about an error that waited in vain; drops %v", n, r.allDrops())
	}
}

// TestErrorsWhileHeldFramesExpire: errors about expired frames that must wait
// themselves neither get lost in the queue nor disturb it.
func TestErrorsWhileHeldFramesExpire(t *testing.T) {
	r := newRig(t)
	var strangers []uint32
	for i := range uint32(20) {
		strangers = append(strangers, ip("10.0.0.100")+i)
		r.send(insidePort, from{src: strangers[i], dst: silent + i/8, sport: 4000, dport: 53}.udp(t))
	}
	r.now += holdTicks - 1
	r.send(insidePort, from{src: client, dst: silent + 20, sport: 1, dport: 2}.udp(t)) // goes on waiting
	r.now++
	r.step()
	if n := r.worker.Waiting(); n != 21 || r.drops(verdict.NeighbourUnresolved) != 20 {
		t.Fatalf("%d frames wait, want 20 errors and a packet; drops %v", n, r.allDrops())
	}
	for _, s := range strangers {
		r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: s, State: fib.Resolved, MAC: clientMAC})
	}
	r.reroute()
	r.step()
	told := map[uint32]bool{}
	for _, f := range r.ports[insidePort].sent() {
		told[decode(t, f).packet.Dst] = true
	}
	if len(told) != len(strangers) || r.worker.Waiting() != 1 {
		t.Errorf("%d of %d senders were told; %d frames wait", len(told), len(strangers), r.worker.Waiting())
	}
}

// TestHostGetsTTLOne: RFC 1812 4.2.2.9: what is for the gateway's own host is not
// forwarded, and its TTL is not looked at; what NAT would forward is.
func TestHostGetsTTLOne(t *testing.T) {
	r := newRig(t)
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 4000, ttl: 1}.udp(t))
	r.none(verdict.HostOwned)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	hairpin := from{src: client2, dst: external, sport: 7, dport: 4000, ttl: 1}.udp(t)
	r.send(insidePort, hairpin)
	r.quoted(insidePort, "10.0.0.1", hairpin, 11, 0)
}

// TestErrorSource: without an address that may be seen outside, an error leaves
// with an external one, or not at all.
func TestErrorSource(t *testing.T) {
	primary := func(addr uint32) rigOption {
		return func(r *rig, s *Snapshot) {
			iface := fib.Interface{Port: outsidePort, Name: "out0", Ifindex: 2, MAC: gatewayMACs[1], MTU: 1500, Up: true, Primary: addr,
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
			inside := fib.Interface{Port: insidePort, Name: "in0", Ifindex: 1, MAC: gatewayMACs[0], MTU: 1500, Up: true, Primary: gatewayInside,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
			all := []fib.Interface{inside, iface}
			r.builder.SetInterfaces(all)
			r.builder.SetRoutes(append(fib.Connected(all), fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"),
				Paths: []fib.Path{{Ifindex: 2, Gateway: router}}}))
			s.Routes = r.builder.Build()
		}
	}
	noPool := func(_ *rig, s *Snapshot) { s.Pools[outsidePort] = nil }
	hiddenPrimary := ip("10.0.0.77")
	tests := []struct {
		name    string
		options []rigOption
		want    string
	}{
		{"the interface's, though flows use another", []rigOption{withPool}, "192.0.2.1"},
		{"an unnumbered interface: the pool's", []rigOption{withPool, primary(0)}, "203.0.113.7"},
		{"an address that policy hides: the pool's", []rigOption{withPool, primary(hiddenPrimary)}, "203.0.113.7"},
		{"an address that policy hides, no pool", []rigOption{noPool, primary(hiddenPrimary)}, ""},
		{"an unnumbered interface, no pool", []rigOption{noPool, primary(0)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.options...)
			frame := from{src: server, dst: ip("198.51.100.77"), sport: 1, dport: 2, ttl: 1}.udp(t)
			r.send(outsidePort, frame)
			if tt.want == "" {
				r.none(verdict.TTLExpired)
				if n := len(r.ports[outsidePort].sent()); n != 0 {
					t.Errorf("%d frames left", n)
				}
				return
			}
			r.quoted(outsidePort, tt.want, frame, 11, 0)
		})
	}
}

// TestErrorLimit: RFC 1812 4.3.2.8: in all, for each destination, and refilled
// by time.
func TestErrorLimit(t *testing.T) {
	r := newRig(t)
	frame := from{src: client, dst: server, sport: 4000, dport: 53, ttl: 1}.udp(t)
	count := func() (n int) {
		for range 100 {
			r.send(insidePort, frame)
			n += len(r.ports[insidePort].sent())
		}
		return n
	}
	if n := count(); n != errorsPeerBurst {
		t.Errorf("%d errors at once to one host, want %d", n, errorsPeerBurst)
	}
	if n := r.worker.counters.ErrorsLimited; n != 100-errorsPeerBurst {
		t.Errorf("%d counted as not sent", n)
	}
	if r.drops(verdict.TTLExpired) != 100 {
		t.Errorf("drops %v", r.allDrops())
	}
	r.now++
	if n := count(); n != errorsPerPeerTick {
		t.Errorf("%d errors a tick later, want %d", n, errorsPerPeerTick)
	}
	// Another host does not suffer.
	r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53, ttl: 1}.udp(t))
	r.quoted(insidePort, "10.0.0.1", from{src: client2, dst: server, sport: 4000, dport: 53, ttl: 1}.udp(t), 11, 0)

	var l errorLimit
	all := 0
	for second := range conntrack.Tick(10) {
		for tick := range conntrack.Tick(conntrack.TicksPerSecond) {
			for peer := range uint64(errorPeers) {
				if l.allow(peer, 1000+second*conntrack.TicksPerSecond+tick) {
					all++
				}
			}
		}
	}
	if want := 10 * errorsPerTick * conntrack.TicksPerSecond; all != want {
		t.Errorf("%d errors in 10 seconds to everybody, want %d", all, want)
	}
}
