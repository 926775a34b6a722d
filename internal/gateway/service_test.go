package gateway

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// The world of the services: clients outside behind the router and inside on the
// link, two backends inside on the link, and two behind a router outside.
var (
	vip         = ip("172.18.0.2")
	vip2        = ip("172.18.0.3")
	backends    = [2]uint32{ip("10.0.0.21"), ip("10.0.0.22")}
	farBackends = [2]uint32{ip("203.0.113.21"), ip("203.0.113.22")}
	backendMAC  = [6]byte{2, 0, 0, 0, 0, 21}
)

const (
	servedPort  = 32000
	backendPort = 8080
)

// cilium is the option that names 172.18.0.2:32000, as Cilium writes it.
var cilium = []byte{0x9a, 0x08, 0x00, 0x7d, 0x02, 0x00, 0x12, 0xac}

// served is a rig with the service 172.18.0.2:32000 over TCP and UDP.
type served struct {
	*rig
	spec serviceSpec
}

// serviceSpec is what a test asks of the service.
type serviceSpec struct {
	mode       dsr.Mode
	backends   []uint32
	noAgent    bool
	drop       bool // no-backend: drop, dead-backend: drop
	state      [2]dsr.State
	sources    []netip.Prefix
	masquerade bool
	algorithm  dsr.Algorithm
	affinity   conntrack.Tick
	dispatch   dsr.Dispatch
	ids        *dsr.Ids // for all states of the service
	kept       *dsr.Affinity
	removed    bool // there is no service
}

func newServed(t testing.TB, spec serviceSpec, options ...rigOption) *served {
	t.Helper()
	v := &served{spec: spec}
	v.rig = newRig(t, append([]rigOption{func(r *rig, s *Snapshot) {
		for _, b := range backends {
			r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: b, State: fib.Resolved, MAC: backendMAC})
		}
		s.Routes = r.builder.Build()
		inside := conntrack.NewExternal(gatewayInside, nil)
		s.Balance.Sources = [MaxPorts]*conntrack.External{insidePort: inside, outsidePort: r.ext}
		s.Balance.Strips = true
		s.Balance.Announced = []uint32{vip, vip2}
		if !spec.masquerade {
			s.Policy, s.Pools[outsidePort] = nat.NewPolicy(nat.PolicyConfig{Sources: anyPolicyLines}), nil
		}
		v.spec.into(t, s)
	}}, options...)...)
	for _, x := range v.pointer.Load().Balance.Sources {
		if x != nil && x != v.ext {
			if err := v.table.AddExternal(x); err != nil {
				t.Fatal(err)
			}
		}
	}
	v.settle()
	return v
}

// settle lets what the start announces leave.
func (v *served) settle() {
	for range announceTimes {
		v.now += announceEvery
		v.step()
	}
	v.ports[insidePort].sent()
	v.ports[outsidePort].sent()
}

// pass lets time pass, and what the gateway asks its neighbours meanwhile leave.
func (v *served) pass(ticks conntrack.Tick) {
	v.now += ticks
	v.step()
	v.ports[insidePort].sent()
	v.ports[outsidePort].sent()
}

// change publishes another state of the service.
func (v *served) change(edit func(*serviceSpec)) {
	v.t.Helper()
	edit(&v.spec)
	v.publish(func(s *Snapshot) { v.spec.into(v.t, s) })
	v.step()
}

// leg is a way that a packet takes through the gateway, for one protocol.
type leg struct {
	proto uint8
	from  from
	flags uint8
}

func (l leg) frame(t testing.TB) []byte {
	if l.proto == packet.ProtoUDP {
		return l.from.udp(t)
	}
	return l.from.tcp(t, l.flags)
}

func ports(v view) (src, dst uint16) {
	if v.udp != nil {
		return uint16(v.udp.SrcPort), uint16(v.udp.DstPort)
	}
	return uint16(v.tcp.SrcPort), uint16(v.tcp.DstPort)
}

func endpoints(v view) string {
	s, d := ports(v)
	return fmt.Sprintf("%v:%d > %v:%d", v.ip.SrcIP, s, v.ip.DstIP, d)
}

func isBackend(addr uint32, list []uint32) bool { return addr == list[0] || addr == list[1] }

// TestServiceCrossProduct: masquerade on and off × mode × protocol × where client
// and backends are. In each, a connection to the service and one that is
// masqueraded work at the same time, the backend sees the address that the return
// path asks for, and the client never sees the backend. Masquerading that depended
// on the mode was Cilium 1.8.1's fault.
func TestServiceCrossProduct(t *testing.T) {
	for _, masquerade := range []bool{false, true} {
		for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
			for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
				for _, inside := range []bool{false, true} {
					for _, far := range []bool{false, true} {
						name := fmt.Sprintf("masquerade %v, mode %v, protocol %d, client inside %v, backends outside %v", masquerade, mode, proto, inside, far)
						t.Run(name, func(t *testing.T) { crossed(t, masquerade, mode, proto, inside, far) })
					}
				}
			}
		}
	}
}

func crossed(t *testing.T, masquerade bool, mode dsr.Mode, proto uint8, inside, far bool) {
	list, clientAddr, in, out := backends[:], server, outsidePort, insidePort
	if inside {
		clientAddr, in = client, insidePort
	}
	if far {
		list, out = farBackends[:], outsidePort
	}
	v := newServed(t, serviceSpec{mode: mode, backends: list, masquerade: masquerade})
	agent := mode == dsr.DSR
	if inside && (!far || masquerade) {
		agent = false // on one segment, or hidden from the outside
	}
	call := leg{proto: proto, from: from{src: clientAddr, dst: vip, sport: 40000, dport: servedPort, payload: "hello"}, flags: packet.TCPSyn}
	v.send(in, call.frame(t))
	got := v.one(out)
	sport, dport := ports(got)
	if !isBackend(got.packet.Dst, list) || dport != backendPort || got.ip.TTL != 63 {
		t.Fatalf("left as %s, TTL %d", endpoints(got), got.ip.TTL)
	}
	if agent {
		if got.packet.Src != clientAddr || sport != 40000 || !bytes.Equal(got.raw[34:42], cilium) {
			t.Fatalf("left as %s with options %x", endpoints(got), got.ip.Options)
		}
	} else {
		want := gatewayInside
		if far {
			want = external
		}
		if got.packet.Src != want || len(got.ip.Options) != 0 {
			t.Fatalf("left as %s with options %v, want it from %v", endpoints(got), got.ip.Options, fib.Addr(want))
		}
	}
	v.answered(t, got, agent, in, out, clientAddr, proto)
	v.masquerades(t, masquerade)
}

// answered lets the backend answer, through the gateway or past it, and the client
// go on.
func (v *served) answered(t *testing.T, got view, agent bool, in, out fib.PortID, clientAddr uint32, proto uint8) {
	t.Helper()
	sport, dport := ports(got)
	back := leg{proto: proto, from: from{src: got.packet.Dst, dst: got.packet.Src, sport: dport, dport: sport, payload: "there"}, flags: packet.TCPSyn | packet.TCPAck}
	if agent {
		back.from.src, back.from.sport = vip, servedPort
	}
	if !agent || out == insidePort { // outside, it need not come by
		v.send(out, back.frame(t))
		if a := v.one(in); endpoints(a) != fmt.Sprintf("172.18.0.2:%d > %v:40000", servedPort, fib.Addr(clientAddr)) || a.ip.TTL != 63 {
			t.Fatalf("the answer left as %s, TTL %d", endpoints(a), a.ip.TTL)
		}
	}
	next := leg{proto: proto, from: from{src: clientAddr, dst: vip, sport: 40000, dport: servedPort, payload: "more"}, flags: packet.TCPAck}
	v.send(in, next.frame(t))
	more := v.one(out)
	if endpoints(more) != endpoints(got) {
		t.Fatalf("went on as %s, after %s", endpoints(more), endpoints(got))
	}
	if option := len(more.ip.Options) > 0; option != (agent && proto == packet.ProtoUDP) {
		t.Fatalf("the next packet has the option: %v", option)
	}
}

// masquerades checks that the inside is masqueraded as configured beside it.
func (v *served) masquerades(t *testing.T, on bool) {
	t.Helper()
	v.send(insidePort, from{src: client2, dst: server, sport: 40000, dport: 53}.udp(t))
	got := v.one(outsidePort)
	want := client2
	if on {
		want = external
	}
	if got.packet.Src != want {
		t.Fatalf("an inside host's packet left as %s; masquerade %v", endpoints(got), on)
	}
	if on {
		s, _ := ports(got)
		v.send(outsidePort, from{src: server, dst: external, sport: 53, dport: s}.udp(t))
		if a := v.one(insidePort); a.packet.Dst != client2 {
			t.Fatalf("the answer left as %s", endpoints(a))
		}
	}
}

// TestServiceRefusals: what a service does not do, and what the client is told.
func TestServiceRefusals(t *testing.T) {
	call := from{src: server, dst: vip, sport: 40000, dport: servedPort}
	both := []uint32{backends[0], backends[1]}
	dead := [2]dsr.State{dsr.Dead, dsr.Dead}
	for _, c := range []struct {
		name  string
		spec  serviceSpec
		frame []byte
		want  verdict.Reason
		told  string // what the client gets
	}{
		{"unknown port", serviceSpec{backends: both}, from{src: server, dst: vip, sport: 1, dport: 9}.tcp(t, packet.TCPSyn), verdict.NoService, "3/3"},
		{"other protocol", serviceSpec{backends: both}, call.echo(t, 13, 5), verdict.NoService, ""},
		{"no backend", serviceSpec{backends: both, state: dead}, call.tcp(t, packet.TCPSyn), verdict.NoBackend, "3/3"},
		{"no backend, drop", serviceSpec{backends: both, state: dead, drop: true}, call.tcp(t, packet.TCPSyn), verdict.NoBackend, ""},
		{"draining takes nothing new", serviceSpec{backends: both, state: [2]dsr.State{dsr.Draining, dsr.Draining}}, call.udp(t), verdict.NoBackend, "3/3"},
		{"client not allowed", serviceSpec{backends: both, sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, call.udp(t), verdict.SourceRange, ""},
		{"spoofed inside source", serviceSpec{backends: both}, from{src: client, dst: vip, sport: 1, dport: servedPort}.udp(t), verdict.SpoofedSource, ""},
		{"the service's own address", serviceSpec{backends: both}, from{src: vip2, dst: vip, sport: 1, dport: servedPort}.udp(t), verdict.OwnSource, ""},
		{"segment without a connection", serviceSpec{backends: both}, call.tcp(t, packet.TCPAck), verdict.TCPWithoutFlow, "rst"},
		{"the same, drop", serviceSpec{backends: both, drop: true}, call.tcp(t, packet.TCPAck), verdict.TCPWithoutFlow, ""},
		{"reset without a connection", serviceSpec{backends: both}, call.tcp(t, packet.TCPRst), verdict.TCPWithoutFlow, ""},
		{"time to live", serviceSpec{backends: both}, from{src: server, dst: vip, sport: 1, dport: servedPort, ttl: 1}.udp(t), verdict.TTLExpired, "11/0"},
		{"backend on the host", serviceSpec{backends: []uint32{gatewayInside, gatewayInside}}, call.udp(t), verdict.BackendUnroutable, "3/1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newServed(t, c.spec)
			v.send(outsidePort, c.frame)
			if v.drops(c.want) != 1 {
				t.Fatalf("want %v, drops %v", c.want, v.allDrops())
			}
			told := ""
			for _, f := range v.ports[outsidePort].sent() {
				a := decode(t, f)
				if a.packet.Src != vip || a.packet.Dst != server {
					t.Errorf("the answer is %v > %v", a.ip.SrcIP, a.ip.DstIP)
				}
				switch {
				case a.icmp != nil:
					told = fmt.Sprintf("%d/%d", a.icmp.TypeCode.Type(), a.icmp.TypeCode.Code())
				case a.tcp != nil && a.tcp.RST && a.tcp.Seq == decode(t, c.frame).tcp.Ack:
					told = "rst"
				}
			}
			if told != c.told {
				t.Errorf("told %q, want %q", told, c.told)
			}
			if n := len(v.ports[insidePort].sent()); n != 0 {
				t.Errorf("%d frames left inside", n)
			}
		})
	}
}

// TestServicePing: a service's address answers pings, and only those.
func TestServicePing(t *testing.T) {
	v := newServed(t, serviceSpec{backends: backends[:]})
	v.send(outsidePort, from{src: server, dst: vip, payload: "12345678", ttl: 1}.echo(t, 8, 77))
	a := v.one(outsidePort)
	if a.icmp == nil || a.icmp.TypeCode.Type() != 0 || a.icmp.Id != 77 || a.packet.Src != vip || a.packet.Dst != server || a.ip.TTL != 64 || string(a.icmp.Payload) != "12345678" {
		t.Fatalf("%v", a.raw)
	}
	for range 200 {
		v.send(outsidePort, from{src: server, dst: vip}.echo(t, 8, 77))
	}
	if n := len(v.ports[outsidePort].sent()); n != errorsPeerBurst-1 {
		t.Errorf("%d answers to a flood, want %d", n, errorsPeerBurst-1)
	}
}
