package gateway

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// stream is a flow whose datagrams come in fragments, and what they are to become.
type stream struct {
	in, out      fib.PortID
	f            from
	proto        uint8
	src, dst     uint32
	sport, dport uint16
}

// streams opens flows of all protocols, both ways and hairpinned.
func streams(r *rig) (all []stream) {
	t := r.t
	udp := from{src: client, dst: server, sport: 4000, dport: 53}
	tcp := from{src: client2, dst: server, sport: 5000, dport: 80}
	ping := from{src: client, dst: server, sport: 77}
	r.send(insidePort, udp.udp(t), tcp.tcp(t, packet.TCPSyn), ping.echo(t, packet.ICMPEchoRequest, 77))
	for _, frame := range r.ports[outsidePort].sent() {
		var p packet.Packet
		packet.Parse(frame, &p)
		f := map[uint8]from{packet.ProtoUDP: udp, packet.ProtoTCP: tcp, packet.ProtoICMP: ping}[p.Proto]
		all = append(all,
			stream{insidePort, outsidePort, f, p.Proto, external, f.dst, p.SrcPort, f.dport},
			stream{outsidePort, insidePort, from{src: f.dst, dst: external, sport: f.dport, dport: p.SrcPort}, p.Proto, f.dst, f.src, f.dport, f.sport})
	}
	if len(all) != 6 {
		t.Fatalf("%d streams; drops %v", len(all), r.allDrops())
	}
	// Between inside hosts, by the external address that the first one's mapping has.
	out := from{src: client2, dst: external, sport: 6000, dport: all[0].sport}
	for _, s := range all {
		if s.proto == packet.ProtoUDP && s.in == insidePort {
			out.dport = s.sport
		}
	}
	r.send(insidePort, out.udp(t))
	v := r.one(insidePort).packet
	return append(all, stream{insidePort, insidePort, out, packet.ProtoUDP, external, client, v.SrcPort, 4000})
}

// datagram builds one of n bytes in fragments.
func (s *stream) datagram(t testing.TB, id uint16, n, size int) [][]byte {
	f := s.f
	f.payload = big(n)
	switch s.proto {
	case packet.ProtoUDP:
		return pieces(f.udp(t), id, size)
	case packet.ProtoTCP:
		return pieces(f.tcp(t, packet.TCPAck), id, size)
	}
	if s.in == insidePort {
		return pieces(f.echo(t, packet.ICMPEchoRequest, f.sport), id, size)
	}
	return pieces(f.echo(t, packet.ICMPEchoReply, f.dport), id, size)
}

// TestFragmentsTranslated: REQ-14: datagrams of all kinds, their fragments in any
// order, interleaved, some of them twice, at either of two workers, are received as
// the translated whole ones, which the slow model says byte by byte.
func TestFragmentsTranslated(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := pair(t)
		all := streams(w[0])
		type arrival struct {
			in    fib.PortID
			frame []byte
			times int
		}
		var arrivals []arrival
		wanted, arrived := map[string]stream{}, map[string]bool{}
		for id := range rapid.IntRange(1, 6).Draw(rt, "datagrams") {
			s := rapid.SampledFrom(all).Draw(rt, "stream")
			n := rapid.IntRange(64, 4000).Draw(rt, "bytes")
			// The payload tells datagrams apart.
			for wanted[big(n)].f.src != 0 || s.proto == packet.ProtoUDP && len(s.f.summed(t, n).payload) != n {
				n++
			}
			wanted[big(n)] = s
			// All pieces but one of all datagrams are as many as are held for a source.
			for _, f := range s.datagram(t, uint16(id), n, 8*rapid.IntRange(max(3, n/8/18+1), 180).Draw(rt, "size")) {
				arrivals = append(arrivals, arrival{s.in, f, rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(rt, "times")})
			}
		}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 1))
		random.Shuffle(len(arrivals), func(i, j int) { arrivals[i], arrivals[j] = arrivals[j], arrivals[i] })
		workers := rapid.IntRange(1, 2).Draw(rt, "workers")
		m := map[fib.PortID]*reassembler{insidePort: newReassembler(rt), outsidePort: newReassembler(rt)}
		left := func() {
			for _, r := range w {
				for i, p := range r.ports {
					for _, f := range p.sent() {
						m[fib.PortID(i)].take(f)
					}
				}
			}
		}
		for _, a := range arrivals {
			for range a.times {
				w[random.IntN(workers)].send(a.in, a.frame)
				left()
			}
		}
		w[0].step()
		w[1].step()
		left()
		for side, model := range m {
			for _, d := range model.whole {
				header := packet.UDPLength
				if d[9] == packet.ProtoTCP {
					header = packet.TCPMinLength
				}
				data := string(d[packet.IPv4MinLength+header:])
				s, ok := wanted[data]
				if !ok || s.out != side {
					rt.Fatalf("a datagram of %d bytes left by port %d that nobody sent there", len(d), side)
				}
				checkDatagram(rt, d, s.src, s.dst, s.sport, s.dport, data)
				arrived[data] = true // once or twice
			}
		}
		if len(arrived) != len(wanted) {
			rt.Fatalf("%d of %d datagrams arrived; drops %v and %v", len(arrived), len(wanted), w[0].allDrops(), w[1].allDrops())
		}
	})
}

// TestLongestDatagram: 65,507 bytes, backwards, by both workers in turn.
func TestLongestDatagram(t *testing.T) {
	w := pair(t)
	for _, s := range streams(w[0]) {
		if s.proto != packet.ProtoUDP {
			continue
		}
		m := newReassembler(t)
		train := s.datagram(t, 7, 65507, 1480)
		slices.Reverse(train)
		for i, f := range train {
			w[i%2].send(s.in, f)
		}
		w[0].step()
		w[1].step()
		for _, r := range w {
			for _, f := range r.ports[s.out].sent() {
				m.take(f)
			}
		}
		if len(m.whole) != 1 {
			t.Fatalf("%d datagrams; drops %v and %v", len(m.whole), w[0].allDrops(), w[1].allDrops())
		}
		checkDatagram(t, m.whole[0], s.src, s.dst, s.sport, s.dport, big(65507))
	}
	if n := w[0].worker.counters.FragmentsHandedOver + w[1].worker.counters.FragmentsHandedOver; n == 0 {
		t.Error("nothing was handed over: it proves nothing about two workers")
	}
}

// TestOwnerIsWoken: once a step, whatever was handed over, and nobody else.
func TestOwnerIsWoken(t *testing.T) {
	w := pair(t)
	train := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(4000)}.udpPieces(t, 1, 1000)
	w[1].send(insidePort, train[0])
	w[0].send(insidePort, train[1], train[2])
	if w[0].wakes != [2]int{0, 1} || w[1].wakes != [2]int{} {
		t.Errorf("woken: %v by the first, %v by the second", w[0].wakes, w[1].wakes)
	}
	w[0].step()
	w[1].step()
	if n := len(w[1].ports[outsidePort].sent()); n != 3 || w[0].wakes != [2]int{0, 1} {
		t.Errorf("%d fragments left, woken %v; drops %v", n, w[0].wakes, w[1].allDrops())
	}
	received := w[0].worker.counters.Ports[insidePort].RxPackets + w[1].worker.counters.Ports[insidePort].RxPackets
	if received != 3 {
		t.Errorf("%d frames counted as received, want 3", received)
	}
}

// TestInboxFull: what another worker has no room for is dropped, and no reference
// stays.
func TestInboxFull(t *testing.T) {
	w := pair(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(1600)}
	train := f.udpPieces(t, 1, 16)
	w[1].send(insidePort, train[0])
	w[0].send(insidePort, train[1:81]...) // 80, and room for 64
	w[0].step()
	if n := w[0].drops(verdict.FragmentHoldFull); n != 16 {
		t.Fatalf("%d dropped, want 16; drops %v", n, w[0].allDrops())
	}
	for range 2 {
		w[1].step()
	}
	if n := len(w[1].ports[outsidePort].sent()); n != 65 {
		t.Errorf("%d fragments left; drops %v", n, w[1].allDrops())
	}
	w[1].send(insidePort, train[81:]...)
	w[1].send(insidePort, train[65:81]...)
	hash := w[0].exchange.Hash(fragment.Key{Src: client, Dst: server, ID: 1, Proto: packet.ProtoUDP})
	if owner := w[0].exchange.Acquire(hash, 0); owner != 0 {
		t.Errorf("the datagram is complete, and worker %d still has it; drops %v", owner, w[1].allDrops())
	}
}

// TestFragmentsOfForwards: to a static forward's host and back, one that is not
// masqueraded otherwise among them, and protocols without ports by their address.
func TestFragmentsOfForwards(t *testing.T) {
	const elsewhere = "10.0.1.9" // behind the client, in no masquerade.sources
	forward := nat.PortForward{External: external, Proto: packet.ProtoUDP, First: 80, Last: 80, Inside: ip(elsewhere), To: 8080, Out: nat.AnyOut}
	r := newRig(t, func(r *rig, s *Snapshot) {
		r.extra = []fib.Route{{Table: fib.TableMain, Prefix: netip.MustParsePrefix("10.0.1.0/24"), Paths: []fib.Path{{Ifindex: 1, Gateway: client}}}}
		r.interfaces(true)
		s.Routes, s.Static = r.builder.Build(), nat.NewStatic([]nat.PortForward{forward})
	})
	gre := func(f from) [][]byte { return pieces(f.frame(t, f.ipv4(47), payload(f.payload)), 5, 1480) }
	for _, tt := range []struct {
		name     string
		in, out  fib.PortID
		train    [][]byte
		src, dst uint32
	}{
		{"to the host", outsidePort, insidePort, from{src: server, dst: external, sport: 5000, dport: 80, payload: big(3000)}.udpPieces(t, 1, 1480), server, ip(elsewhere)},
		{"its answer", insidePort, outsidePort, from{src: ip(elsewhere), dst: server, sport: 8080, dport: 5000, payload: big(3000)}.udpPieces(t, 1, 1480), external, server},
		{"its own", insidePort, outsidePort, from{src: ip(elsewhere), dst: server, sport: 9, dport: 9, payload: big(3000)}.udpPieces(t, 2, 1480), ip(elsewhere), server},
		{"GRE", insidePort, outsidePort, gre(from{src: client, dst: server, payload: big(3000)}), external, server},
		{"GRE back", outsidePort, insidePort, gre(from{src: server, dst: external, payload: big(3000)}), server, client},
	} {
		m := newReassembler(t)
		r.send(tt.in, tt.train[2], tt.train[0], tt.train[1])
		for _, f := range r.ports[tt.out].sent() {
			m.take(f)
		}
		if len(m.whole) != 1 {
			t.Fatalf("%s: %d datagrams left; drops %v", tt.name, len(m.whole), r.allDrops())
		}
		if d := m.whole[0]; address(d[12:]) != tt.src || address(d[16:]) != tt.dst {
			t.Errorf("%s: left as %v → %v", tt.name, fib.Addr(address(d[12:])), fib.Addr(address(d[16:])))
		}
	}
}

// TestErrorAboutFragment: RFC 792 has errors quote first fragments, and they reach
// whoever sent the datagram.
func TestErrorAboutFragment(t *testing.T) {
	r := newRig(t)
	train := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(3000)}.udpPieces(t, 1, 1480)
	r.send(insidePort, train...)
	all := r.ports[outsidePort].sent()
	if len(all) != 3 {
		t.Fatalf("%d fragments left; drops %v", len(all), r.allDrops())
	}
	for i, frame := range all {
		r.send(outsidePort, from{src: router, dst: external}.quote(t, packet.ICMPTimeExceeded, 1, frame, 28))
		if i > 0 { // RFC 1812 4.3.2.7: nobody may send that
			r.none(verdict.ICMPErrorMalformed)
			continue
		}
		v := r.one(insidePort)
		var quoted packet.Packet
		if reason := packet.ParseQuoted(v.raw[v.packet.L4+packet.ICMPLength:v.packet.End], &quoted); reason != verdict.None {
			t.Fatal(reason)
		}
		if v.packet.Dst != client || quoted.Src != client || quoted.SrcPort != 4000 || quoted.Dst != server || quoted.DstPort != 53 {
			t.Errorf("the error about the first fragment: %+v quotes %+v", v.packet, quoted)
		}
	}
}

// TestFragmentsShareIdentification: RFC 6864: one for all fragments of a datagram,
// another one for each datagram, though two inside hosts use the same.
func TestFragmentsShareIdentification(t *testing.T) {
	r := newRig(t)
	owner := map[uint16]uint32{}
	for range 100 {
		for _, src := range []uint32{client, client2} {
			train := from{src: src, dst: server, sport: 4000, dport: 53, payload: big(3000)}.udpPieces(t, 9, 1000)
			r.send(insidePort, train[1], train[0], train[2], train[3])
			var ids []uint16
			for _, f := range r.ports[outsidePort].sent() {
				ids = append(ids, decode(t, f).ip.Id)
			}
			if len(ids) != 4 || len(slices.Compact(ids)) != 1 {
				t.Fatalf("identifications %v; drops %v", ids, r.allDrops())
			}
			if other, used := owner[ids[0]]; used {
				t.Fatalf("identification %d, of %v before", ids[0], fib.Addr(other))
			}
			owner[ids[0]] = src
		}
	}
}

// TestFragmentsFollowFirst: a datagram whose first fragment is dropped is dropped
// whole, for the same reason, whichever comes first.
func TestFragmentsFollowFirst(t *testing.T) {
	dropOptions := func(_ *rig, s *Snapshot) { s.DropOptions = true }
	noPool := func(_ *rig, s *Snapshot) { s.Pools[outsidePort] = nil }
	ack := pieces(from{src: client, dst: server, sport: 1, dport: 2, payload: big(64)}.tcp(t, packet.TCPAck), 1, 40)
	mistaken := from{src: client, dst: excluded}.quote(t, 3, 3, from{src: excluded, dst: client, payload: big(64)}.udp(t), 92)
	copyAddress(mistaken, client, server)
	for _, tt := range []struct {
		name   string
		on     fib.PortID
		train  [][]byte
		want   verdict.Reason
		option rigOption
	}{
		{"a segment without a connection", insidePort, ack, verdict.TCPWithoutFlow, nil},
		{"a pool without addresses", insidePort, from{src: client, dst: server, sport: 1, dport: 2, payload: big(64)}.udpPieces(t, 1, 40), verdict.NoExternalAddress, noPool},
		{"nothing is mapped", outsidePort, from{src: server, dst: pooled, sport: 1, dport: 2, payload: big(64)}.udpPieces(t, 1, 40), verdict.NoMapping, withPool},
		{"an ICMP error about no flow", insidePort, pieces(mistaken, 1, 40), verdict.ICMPErrorWithoutFlow, nil},
		{"the host's, without a way there", outsidePort, from{src: server, dst: external, sport: 1, dport: 2, payload: big(64)}.udpPieces(t, 1, 40), verdict.HostOwned, dropOptions},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, order := range [][]int{{0, 1}, {1, 0}} {
				var options []rigOption
				if tt.option != nil {
					options = append(options, tt.option)
				}
				r := newRig(t, options...)
				for _, i := range order {
					r.send(tt.on, tt.train[i])
				}
				r.none(tt.want)
				if n := r.drops(tt.want); n != 2 || len(r.allDrops()) != 1 {
					t.Errorf("order %v: drops %v, want 2 of %v", order, r.allDrops(), tt.want)
				}
				if r.worker.store.Held() != 0 {
					t.Errorf("order %v: a fragment still waits", order)
				}
			}
		})
	}
}

// copyAddress gives a frame another source and destination.
func copyAddress(frame []byte, src, dst uint32) {
	var p packet.Packet
	packet.Parse(frame, &p)
	rewriteAddresses(frame, &p, src, dst)
}

// TestFragmentsExpire: what waits in vain is dropped after 5 s, and what followed
// is forgotten after 30.
func TestFragmentsExpire(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(3000)}
	first, second := f.udpPieces(t, 1, 1000), f.udpPieces(t, 2, 1000)
	r.send(insidePort, first[1], first[2], second[0])
	r.one(outsidePort)
	r.now += 49
	r.step()
	if r.worker.store.Held() != 2 || len(r.allDrops()) != 0 {
		t.Fatalf("after 4.9 s: %d wait, drops %v", r.worker.store.Held(), r.allDrops())
	}
	r.now++
	r.send(insidePort, second[1])
	r.one(outsidePort)
	if r.worker.store.Held() != 0 || r.drops(verdict.FragmentWithoutFirst) != 2 {
		t.Fatalf("after 5 s: %d wait, drops %v", r.worker.store.Held(), r.allDrops())
	}
	r.now += 300
	r.step()
	r.send(insidePort, second[2])
	if len(r.ports[outsidePort].sent()) != 0 || r.worker.store.Held() != 1 {
		t.Error("a fragment followed one of 30 s ago")
	}
}

// TestFragmentsAfterFlow: fragments do not outlive their flow, nor begin one.
func TestFragmentsAfterFlow(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53, payload: big(3000)}
	train := f.udpPieces(t, 1, 1000)
	r.send(insidePort, train[0])
	r.one(outsidePort)
	flow, _ := r.worker.flows.Find(conntrack.Tuple{Src: client, Dst: server, SrcPort: 4000, DstPort: 53, Proto: packet.ProtoUDP}, r.now)
	r.worker.flows.Retire(flow, verdict.None)
	r.send(insidePort, train[1])
	r.none(verdict.FragmentWithoutFirst)
	if r.table.Count().Flows != 0 {
		t.Error("a later fragment began a flow")
	}
}

// TestFragmentKeyReused: a sender that uses an identification again for another
// datagram gets both through.
func TestFragmentKeyReused(t *testing.T) {
	r := newRig(t)
	for i := range uint16(50) {
		train := from{src: client, dst: server, sport: 4000 + i, dport: 53, payload: big(2000)}.udpPieces(t, 9, 1480)
		r.send(insidePort, train...)
		if n := len(r.ports[outsidePort].sent()); n != 2 {
			t.Fatalf("datagram %d: %d fragments left; drops %v", i, n, r.allDrops())
		}
	}
	if x := r.worker.store.Find(fragment.Key{Src: client, Dst: server, ID: 9, Proto: packet.ProtoUDP}, r.worker.exchange.Hash(fragment.Key{Src: client, Dst: server, ID: 9, Proto: packet.ProtoUDP})); x != nil {
		t.Error("a complete datagram is remembered")
	}
}
