package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
)

// The hosts that the control flows of the mutation test run between: no valid
// frame of the test's comes from them or goes to them.
var (
	neighbour = ip("10.0.0.30")
	witness   = ip("198.51.100.200")
)

// everything makes the rig's world one that has all there is: services in both
// modes, forwards, a one-to-one address, masquerading and exclusions.
func everything(t testing.TB) rigOption {
	return func(r *rig, s *Snapshot) {
		r.maxFlows = 4096
		for _, b := range []uint32{backends[0], backends[1], neighbour} {
			r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: b, State: fib.Resolved, MAC: backendMAC})
		}
		s.Routes = r.builder.Build()
		s.Static = someForwards()
		s.Balance.Sources = [MaxPorts]*conntrack.External{insidePort: conntrack.NewExternal(gatewayInside, nil), outsidePort: r.ext}
		s.Balance.Strips, s.MSS = true, MSSAuto
		s.Balance.Announced = []uint32{vip, vip2}
		var list []dsr.ServiceConfig
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
			web := dsr.ServiceConfig{Name: "web", VIP: vip, Port: servedPort, Proto: proto, Mode: dsr.SNAT, Reject: true, Reset: true}
			for _, b := range backends {
				web.Backends = append(web.Backends, dsr.BackendConfig{Address: b, Port: backendPort, Weight: 1, Agent: true})
			}
			direct, ranged := web, web
			direct.Name, direct.VIP, direct.Mode = "direct", vip2, dsr.DSR
			ranged.Name, ranged.Port, ranged.Sources = "ranged", servedPort+1, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			list = append(list, web, direct, ranged)
		}
		ids := dsr.NewIds()
		table, err := dsr.New(list, ids, nil, dsr.NewAffinity(64, 1))
		if err != nil {
			t.Fatal(err)
		}
		s.Balance.Table, s.Balance.Backends = table, ids.Backends()+1
	}
}

// everythingPair are two workers of such a gateway.
func everythingPair(t testing.TB) [2]*rig {
	w := pair(t, everything(t))
	for _, x := range []*conntrack.External{w[0].pointer.Load().Balance.Sources[insidePort], conntrack.NewExternal(pooled, nil)} {
		if err := w[0].table.AddExternal(x); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// arriving is a frame and the port that it arrives on.
type arriving struct {
	on    fib.PortID
	frame []byte
}

// validFrames are packets of every kind there is, from both sides. Many answer
// each other.
func validFrames(t testing.TB) (all []arriving) {
	in := func(frames ...[]byte) {
		for _, f := range frames {
			all = append(all, arriving{insidePort, f})
		}
	}
	out := func(frames ...[]byte) {
		for _, f := range frames {
			all = append(all, arriving{outsidePort, f})
		}
	}
	const synAck = packet.TCPSyn | packet.TCPAck
	flags := []uint8{packet.TCPSyn, synAck, packet.TCPAck, packet.TCPAck | packet.TCPPsh, packet.TCPFin | packet.TCPAck, packet.TCPRst, packet.TCPRst | packet.TCPAck}
	mss := []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{0xff, 0xff}}, {OptionType: layers.TCPOptionKindNop},
		{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}},
	}
	call := from{src: client, dst: server, sport: 5000, dport: 443, payload: "data"}
	back := from{src: server, dst: external, sport: 443, dport: 5000, payload: "more data"}
	for _, f := range flags {
		in(call.tcp(t, f), from{src: client, dst: vip, sport: 5000, dport: servedPort}.tcp(t, f), from{src: client2, dst: pooled, sport: 9, dport: 7}.tcp(t, f))
		in(from{src: backends[0], dst: gatewayInside, sport: backendPort, dport: 5000}.tcp(t, f), from{src: vip2, dst: server, sport: servedPort, dport: 5000}.tcp(t, f))
		out(back.tcp(t, f), from{src: server, dst: external, sport: 7000, dport: 80}.tcp(t, f), from{src: server, dst: pooled, sport: 7000, dport: 22}.tcp(t, f))
		out(from{src: server, dst: vip, sport: 5000, dport: servedPort}.tcp(t, f), from{src: server, dst: vip2, sport: 5000, dport: servedPort}.tcp(t, f))
	}
	in(call.segment(t, packet.TCPSyn, clientISN, 0, mss...))
	out(back.segment(t, synAck, serverISN, clientISN+1, mss...))

	ask := from{src: client, dst: server, sport: 4000, dport: 53, payload: "what is the address of the host?"}
	told := from{src: server, dst: external, sport: 53, dport: 4000, payload: "this one"}
	long, big := ask, big(3000)
	long.payload = big
	unsummed := bytes.Clone(ask.udp(t))
	unsummed[40], unsummed[41] = 0, 0
	record := []layers.IPv4Option{{OptionType: 7, OptionLength: 11, OptionData: []byte{4, 0, 0, 0, 0, 0, 0, 0, 0}}}
	named := told
	named.options = []layers.IPv4Option{{OptionType: cilium[0], OptionLength: 8, OptionData: cilium[2:]}}
	recorded := ask
	recorded.options = record
	in(ask.udp(t), unsummed, recorded.udp(t), from{src: client, dst: excluded, sport: 4000, dport: 53}.udp(t), from{src: client2, dst: external, sport: 6000, dport: 4000}.udp(t))
	in(from{src: client2, dst: external, sport: 6000, dport: 1001}.udp(t), from{src: client, dst: vip2, sport: 4000, dport: servedPort}.udp(t), from{src: client, dst: silent, sport: 1, dport: 2}.udp(t))
	out(told.udp(t), named.udp(t), from{src: server, dst: external, sport: 53, dport: 1002}.udp(t), from{src: server, dst: vip2, sport: 4000, dport: servedPort}.udp(t))
	out(from{src: excluded, dst: client, sport: 53, dport: 4000}.udp(t), from{src: server, dst: vip, sport: 4000, dport: servedPort + 1}.udp(t))
	in(long.udpPieces(t, 77, 1400)...)
	answered := told
	answered.payload = big
	out(answered.udpPieces(t, 78, 1400)...)

	in(from{src: client, dst: server, payload: "ping"}.echo(t, packet.ICMPEchoRequest, 321), from{src: client, dst: server}.echo(t, 13, 1))
	out(from{src: server, dst: external, payload: "ping"}.echo(t, packet.ICMPEchoReply, 321), from{src: server, dst: pooled}.echo(t, packet.ICMPEchoRequest, 4))
	for _, kind := range [][2]uint8{{3, 4}, {3, 3}, {11, 0}, {12, 0}, {4, 0}, {5, 1}} {
		mine, theirs := from{src: external, dst: server, sport: 4000, dport: 53, payload: "quoted"}, from{src: server, dst: client, sport: 53, dport: 4000, payload: "quoted"}
		out(from{src: router, dst: external}.quote(t, kind[0], kind[1], mine.udp(t), 60), from{src: router, dst: external}.quote(t, kind[0], kind[1],
			from{src: external, dst: server, sport: 5000, dport: 443}.tcp(t, packet.TCPAck), 28))
		in(from{src: client, dst: server}.quote(t, kind[0], kind[1], theirs.udp(t), 60))
	}
	for _, proto := range []uint8{packet.ProtoGRE, packet.ProtoESP, packet.ProtoAH, packet.ProtoSCTP, packet.ProtoDCCP, packet.ProtoUDPLite, 4} {
		in(from{src: client, dst: server}.pseudoSummed(t, proto, 8, 0))
		out(from{src: server, dst: external}.pseudoSummed(t, proto, 8, 0), from{src: server, dst: pooled}.pseudoSummed(t, proto, 8, 0))
	}
	arp := make([]byte, 60)
	copy(arp, "\xff\xff\xff\xff\xff\xff\x02\x09\x09\x09\x09\x09\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02\x09\x09\x09\x09\x09")
	binary.BigEndian.PutUint32(arp[28:], router)
	binary.BigEndian.PutUint32(arp[38:], pooled)
	out(arp)
	return all
}
