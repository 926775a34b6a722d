package gateway

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// The words of the configuration, by which a test's client judges what it finds.
var (
	mappingWords   = map[nat.MappingBehaviour]string{}
	filteringWords = map[nat.FilteringBehaviour]string{}
)

func init() {
	for _, word := range []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"} {
		b := nat.ConfiguredBehaviour(word, word, false)
		mappingWords[b.Mapping], filteringWords[b.Filtering] = word, word
	}
}

func behaving(b nat.Behaviour) rigOption {
	return func(_ *rig, s *Snapshot) { s.Behaviour = b }
}

// classified is what RFC 5780's tests say of the gateway, by a client that knows
// nothing but what it sends and sees: 4.3 for the mapping, 4.4 for the filtering.
func (r *rig) classified(sport uint16) (mapping, filtering string) {
	r.t.Helper()
	const port, other = 3478, 3479
	second := server + 1
	mapped := func(dst uint32, dport uint16) layers.UDPPort {
		r.send(insidePort, from{src: client, dst: dst, sport: sport, dport: dport}.udp(r.t))
		return r.one(outsidePort).udp.SrcPort
	}
	first := mapped(server, port)
	reaches := func(src uint32, sport uint16) bool {
		r.send(outsidePort, from{src: src, dst: external, sport: sport, dport: uint16(first)}.udp(r.t))
		return len(r.ports[insidePort].sent()) == 1
	}
	switch {
	case !reaches(server, port):
		r.t.Fatal("the answer of the server itself did not arrive")
	case reaches(second, other):
		filtering = "endpoint-independent"
	case reaches(server, other):
		filtering = "address-dependent"
	default:
		filtering = "address-and-port-dependent"
	}
	// Mapping: from another socket, since the answers above made flows.
	sport++
	first = mapped(server, port)
	switch {
	case mapped(second, port) == first:
		mapping = "endpoint-independent"
	case mapped(server, other) == first:
		mapping = "address-dependent"
	default:
		mapping = "address-and-port-dependent"
	}
	return mapping, filtering
}

// TestBehaviours classifies the gateway in each of the nine ways that it can be
// set to (RFC 4787 REQ-1, REQ-8, REQ-11): every socket finds the same, the port
// taken or not.
func TestBehaviours(t *testing.T) {
	for m, mapping := range mappingWords {
		for f, filtering := range filteringWords {
			t.Run(mapping+" mapping, "+filtering+" filtering", func(t *testing.T) {
				r := newRig(t, behaving(nat.Behaviour{Mapping: m, Filtering: f}))
				r.send(insidePort, from{src: client2, dst: server, sport: 6000, dport: 3478}.udp(t)) // takes a port
				r.one(outsidePort)
				for _, sport := range []uint16{5000, 6000, 7000, 80} {
					gotM, gotF := r.classified(sport)
					if gotM != mapping || gotF != filtering {
						t.Errorf("port %d: classified as %s mapping, %s filtering", sport, gotM, gotF)
					}
				}
				t.Logf("RFC 5780: %s mapping, %s filtering", mapping, filtering)
				if err := r.table.Verify(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestInboundFlow: what filtering lets in begins a flow as if the inside endpoint
// had begun it, for UDP and TCP; an opening is asked for, and an echo reply opens
// nothing.
func TestInboundFlow(t *testing.T) {
	r := newRig(t, behaving(nat.Behaviour{Filtering: nat.FilterEndpoint}))
	stranger := server + 7
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t), from{src: client, dst: server, sport: 4000, dport: 80}.tcp(t, packet.TCPSyn))
	r.ports[outsidePort].sent()
	r.send(outsidePort, from{src: stranger, dst: external, sport: 9, dport: 4000, payload: "hello"}.udp(t))
	if v := r.one(insidePort); src(v) != fmtIP(stranger) || dst(v) != fmtIP(client) || v.udp.DstPort != 4000 {
		t.Errorf("arrived from %v at %v:%d", src(v), dst(v), v.udp.DstPort)
	}
	flow, dir := r.worker.flows.Find(conntrack.Tuple{Src: stranger, Dst: external, SrcPort: 9, DstPort: 4000, Proto: packet.ProtoUDP}, r.now)
	if flow == nil || dir != conntrack.Reply || flow.Tuple(conntrack.Original).Src != client || flow.State() != conntrack.UDPUnreplied {
		t.Fatalf("flow %+v, direction %v", flow, dir)
	}
	r.send(insidePort, from{src: client, dst: stranger, sport: 4000, dport: 9}.udp(t))
	if v := r.one(outsidePort); src(v) != fmtIP(external) || v.udp.SrcPort != 4000 || flow.State() != conntrack.UDPReplied {
		t.Errorf("the answer left from %v:%d; state %v", src(v), v.udp.SrcPort, flow.State())
	}
	syn := from{src: stranger, dst: external, sport: 9, dport: 4000}
	r.send(outsidePort, syn.tcp(t, packet.TCPAck))
	r.none(verdict.TCPWithoutFlow)
	r.send(outsidePort, syn.tcp(t, packet.TCPSyn))
	r.one(insidePort)
	r.send(insidePort, from{src: client, dst: stranger, sport: 4000, dport: 9}.tcp(t, packet.TCPSyn|packet.TCPAck))
	r.one(outsidePort)
	r.send(outsidePort, syn.tcp(t, packet.TCPAck))
	r.one(insidePort)
	if flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: stranger, Dst: external, SrcPort: 9, DstPort: 4000, Proto: packet.ProtoTCP}, r.now); flow == nil || flow.State() != conntrack.TCPEstablished {
		t.Errorf("the connection from outside is not established: %+v", flow)
	}
	r.send(insidePort, from{src: client, dst: server}.echo(t, packet.ICMPEchoRequest, 77))
	r.one(outsidePort)
	r.send(outsidePort, from{src: stranger, dst: external}.echo(t, packet.ICMPEchoReply, 77))
	r.none(verdict.ReplyWithoutFlow)
	if err := r.table.Verify(); err != nil {
		t.Error(err)
	}
}

func fmtIP(addr uint32) string {
	return netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}).String()
}

// TestHairpinWhateverFiltering: RFC 4787 REQ-9.
func TestHairpinWhateverFiltering(t *testing.T) {
	for f, word := range filteringWords {
		for m := range mappingWords {
			r := newRig(t, behaving(nat.Behaviour{Mapping: m, Filtering: f}))
			r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t))
			at := uint16(r.one(outsidePort).udp.SrcPort)
			r.send(insidePort, from{src: client, dst: external, sport: 5000, dport: at}.udp(t))
			v := r.one(insidePort)
			if src(v) != fmtIP(external) || dst(v) != fmtIP(client2) || v.udp.DstPort != 4000 {
				t.Fatalf("%s: from %v to %v:%d", word, src(v), dst(v), v.udp.DstPort)
			}
			r.send(insidePort, from{src: client2, dst: external, sport: 4000, dport: uint16(v.udp.SrcPort)}.udp(t))
			if v := r.one(insidePort); src(v) != fmtIP(external) || dst(v) != fmtIP(client) || v.udp.DstPort != 5000 {
				t.Errorf("%s: the answer came from %v to %v:%d", word, src(v), dst(v), v.udp.DstPort)
			}
			if err := r.table.Verify(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestOverload: with no port left, one serves two endpoints towards different
// destinations, and each gets its own answers; towards the same destination it
// does not, and without the option no new endpoint gets anything.
func TestOverload(t *testing.T) {
	for f, word := range filteringWords {
		t.Run(word, func(t *testing.T) {
			r := newRig(t, behaving(nat.Behaviour{Filtering: f, Overload: true}), func(_ *rig, s *Snapshot) { s.Ports = nat.PortRange{Low: 5000, High: 5000} })
			r.send(insidePort, from{src: client, dst: server, sport: 9000, dport: 53}.udp(t))
			r.one(outsidePort)
			r.send(insidePort, from{src: client2, dst: server + 1, sport: 9000, dport: 53}.udp(t))
			if v := r.one(outsidePort); v.udp.SrcPort != 5000 {
				t.Fatalf("left from port %d", v.udp.SrcPort)
			}
			for host, peer := range map[uint32]uint32{client: server, client2: server + 1} {
				r.send(outsidePort, from{src: peer, dst: external, sport: 53, dport: 5000}.udp(t))
				if v := r.one(insidePort); dst(v) != fmtIP(host) {
					t.Errorf("the answer to %s went to %s", fmtIP(host), dst(v))
				}
			}
			r.send(insidePort, from{src: client2, dst: server, sport: 9001, dport: 53}.udp(t))
			r.none(verdict.PortsExhausted)
			if use := r.ext.Use(packet.ProtoUDP); use.Mapped != 1 || use.Refused != 1 {
				t.Errorf("use %+v", use)
			}
			if err := r.table.Verify(); err != nil {
				t.Error(err)
			}
			// The one that had the port first ends; it stays held for the other.
			flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: client, Dst: server, SrcPort: 9000, DstPort: 53, Proto: packet.ProtoUDP}, r.now)
			r.worker.flows.Retire(flow, verdict.Filtered)
			r.send(outsidePort, from{src: server + 1, dst: external, sport: 53, dport: 5000}.udp(t))
			r.one(insidePort)
			if !r.ext.Holds(packet.ProtoUDP, 5000) {
				t.Error("the port was let go while it was in use")
			}
			if err := r.table.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSourceLimitOfEveryKind: what is routed untranslated, and what is masqueraded by its
// address alone, counts as well as what has a mapping; what others begin towards the
// inside host does not.
func TestSourceLimitOfEveryKind(t *testing.T) {
	r := newRig(t)
	r.table.SetSourceLimit(3)
	gre := from{src: client, dst: server}
	r.send(insidePort, from{src: client, dst: excluded, sport: 4000, dport: 53}.udp(t))
	r.send(insidePort, gre.frame(t, gre.ipv4(layers.IPProtocolGRE), payload("greetings")))
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	if n := len(r.ports[outsidePort].sent()); n != 3 {
		t.Fatalf("%d packets left; drops %v", n, r.allDrops())
	}
	for i, frame := range [][]byte{
		from{src: client, dst: excluded, sport: 4001, dport: 53}.udp(t),
		from{src: client, dst: server, sport: 4001, dport: 53}.udp(t),
		from{src: client, dst: server + 1}.frame(t, from{src: client, dst: server + 1}.ipv4(layers.IPProtocolGRE), payload("more")),
	} {
		r.send(insidePort, frame)
		if n := r.drops(verdict.SourceLimit); n != uint64(i+1) || len(r.forwarded(outsidePort)) != 0 {
			t.Errorf("flow %d beyond the limit: drops %v", i, r.allDrops())
		}
	}
	// From the excluded network, towards the same host: not its own.
	r.send(outsidePort, from{src: excluded, dst: client, sport: 7000, dport: 22}.tcp(t, packet.TCPSyn))
	if n := len(r.forwarded(insidePort)); n != 1 {
		t.Errorf("%d packets from outside passed; drops %v", n, r.allDrops())
	}
	// What it has goes on, and what ends makes room.
	r.send(insidePort, from{src: client, dst: excluded, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: client, Dst: excluded, SrcPort: 4000, DstPort: 53, Proto: packet.ProtoUDP}, r.now)
	r.worker.flows.Retire(flow, verdict.FlowFlushed)
	r.send(insidePort, from{src: client, dst: server, sport: 4001, dport: 53}.udp(t))
	r.one(outsidePort)
	if err := r.table.Verify(); err != nil {
		t.Error(err)
	}
}

// TestSourceLimit: RFC 6888 REQ-4, REQ-5. A source at its limit gets no more, its
// flows go on, and others are not concerned.
func TestSourceLimit(t *testing.T) {
	r := newRig(t)
	r.table.SetSourceLimit(3)
	flow := func(host uint32, i uint16) []byte {
		return from{src: host, dst: server, sport: 4000 + i/2, dport: 53 + i%2}.udp(t)
	}
	for i := range uint16(3) {
		r.send(insidePort, flow(client, i))
		r.one(outsidePort)
	}
	ports := r.ext.Claimed()
	for i := range uint16(3) {
		r.send(insidePort, flow(client, 3+i)) // by a mapping that exists, then by new ones
	}
	if r.drops(verdict.SourceLimit) != 3 || len(r.ports[outsidePort].sent()) != 0 || r.ext.Claimed() != ports {
		t.Errorf("drops %v, %d ports, were %d", r.allDrops(), r.ext.Claimed(), ports)
	}
	r.ports[insidePort].sent() // the errors that say so
	r.send(insidePort, flow(client, 0), flow(client2, 0))
	if n := len(r.ports[outsidePort].sent()); n != 2 {
		t.Errorf("%d of a flow within the limit and one of another source left", n)
	}
	r.table.SetSourceLimit(0)
	r.send(insidePort, flow(client, 5))
	r.one(outsidePort)
	if err := r.table.Verify(); err != nil {
		t.Error(err)
	}
}

// TestPortShadow: CVE-2021-3773. An inside host that sends from the port of a
// service or of a socket of the host does not get that port outside, and so none
// of the packets that are meant for it.
func TestPortShadow(t *testing.T) {
	for _, by := range []conntrack.Reserver{conntrack.ByHost, conntrack.ByService} {
		r := newRig(t, behaving(nat.Behaviour{Filtering: nat.FilterEndpoint}))
		var ports [1024]uint64
		ports[8443/64] |= 1 << (8443 % 64)
		r.ext.Reserve(by, packet.ProtoTCP, &ports)
		r.ext.Reserve(by, packet.ProtoUDP, &ports)
		attack := from{src: client, dst: server, sport: 8443, dport: 53}
		r.send(insidePort, attack.udp(t), attack.tcp(t, packet.TCPSyn))
		for _, frame := range r.ports[outsidePort].sent() {
			var p packet.Packet
			if packet.Parse(frame, &p); p.SrcPort == 8443 {
				t.Errorf("protocol %d: the reserved port was given out", p.Proto)
			}
		}
		r.send(outsidePort, from{src: server + 3, dst: external, sport: 1, dport: 8443}.tcp(t, packet.TCPSyn))
		r.none(verdict.HostOwned)
	}
}
