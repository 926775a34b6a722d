package gateway

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

func src(v view) string { return v.ip.SrcIP.String() }
func dst(v view) string { return v.ip.DstIP.String() }

func TestMasqueradeThereAndBack(t *testing.T) {
	r := newRig(t)
	out := from{src: client, dst: server, sport: 4000, dport: 53, payload: "question"}
	r.send(insidePort, out.udp(t))
	v := r.one(outsidePort)
	if src(v) != "192.0.2.1" || dst(v) != "198.51.100.9" || v.udp.SrcPort != 4000 || v.udp.DstPort != 53 {
		t.Fatalf("left as %v:%v → %v:%v", src(v), v.udp.SrcPort, dst(v), v.udp.DstPort)
	}
	if v.ip.TTL != 63 {
		t.Errorf("TTL %d, want 63 (RFC 1812 5.3.1)", v.ip.TTL)
	}
	if [6]byte(v.eth.DstMAC) != routerMAC || [6]byte(v.eth.SrcMAC) != gatewayMACs[1] {
		t.Errorf("link addresses %v → %v", v.eth.SrcMAC, v.eth.DstMAC)
	}
	back := from{src: server, dst: external, sport: 53, dport: 4000, payload: "answer"}
	r.send(outsidePort, back.udp(t))
	v = r.one(insidePort)
	if src(v) != "198.51.100.9" || dst(v) != "10.0.0.5" || v.udp.DstPort != 4000 || string(v.udp.Payload) != "answer" {
		t.Fatalf("came back as %v", v.packet)
	}
	if [6]byte(v.eth.DstMAC) != clientMAC {
		t.Errorf("reply goes to %v", v.eth.DstMAC)
	}
	if n := len(r.allDrops()); n != 0 {
		t.Errorf("drops: %v", r.allDrops())
	}
}

func TestTCPAndEchoAreMasqueraded(t *testing.T) {
	r := newRig(t)
	c := from{src: client, dst: server, sport: 40000, dport: 443}
	r.send(insidePort, c.tcp(t, packet.TCPSyn))
	if v := r.one(outsidePort); src(v) != "192.0.2.1" || v.tcp.SrcPort != 40000 {
		t.Errorf("SYN left from %v:%v", src(v), v.tcp.SrcPort)
	}
	s := from{src: server, dst: external, sport: 443, dport: 40000}
	r.send(outsidePort, s.tcp(t, packet.TCPSyn|packet.TCPAck))
	if v := r.one(insidePort); dst(v) != "10.0.0.5" {
		t.Errorf("SYN+ACK went to %v", dst(v))
	}
	// RFC 5508 REQ-1: two hosts with one identifier are told apart.
	for i, host := range []uint32{client, client2} {
		r.send(insidePort, from{src: host, dst: server}.echo(t, packet.ICMPEchoRequest, 77))
		v := r.one(outsidePort)
		if kept := v.icmp.Id == 77; kept != (i == 0) {
			t.Errorf("host %d: identifier 77 left as %d", i, v.icmp.Id)
		}
		r.send(outsidePort, from{src: server, dst: external}.echo(t, packet.ICMPEchoReply, v.icmp.Id))
		if v := r.one(insidePort); v.packet.Dst != host || v.icmp.Id != 77 {
			t.Errorf("host %d: reply to %v with identifier %d", i, dst(v), v.icmp.Id)
		}
	}
}

// TestPolicy: what leaves outside is translated, excluded, or dropped.
func TestPolicy(t *testing.T) {
	t.Run("an excluded destination sees the true source", func(t *testing.T) {
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: excluded, sport: 4000, dport: 3306}.tcp(t, packet.TCPSyn))
		if v := r.one(outsidePort); src(v) != "10.0.0.5" || v.tcp.SrcPort != 4000 {
			t.Errorf("source %v:%v", src(v), v.tcp.SrcPort)
		}
		r.send(outsidePort, from{src: excluded, dst: client, sport: 3306, dport: 4000}.tcp(t, packet.TCPSyn|packet.TCPAck))
		r.one(insidePort)
	})
	t.Run("an excluded network may open connections inwards", func(t *testing.T) {
		r := newRig(t)
		r.send(outsidePort, from{src: excluded, dst: client, sport: 5000, dport: 22}.tcp(t, packet.TCPSyn))
		r.one(insidePort)
		r.send(insidePort, from{src: client, dst: excluded, sport: 22, dport: 5000}.tcp(t, packet.TCPSyn|packet.TCPAck))
		if v := r.one(outsidePort); src(v) != "10.0.0.5" {
			t.Errorf("the answer left from %v", src(v))
		}
	})
	t.Run("everybody else may not", func(t *testing.T) {
		r := newRig(t)
		r.send(outsidePort, from{src: server, dst: client, sport: 5000, dport: 22}.tcp(t, packet.TCPSyn))
		r.none(verdict.OutsideToInside)
	})
	t.Run("a source that is not listed is routed as it is", func(t *testing.T) {
		r := newRig(t, func(_ *rig, s *Snapshot) {
			s.Policy = nat.NewPolicy(nat.PolicyConfig{Enabled: true, Sources: []nat.Rule{{Prefix: netip.MustParsePrefix("10.0.0.6/32")}}})
		})
		r.send(insidePort, from{src: client, dst: server, sport: 1, dport: 2}.udp(t))
		if v := r.one(outsidePort); src(v) != "10.0.0.5" {
			t.Errorf("source %v", src(v))
		}
	})
	t.Run("between inside hosts nothing is translated", func(t *testing.T) {
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: client2, sport: 1, dport: 2}.udp(t))
		if v := r.one(insidePort); src(v) != "10.0.0.5" {
			t.Errorf("source %v", src(v))
		}
	})
}

// TestDrops has a row for every reason that a packet can be refused for here.
func TestDrops(t *testing.T) {
	noPool := func(_ *rig, s *Snapshot) { s.Pools[outsidePort] = nil }
	noHairpin := func(_ *rig, s *Snapshot) { s.Hairpin = false }
	dropOptions := func(_ *rig, s *Snapshot) { s.DropOptions = true }
	out := from{src: client, dst: server, sport: 4000, dport: 53}
	fragment := func(f from) []byte {
		l := f.ipv4(layers.IPProtocolUDP)
		l.FragOffset = 100
		return f.frame(t, l, payload("fragment"))
	}
	tests := []struct {
		name   string
		on     fib.PortID
		frame  []byte
		want   verdict.Reason
		option rigOption
	}{
		{"RFC 1812 5.3.1: TTL 1", insidePort, from{src: client, dst: server, sport: 1, dport: 2, ttl: 1}.udp(t), verdict.TTLExpired, nil},
		{"RFC 1191: larger than the MTU", insidePort, from{src: client, dst: server, sport: 1, dport: 2, payload: string(make([]byte, 1473)), df: true}.udp(t), verdict.FragmentationNeeded, nil},
		{"RFC 5382: a segment without a connection", insidePort, out.tcp(t, packet.TCPAck), verdict.TCPWithoutFlow, nil},
		{"a reset without a connection", insidePort, out.tcp(t, packet.TCPRst), verdict.TCPWithoutFlow, nil},
		{"an echo reply that nobody asked for", insidePort, out.echo(t, packet.ICMPEchoReply, 5), verdict.ReplyWithoutFlow, nil},
		{"an ICMP timestamp", insidePort, out.echo(t, 13, 5), verdict.ICMPUnsupported, nil},
		{"a protocol without ports", insidePort, out.frame(t, out.ipv4(layers.IPProtocolGRE), payload("gre")), verdict.ProtocolUnsupported, func(_ *rig, s *Snapshot) { s.Other = OtherDrop }},
		{"the first fragment of an ICMP error", outsidePort, markMore(from{src: server, dst: external}.quote(t, 3, 3, from{src: external, dst: server, sport: 9, dport: 9}.udp(t), 32)), verdict.ICMPErrorWithoutFlow, nil},
		{"2827: an inside source from outside", outsidePort, from{src: client2, dst: excluded, sport: 1, dport: 2}.udp(t), verdict.SpoofedSource, nil},
		{"6274-4: our own address as source", outsidePort, from{src: external, dst: client, sport: 1, dport: 2}.udp(t), verdict.OwnSource, nil},
		{"6274-4: source is destination", insidePort, from{src: client, dst: client, sport: 1, dport: 2}.udp(t), verdict.LandAttack, nil},
		{"1812-5.3.7: loopback source", insidePort, from{src: ip("127.0.0.1"), dst: server, sport: 1, dport: 2}.udp(t), verdict.MartianSource, nil},
		{"1812-5.3.7: source 0.0.0.0", insidePort, from{src: 0, dst: server, sport: 1, dport: 2}.udp(t), verdict.MartianSource, nil},
		{"1812-5.3.7: an inside network's broadcast address as source", outsidePort, from{src: ip("10.0.0.255"), dst: server, sport: 1, dport: 2}.udp(t), verdict.MartianSource, nil},
		{"1812-5.3.7: likewise of a fragment", outsidePort, fragment(from{src: ip("10.0.0.255"), dst: server}), verdict.MartianSource, nil},
		{"1812-5.3.7: multicast source", insidePort, from{src: ip("224.0.0.5"), dst: server, sport: 1, dport: 2}.udp(t), verdict.MartianSource, nil},
		{"1812-5.3.7: class E destination", insidePort, from{src: client, dst: ip("240.0.0.1"), sport: 1, dport: 2}.udp(t), verdict.MartianDestination, nil},
		{"2644: directed broadcast", outsidePort, from{src: excluded, dst: ip("10.0.0.255"), sport: 1, dport: 2}.udp(t), verdict.DirectedBroadcast, nil},
		{"nothing is mapped to the port", outsidePort, from{src: server, dst: pooled, sport: 1, dport: 2}.udp(t), verdict.NoMapping, withPool},
		{"the host's own, that steering should have kept", outsidePort, from{src: server, dst: external, sport: 1, dport: 22}.tcp(t, packet.TCPSyn), verdict.HostOwned, nil},
		{"no external address", insidePort, out.udp(t), verdict.NoExternalAddress, noPool},
		{"hairpin is off", insidePort, from{src: client2, dst: external, sport: 7, dport: 4000}.udp(t), verdict.HairpinDisabled, noHairpin},
		{"7126: options refused", insidePort, from{src: client, dst: server, sport: 1, dport: 2, options: []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}}.udp(t), verdict.OptionsRefused, dropOptions},
		{"malformed", insidePort, out.udp(t)[:30], verdict.FrameTooShort, nil},
		{"an ICMP error about nothing", outsidePort, from{src: server, dst: external}.quote(t, 3, 3, from{src: external, dst: server, sport: 9, dport: 9}.udp(t), 28), verdict.ICMPErrorWithoutFlow, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var options []rigOption
			if tt.option != nil {
				options = append(options, tt.option)
			}
			r := newRig(t, options...)
			if tt.want == verdict.HairpinDisabled {
				r.send(insidePort, out.udp(t))
				r.one(outsidePort)
			}
			r.send(tt.on, tt.frame)
			r.none(tt.want)
			if n := r.table.Count(); tt.want != verdict.HairpinDisabled && (n.Flows != 0 || n.Mappings != 0 || n.Sources != 0) {
				t.Errorf("a refused packet left %d flows, %d mappings, %d sources", n.Flows, n.Mappings, n.Sources)
			}
		})
	}
}

// withPool gives the rig a pool address that the host does not hold.
func withPool(r *rig, s *Snapshot) {
	r.ext = conntrack.NewExternal(pooled, nil)
	s.Pools[outsidePort] = nat.NewPool(r.ext)
}

func TestFilteringIsByAddressAndPort(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	r.send(outsidePort, from{src: server, dst: external, sport: 54, dport: 4000}.udp(t))
	r.none(verdict.Filtered)
}

// TestEndpointIndependentMapping: RFC 4787 REQ-1.
func TestEndpointIndependentMapping(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t)) // takes port 4000
	r.one(outsidePort)
	ports := map[layers.UDPPort]bool{}
	for _, to := range []uint32{server, ip("198.51.100.10"), ip("203.0.113.1")} {
		r.send(insidePort, from{src: client, dst: to, sport: 4000, dport: 53}.udp(t))
		ports[r.one(outsidePort).udp.SrcPort] = true
	}
	if len(ports) != 1 || ports[4000] {
		t.Errorf("one inside endpoint left from ports %v", ports)
	}
}

// TestHairpin: RFC 4787 REQ-9, with the external source address and port.
func TestHairpin(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	r.send(insidePort, from{src: client2, dst: external, sport: 7000, dport: 4000, payload: "hello"}.udp(t))
	v := r.one(insidePort)
	if src(v) != "192.0.2.1" || v.udp.SrcPort != 7000 || dst(v) != "10.0.0.5" || v.udp.DstPort != 4000 {
		t.Fatalf("hairpin left as %v:%v → %v:%v", src(v), v.udp.SrcPort, dst(v), v.udp.DstPort)
	}
	r.send(insidePort, from{src: client, dst: external, sport: 4000, dport: 7000}.udp(t))
	if v := r.one(insidePort); src(v) != "192.0.2.1" || v.udp.SrcPort != 4000 || dst(v) != "10.0.0.6" || v.udp.DstPort != 7000 {
		t.Fatalf("the answer left as %v:%v → %v:%v", src(v), v.udp.SrcPort, dst(v), v.udp.DstPort)
	}
}

// TestPingOfAnExternalAddress: it belongs to no client, not even to the one whose
// own ping holds identifier 0.
func TestPingOfAnExternalAddress(t *testing.T) {
	r := newRig(t, withPool)
	r.send(insidePort, from{src: client, dst: server}.echo(t, packet.ICMPEchoRequest, 0))
	r.one(outsidePort)
	for _, on := range []fib.PortID{insidePort, outsidePort} {
		sender := map[fib.PortID]uint32{insidePort: client2, outsidePort: server}[on]
		r.send(on, from{src: sender, dst: pooled}.echo(t, packet.ICMPEchoRequest, 9))
		v := r.one(on)
		if v.packet.Src != pooled || v.packet.Dst != sender || v.icmp == nil || v.packet.ICMPType != packet.ICMPEchoReply || v.icmp.Id != 9 || v.ip.TTL != 64 {
			t.Errorf("a ping from %08x was answered with %v", sender, v.packet)
		}
	}
	for range 2 * errorsPeerBurst {
		r.send(outsidePort, from{src: server, dst: pooled}.echo(t, packet.ICMPEchoRequest, 9))
	}
	if got := len(r.ports[outsidePort].sent()); got != errorsPeerBurst-1 || r.drops(verdict.EchoLimit) == 0 {
		t.Errorf("%d of a flood of pings were answered; drops %v", got, r.allDrops())
	}
}

// TestPartialChecksum: what a local stack hands out over veth is finished, and
// only on ports that such frames can come from.
func TestPartialChecksum(t *testing.T) {
	frame := from{src: client, dst: server, sport: 4000, dport: 53, payload: "partial"}.udp(t)
	var p packet.Packet
	packet.Parse(frame, &p)
	sum := packet.PseudoSum(p.Src, p.Dst, p.Proto, int(p.End-p.L4))
	frame[p.L4+6], frame[p.L4+7] = byte(sum>>8), byte(sum)
	r := newRig(t)
	r.send(insidePort, frame)
	r.one(outsidePort) // decode holds the checksum against gopacket's
	if r.worker.counters.Completed != 1 {
		t.Errorf("%d checksums completed", r.worker.counters.Completed)
	}
}

func TestUDPWithoutChecksumStaysSo(t *testing.T) {
	frame := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	frame[14+20+6], frame[14+20+7] = 0, 0
	r := newRig(t)
	r.send(insidePort, frame)
	if v := r.one(outsidePort); v.udp.Checksum != 0 {
		t.Errorf("checksum %#x, want 0 (RFC 768)", v.udp.Checksum)
	}
}

// TestICMPErrorFromOutside: RFC 5508 REQ-4, and REQ-6 for the flow.
func TestICMPErrorFromOutside(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53, payload: "quoted"}.udp(t))
	left := r.one(outsidePort)
	seen := r.worker.counters
	r.send(outsidePort, from{src: router, dst: external}.quote(t, 3, 4, left.raw, 28))
	v := r.one(insidePort)
	if src(v) != "192.0.2.254" || dst(v) != "10.0.0.5" {
		t.Fatalf("error went %v → %v", src(v), dst(v))
	}
	var q packet.Packet
	if reason := packet.ParseQuoted(v.raw[v.packet.L4+8:v.packet.End], &q); reason != verdict.None {
		t.Fatal(reason)
	}
	if q.Src != client || q.SrcPort != 4000 || q.Dst != server || q.DstPort != 53 {
		t.Errorf("quoted packet is %+v", q)
	}
	if r.worker.counters.Drops != seen.Drops {
		t.Errorf("drops: %v", r.allDrops())
	}
}

// TestICMPErrorFromInside: RFC 5508 REQ-5: it leaves with the external address.
func TestICMPErrorFromInside(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 4000}.udp(t))
	delivered := r.one(insidePort)
	r.send(insidePort, from{src: client, dst: server}.quote(t, 3, 3, delivered.raw, 28))
	v := r.one(outsidePort)
	if src(v) != "192.0.2.1" || dst(v) != "198.51.100.9" {
		t.Fatalf("error went %v → %v", src(v), dst(v))
	}
	var q packet.Packet
	packet.ParseQuoted(v.raw[v.packet.L4+8:v.packet.End], &q)
	if q.Dst != external || q.DstPort != 4000 || q.Src != server {
		t.Errorf("quoted packet is %+v", q)
	}
}

// TestBurst: a whole burst of one new flow makes one flow, in order, and the
// frames of different flows do not mix.
func TestBurst(t *testing.T) {
	r := newRig(t)
	var frames [][]byte
	for i := range 150 {
		frames = append(frames, from{src: client, dst: server, sport: uint16(4000 + i%3), dport: 53, payload: string(rune('a' + i%26))}.udp(t))
	}
	r.send(insidePort, frames...)
	r.step()
	r.step()
	all := r.ports[outsidePort].sent()
	if len(all) != len(frames) {
		t.Fatalf("%d of %d frames left; drops %v", len(all), len(frames), r.allDrops())
	}
	for i, f := range all {
		v := decode(t, f)
		if v.udp.SrcPort != layers.UDPPort(4000+i%3) || string(v.udp.Payload[:1]) != string(rune('a'+i%26)) {
			t.Fatalf("frame %d is %v %q", i, v.udp.SrcPort, v.udp.Payload)
		}
	}
	if n := r.table.Count(); n.Flows != 3 || n.Mappings != 3 || n.Sources != 1 {
		t.Errorf("%d flows, %d mappings, %d sources", n.Flows, n.Mappings, n.Sources)
	}
}

func TestTransmitRingFull(t *testing.T) {
	r := newRig(t)
	r.ports[outsidePort].room = 2
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f, f, f, f, f)
	if n := len(r.ports[outsidePort].sent()); n != 2 || r.drops(verdict.TransmitRingFull) != 3 {
		t.Errorf("%d left, %d dropped as transmit-ring-full", n, r.drops(verdict.TransmitRingFull))
	}
}

// TestFlowTableFull: where every flow was answered, new ones are refused, and the
// old ones go on.
func TestFlowTableFull(t *testing.T) {
	r := newRig(t)
	first := from{src: client, dst: server, sport: 2000, dport: 53}.udp(t)
	r.send(insidePort, first)
	r.one(outsidePort)
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 2000}.udp(t))
	full := 0
	for port := uint16(54); r.drops(verdict.FlowTableFull) == 0; port++ {
		if full++; full > 2*r.maxFlows {
			t.Fatal("the table never fills")
		}
		r.send(insidePort, from{src: client, dst: server, sport: 2000, dport: port}.udp(t))
		r.send(outsidePort, from{src: server, dst: external, sport: port, dport: 2000}.udp(t))
	}
	r.ports[insidePort].sent() // the errors about what was refused
	r.ports[outsidePort].sent()
	r.send(insidePort, from{src: client2, dst: server, sport: 3000, dport: 53}.udp(t))
	r.none(verdict.FlowTableFull)
	if n := r.table.Count(); r.worker.counters.EarlyDrops != 0 || n.Flows != n.FlowCapacity || n.Mappings != 1 || n.Sources != 1 {
		t.Errorf("%d of %d flows, %d mappings, %d sources: a refused flow left its own", n.Flows, n.FlowCapacity, n.Mappings, n.Sources)
	}
	r.send(insidePort, first)
	r.one(outsidePort)
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 2000}.udp(t))
	r.one(insidePort)
}

func TestPortsExhausted(t *testing.T) {
	r := newRig(t, func(_ *rig, s *Snapshot) { s.Ports = nat.PortRange{Low: 5000, High: 5003} })
	seen := map[layers.UDPPort]bool{}
	for i := range uint16(4) {
		r.send(insidePort, from{src: client, dst: server, sport: 9000 + i, dport: 53}.udp(t))
		seen[r.one(outsidePort).udp.SrcPort] = true
	}
	if len(seen) != 4 {
		t.Errorf("ports %v", seen)
	}
	r.send(insidePort, from{src: client, dst: server, sport: 9004, dport: 53}.udp(t))
	r.none(verdict.PortsExhausted)
}
