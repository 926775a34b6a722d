package gateway

import (
	"bytes"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/dsr"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestDispatchTunnels: by the two tunnels the backend gets the client's packet, and
// what tells the service, in outer headers whose checksums are right.
func TestDispatchTunnels(t *testing.T) {
	for _, dispatch := range []dsr.Dispatch{dsr.IPIP, dsr.Geneve} {
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
			t.Run(dispatch.String(), func(t *testing.T) {
				v := newServed(t, serviceSpec{mode: dsr.DSR, backends: backends[:], dispatch: dispatch})
				call := leg{proto: proto, from: from{src: server, dst: vip, sport: 40000, dport: servedPort, payload: "hello"}, flags: packet.TCPSyn}
				v.send(outsidePort, call.frame(t))
				inner, told := tunnelled(t, v, dispatch)
				if !told {
					t.Error("the first packet does not tell the service")
				}
				want, dport := vip, uint16(servedPort)
				if dispatch == dsr.Geneve {
					want, dport = inner.Dst, backendPort
				}
				if inner.Src != server || inner.SrcPort != 40000 || inner.Dst != want || inner.DstPort != dport || inner.TTL != 64 {
					t.Errorf("inside is %+v", inner)
				}
				call.flags = packet.TCPAck
				v.send(outsidePort, call.frame(t))
				if _, told := tunnelled(t, v, dispatch); told != (dispatch == dsr.IPIP || proto == packet.ProtoUDP) {
					t.Errorf("the next packet tells the service: %v", told)
				}
			})
		}
	}
}

// tunnelled takes the one packet that left to a backend out of its tunnel.
func tunnelled(t *testing.T, v *served, dispatch dsr.Dispatch) (inner packet.Packet, told bool) {
	t.Helper()
	got := v.one(insidePort)
	if got.packet.Src != gatewayInside || !isBackend(got.packet.Dst, backends[:]) {
		t.Fatalf("left from %v to %v", got.ip.SrcIP, got.ip.DstIP)
	}
	frame := append(make([]byte, packet.EthernetLength), got.raw[got.packet.L4:]...)
	if told = true; dispatch == dsr.Geneve {
		p := gopacket.NewPacket(got.raw, layers.LayerTypeEthernet, gopacket.Default)
		g, _ := p.Layer(layers.LayerTypeGeneve).(*layers.Geneve)
		if g == nil || g.VNI != 2 {
			t.Fatalf("no Geneve of Cilium's: %v", p)
		}
		told = len(g.Options) == 1 && bytes.Equal(g.Options[0].Data, []byte{172, 18, 0, 2, 0x7d, 0, 0, 0})
		frame = g.Payload
	} else if got.ip.Protocol != layers.IPProtocolIPv4 || got.ip.TTL != 64 {
		t.Fatalf("protocol %v, TTL %d", got.ip.Protocol, got.ip.TTL)
	}
	frame[12], frame[13] = 0x08, 0x00
	if r := packet.Parse(frame, &inner); r != verdict.None {
		t.Fatalf("inside is %v", r)
	}
	decode(t, frame[:inner.End])
	return inner, told
}

// TestForeignOptions: an option that names a service is taken out of what comes from
// outside, wherever it stands and whatever it says, and out of what is for a service;
// the rest of the options, and what an inside server sends, stays.
func TestForeignOptions(t *testing.T) {
	forged := layers.IPv4Option{OptionType: 0x9a, OptionLength: 8, OptionData: []byte{1, 2, 3, 4, 5, 6}}
	alert := layers.IPv4Option{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}
	for _, c := range []struct {
		name    string
		in, out int
		from    from
		want    []uint8 // option types
	}{
		{"from outside", 1, 0, from{src: server, dst: ip("10.0.0.21"), sport: 1, dport: 2, options: []layers.IPv4Option{forged}}, nil},
		{"among others", 1, 0, from{src: server, dst: ip("10.0.0.21"), sport: 1, dport: 2, options: []layers.IPv4Option{alert, forged}}, []uint8{148}},
		{"twice", 1, 0, from{src: server, dst: ip("10.0.0.21"), sport: 1, dport: 2, options: []layers.IPv4Option{forged, alert, forged}}, []uint8{148}},
		{"to the service", 1, 0, from{src: server, dst: vip, sport: 1, dport: servedPort, options: []layers.IPv4Option{forged}}, []uint8{0x9a}},
		{"of the inside", 0, 1, from{src: client, dst: server, sport: 1, dport: 2, options: []layers.IPv4Option{forged}}, []uint8{0x9a}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newServed(t, serviceSpec{mode: dsr.DSR, backends: backends[:]})
			v.send(uint8(c.in), c.from.udp(t))
			got := v.one(uint8(c.out))
			var types []uint8
			for _, o := range got.ip.Options {
				if o.OptionType > 1 {
					types = append(types, o.OptionType)
				}
			}
			if !bytes.Equal(types, c.want) {
				t.Errorf("options %v, want %v", types, c.want)
			}
			if c.from.dst == vip && !bytes.Equal(got.raw[34:42], cilium) {
				t.Errorf("the option is %x", got.raw[34:42])
			}
		})
	}
}

// TestFullHeader: a packet whose header has no room for the option begins a flow by
// the gateway instead, and is counted.
func TestFullHeader(t *testing.T) {
	v := newServed(t, serviceSpec{mode: dsr.DSR, backends: backends[:]})
	var full []layers.IPv4Option
	for range 40 {
		full = append(full, layers.IPv4Option{OptionType: 1, OptionLength: 1})
	}
	v.send(outsidePort, from{src: server, dst: vip, sport: 1, dport: servedPort, options: full}.udp(t))
	if got := v.one(insidePort); got.packet.Src != gatewayInside {
		t.Errorf("left as %s", endpoints(got))
	}
	if n := v.worker.counters.Services.Returns[ReturnFullHeader]; n != 1 {
		t.Errorf("counted %d times", n)
	}
}

// TestAffinity: a client keeps its backend over its connections, and loses it when
// that takes no new ones.
func TestAffinity(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:], algorithm: dsr.RoundRobin, affinity: 6000})
	open := func(port uint16) uint32 {
		v.send(outsidePort, from{src: server, dst: vip, sport: port, dport: servedPort}.tcp(t, packet.TCPSyn))
		return v.one(insidePort).packet.Dst
	}
	first := open(1000)
	for port := uint16(1001); port < 1010; port++ {
		if got := open(port); got != first {
			t.Fatalf("port %d went to another backend", port)
		}
	}
	v.change(func(s *serviceSpec) { s.state = except(first, dsr.Draining) })
	if got := open(1010); got == first {
		t.Error("a drained backend got a new connection")
	}
}

// TestAffinityLasts from a client's last packet, and not from its last connection.
func TestAffinityLasts(t *testing.T) {
	for _, talks := range []bool{true, false} {
		v := newServed(t, serviceSpec{backends: backends[:], algorithm: dsr.RoundRobin, affinity: 600})
		open := func(port uint16) uint32 {
			v.send(outsidePort, from{src: server, dst: vip, sport: port, dport: servedPort}.udp(t))
			return v.one(insidePort).packet.Dst
		}
		first := open(1000)
		for range 3 {
			if v.pass(500); talks {
				open(1000)
			}
		}
		if got := open(1001); (got == first) != talks {
			t.Errorf("a client that went on talking (%v) kept its backend (%v)", talks, got == first)
		}
	}
}

// TestServiceAllocations: forwarding, beginning, moving and refusing allocate
// nothing.
func TestServiceAllocations(t *testing.T) {
	for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
		v := newServed(t, serviceSpec{mode: mode, backends: backends[:], affinity: 600})
		c := from{src: server, dst: vip, sport: 40000, dport: servedPort, payload: "data"}
		v.send(outsidePort, c.tcp(t, packet.TCPSyn))
		v.send(outsidePort, c.udp(t))
		fresh, known, other := c, c, c
		fresh.sport, other.dport = 1, 9
		frames := [][]byte{known.tcp(t, packet.TCPAck), known.udp(t), fresh.udp(t), other.udp(t), c.echo(t, 8, 3)}
		v.ports[insidePort].tx, v.ports[outsidePort].tx = nil, nil
		memory := forgetful{v.memory}
		v.worker.memory = memory
		port := &repeater{memory: v.memory, frames: frames}
		v.worker.ports = []Port{v.ports[insidePort], port}
		v.worker.ports[insidePort] = &repeater{memory: v.memory}
		if n := testing.AllocsPerRun(100, func() { v.worker.Step(v.now); v.now++ }); n != 0 {
			t.Errorf("mode %v: %v allocations a burst", mode, n)
		}
		if c := &v.worker.counters; c.Drops[verdict.NoService] == 0 || c.EchoReplies == 0 || v.table.Count().Flows < 100 {
			t.Errorf("mode %v: the bursts did not what they were for: %+v", mode, v.allDrops())
		}
	}
}

// repeater is a port that receives the same frames again and again, the third of
// them each time from another port, and forgets what it is to send.
type repeater struct {
	memory *memory
	frames [][]byte
	sent   uint16
}

func (r *repeater) Receive(descs []xdpDesc) int {
	for i, f := range r.frames {
		b := r.memory.bytes[i*chunk+headroom:]
		n := copy(b, f)
		if i == 2 {
			r.sent++
			b[34], b[35], b[40], b[41] = byte(r.sent>>8), byte(r.sent), 0, 0
		}
		descs[i] = xdpDesc{Addr: uint64(i*chunk + headroom), Len: uint32(n)}
	}
	return len(r.frames)
}

func (r *repeater) Transmit(descs []xdpDesc) int { return len(descs) }
func (r *repeater) Flush()                       {}
func (r *repeater) SetUp(bool)                   {}
func (r *repeater) Up() bool                     { return true }
func (r *repeater) Wasted() uint64               { return 0 }
