package gateway

import (
	"math/rand/v2"
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// sharing are the behaviours in which a port of a full range may be shared.
var sharing = map[string]nat.Behaviour{
	"overload":                   {Overload: true},
	"address-dependent":          {Mapping: nat.MapAddress},
	"address-and-port-dependent": {Mapping: nat.MapAddressAndPort},
}

// searchRange is larger than what a worker looks at in a step, many times.
var searchRange = nat.PortRange{Low: 20000, High: 20000 + 16*searchPorts - 1}

const searchRangeSize = 16 * searchPorts

// exhausted is a rig on which one host has a flow with the server by every port,
// but for those of free: by them it has one with another server.
func exhausted(t *testing.T, how nat.Behaviour, free ...uint16) *rig {
	t.Helper()
	r := newRig(t, behaving(how), func(r *rig, s *Snapshot) {
		r.maxFlows, r.workers, s.Ports = 1<<14, 2, searchRange
		for host := range uint32(searchSlots + 2) { // who will be told
			r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: client2 + host, State: fib.Resolved, MAC: clientMAC})
		}
		s.Routes = r.builder.Build()
	})
	for port := searchRange.Low; port <= searchRange.High; port += Burst {
		var burst [][]byte
		for i := range uint16(Burst) {
			to := server
			for _, f := range free {
				if f == port+i {
					to++
				}
			}
			burst = append(burst, from{src: client, dst: to, sport: port + i, dport: 53}.udp(t))
		}
		r.send(insidePort, burst...)
	}
	if n := len(r.ports[outsidePort].sent()); n != searchRangeSize {
		t.Fatalf("%d flows begin, want %d; drops %v", n, searchRangeSize, r.allDrops())
	}
	return r
}

func (r *rig) probes() uint64 { c := r.worker.alloc.Counters(); return c.Probes }

// stepWhileSearching runs steps until nothing waits for a port, and holds each to what a
// step may look at. In each a packet of another flow comes, and leaves at once.
func (r *rig) stepWhileSearching() (steps int) {
	r.t.Helper()
	other := from{src: client, dst: server, sport: searchRange.Low + 7, dport: 53}
	for r.worker.searches.n > 0 {
		before := r.probes()
		sent := len(r.ports[outsidePort].tx)
		r.send(insidePort, other.udp(r.t))
		if n := r.probes() - before; n > searchPorts || n == 0 {
			r.t.Fatalf("a step looked at %d ports, want 1 to %d", n, searchPorts)
		}
		if len(r.ports[outsidePort].tx) == sent {
			r.t.Fatal("a packet of a flow did not leave in the step in which it came")
		}
		if steps++; steps > 100*searchRangeSize/searchSlice {
			r.t.Fatalf("the search does not end: %d wait", r.worker.searches.n)
		}
	}
	return steps
}

// leftOf takes what left by the outside port, and returns what an inside endpoint sent.
func (r *rig) leftOf(src uint32, sport uint16) (list []view) {
	r.t.Helper()
	for _, f := range r.ports[outsidePort].sent() {
		v := decode(r.t, f)
		flow, _ := r.worker.flows.Find(key(&v.packet).Reverse(), r.now)
		if flow == nil {
			r.t.Fatalf("%v left by no flow", v)
		}
		if o := flow.Tuple(conntrack.Original); o.Src == src && o.SrcPort == sport {
			list = append(list, v)
		}
	}
	return list
}

// TestLastPortIsFound: the one port of a full range that the server does not know
// is found for a packet that is held meanwhile, however late it is looked at, and flows
// beside it are not held up.
func TestLastPortIsFound(t *testing.T) {
	for name, how := range sharing {
		t.Run(name, func(t *testing.T) {
			held := false
			for round := range uint16(4) {
				free := searchRange.Low + uint16(rand.IntN(searchRangeSize))
				if free == searchRange.Low+7 {
					free++
				}
				r := exhausted(t, how, free)
				r.worker.alloc.Seed([32]byte{byte(round)})
				r.worker.alloc.SetPorts(searchRange)
				frame := from{src: client2, dst: server, sport: 4000, dport: 53, payload: "held"}.udp(t)
				r.send(insidePort, frame)
				held = held || r.worker.searches.n > 0
				if r.stepWhileSearching(); r.drops(verdict.PortsExhausted) != 0 {
					t.Fatalf("no port was found; drops %v", r.allDrops())
				}
				all := r.leftOf(client2, 4000)
				if len(all) != 1 || uint16(all[0].udp.SrcPort) != free || string(all[0].udp.Payload) != "held" {
					t.Fatalf("%d packets left, want one from port %d; drops %v", len(all), free, r.allDrops())
				}
				r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: free}.udp(t))
				if v := r.one(insidePort); dst(v) != fmtIP(client2) {
					t.Errorf("the answer went to %s", dst(v))
				}
				if err := r.table.Verify(); err != nil {
					t.Error(err)
				}
			}
			if !held {
				t.Error("each was found in the first step: nothing was held")
			}
		})
	}
}

// TestExhaustedAfterEveryPort: a search ends in ports-exhausted when each port was
// looked at once, and the sender is told (RFC 5508 REQ-8). A retransmission begins no
// second one.
func TestExhaustedAfterEveryPort(t *testing.T) {
	for name, how := range sharing {
		t.Run(name, func(t *testing.T) {
			r := exhausted(t, how)
			before := r.probes()
			r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t))
			if r.worker.searches.n != 1 || r.worker.Waiting() != 1 || r.worker.Step(r.now) == 0 {
				t.Fatalf("%d searches, %d frames wait, and the worker may sleep", r.worker.searches.n, r.worker.Waiting())
			}
			r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t))
			if n := r.drops(verdict.PortSearchWaiting); n != 1 || r.worker.searches.n != 1 {
				t.Errorf("after a retransmission %d searches, %d dropped", r.worker.searches.n, n)
			}
			r.stepWhileSearching()
			if n := r.probes() - before; n != searchRangeSize || r.drops(verdict.PortsExhausted) != 1 {
				t.Errorf("%d ports were looked at, want %d; drops %v", n, searchRangeSize, r.allDrops())
			}
			if v := r.one(insidePort); v.icmp == nil || v.icmp.TypeCode.Type() != 3 || v.icmp.TypeCode.Code() != 13 || dst(v) != fmtIP(client2) {
				t.Errorf("the sender got %v", v)
			}
			if use := r.ext.Use(packet.ProtoUDP); use.Refused != 1 {
				t.Errorf("use %+v", use)
			}
			if r.worker.Step(r.now) != 0 {
				t.Error("the worker does not sleep")
			}
		})
	}
}

// TestSearchesAreBounded: for each source and in all; what is too much is dropped
// by name, and each that waits comes to its end.
func TestSearchesAreBounded(t *testing.T) {
	r := exhausted(t, nat.Behaviour{Overload: true})
	ask := func(host uint32, port uint16) {
		r.send(insidePort, from{src: host, dst: server, sport: port, dport: 53}.udp(t))
	}
	for i := range uint16(searchPerSource + 3) {
		ask(client2, 4000+i)
	}
	if n := r.drops(verdict.PortSearchLimit); n != 3 || r.worker.searches.n != searchPerSource {
		t.Errorf("%d of one source wait, %d are dropped", r.worker.searches.n, n)
	}
	for host := range uint32(searchSlots) {
		ask(client2+1+host, 4000)
		ask(client2+1+host, 4001)
	}
	if r.worker.searches.n != searchSlots || r.worker.Waiting() != searchSlots || r.drops(verdict.PortSearchLimit) == 3 {
		t.Errorf("%d wait, want %d; drops %v", r.worker.searches.n, searchSlots, r.allDrops())
	}
	r.stepWhileSearching()
	if n := r.drops(verdict.PortsExhausted); n != searchSlots {
		t.Errorf("%d are refused, want %d", n, searchSlots)
	}
	if len(r.memory.out) != 0 {
		t.Errorf("%d frames are not free", len(r.memory.out))
	}
}

// TestSearchForFragment: the search of a datagram in fragments goes on without it,
// and the next one finds the flow.
func TestSearchForFragment(t *testing.T) {
	const free = 20777
	for round := byte(0); ; round++ {
		r := exhausted(t, nat.Behaviour{Overload: true}, free)
		r.worker.alloc.Seed([32]byte{round})
		r.worker.alloc.SetPorts(searchRange)
		whole := from{src: client2, dst: server, sport: 4000, dport: 53, payload: string(make([]byte, 2000))}.udp(t)
		r.send(insidePort, pieces(whole, 77, 1200)...)
		if r.worker.searches.n == 0 {
			continue // found in the first step
		}
		if n := r.worker.Waiting(); n != 0 || r.drops(verdict.PortSearchWaiting) != 2 {
			t.Fatalf("%d frames wait; drops %v", n, r.allDrops())
		}
		r.stepWhileSearching()
		r.ports[outsidePort].sent()
		r.send(insidePort, pieces(whole, 78, 1200)...)
		all := r.ports[outsidePort].sent()
		if len(all) != 2 || decode(t, all[0]).packet.SrcPort != free {
			t.Errorf("%d fragments left; drops %v", len(all), r.allDrops())
		}
		return
	}
}

// TestSearchAcrossReload: what waits is decided by the addresses and the range that
// there are when it goes on.
func TestSearchAcrossReload(t *testing.T) {
	r := exhausted(t, nat.Behaviour{Overload: true})
	r.send(insidePort, from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t))
	r.publish(func(s *Snapshot) { s.Ports = nat.PortRange{Low: 30000, High: 30000} })
	r.step()
	if v := r.one(outsidePort); v.udp.SrcPort != 30000 || r.worker.searches.n != 0 {
		t.Errorf("left from port %d; %d wait", v.udp.SrcPort, r.worker.searches.n)
	}
	r.send(insidePort, from{src: client2, dst: server, sport: 4001, dport: 53}.udp(t))
	r.none(verdict.PortsExhausted)
	r.publish(func(s *Snapshot) { s.Ports = searchRange })
	r.send(insidePort, from{src: client2, dst: server, sport: 4002, dport: 53}.udp(t))
	if r.worker.searches.n != 1 {
		t.Fatalf("drops %v", r.allDrops())
	}
	r.publish(func(s *Snapshot) { s.Behaviour.Overload = false })
	r.step()
	if n := r.drops(verdict.PortsExhausted); n != 2 || r.worker.searches.n != 0 {
		t.Errorf("%d are refused, %d wait; drops %v", n, r.worker.searches.n, r.allDrops())
	}
}

// TestTwoWorkersSearch: of two flows with one server that two workers have, one gets
// the one port that is left, and the other is refused. Of one flow that both have, both
// get the same.
func TestTwoWorkersSearch(t *testing.T) {
	for round := range byte(6) {
		same := round%2 == 0
		r := exhausted(t, nat.Behaviour{Overload: true}, 21234)
		pair := [2]*rig{r, r.second()}
		ports := map[uint16]int{}
		for i, w := range pair {
			w.worker.alloc.Seed([32]byte{round, byte(i)})
			w.worker.alloc.SetPorts(searchRange)
			host := client2
			if i == 1 && !same {
				host++
			}
			w.ports[insidePort].rx = append(w.ports[insidePort].rx, w.memory.take(t, from{src: host, dst: server, sport: 4000, dport: 53}.udp(t)))
		}
		for steps := 0; ; steps++ {
			a, b := pair[round/2%2].worker, pair[1-round/2%2].worker
			if busy := a.Step(r.now) + b.Step(r.now); busy == 0 {
				break
			}
			if steps > 2*searchRangeSize {
				t.Fatal("a search does not end")
			}
		}
		refused := r.drops(verdict.PortsExhausted) + pair[1].drops(verdict.PortsExhausted)
		for _, w := range pair {
			for _, f := range w.ports[outsidePort].sent() {
				ports[uint16(decode(t, f).udp.SrcPort)]++
			}
			w.ports[insidePort].sent()
			w.balanced()
		}
		if same && (ports[21234] != 2 || refused != 0) || !same && (ports[21234] != 1 || refused != 1) || len(ports) != 1 {
			t.Errorf("round %d, the same flow %v: left from %v, %d refused", round, same, ports, refused)
		}
		if err := r.table.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// TestSearchAllocs: a search that waits allocates nothing, from its beginning to its end.
func TestSearchAllocs(t *testing.T) {
	r := exhausted(t, nat.Behaviour{Overload: true})
	frame := from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t)
	r.ports[insidePort].tx, r.ports[outsidePort].tx = nil, nil
	d := r.memory.take(t, frame)
	searched := r.worker.counters.SearchesHeld
	if n := testing.AllocsPerRun(8, func() {
		copy(r.memory.Bytes()[d.Addr:], frame)
		r.worker.in = insidePort
		r.worker.frames[0] = d
		r.worker.begin(r.now)
		r.worker.pass(insidePort, 1)
		for r.worker.searches.n > 0 {
			r.worker.begin(r.now)
			r.worker.flows.Quiesce()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if r.worker.counters.SearchesHeld < searched+8 {
		t.Error("nothing was held")
	}
}

// TestPortOfAnotherFlow: a free port that a flow without a mapping has towards the peer,
// one of a static forward, say, is passed over, where ports may be chosen by peer; and
// where it is the only one, the search ends, and leaves nothing behind.
func TestPortOfAnotherFlow(t *testing.T) {
	for _, tt := range []struct {
		how    nat.Behaviour
		ports  nat.PortRange
		left   uint16 // port that the packet leaves from, 0: it does not
		reason verdict.Reason
	}{
		{nat.Behaviour{Overload: true}, nat.PortRange{Low: 5000, High: 5001}, 5001, verdict.None},
		{nat.Behaviour{Mapping: nat.MapAddress}, nat.PortRange{Low: 5000, High: 5001}, 5001, verdict.None},
		{nat.Behaviour{Overload: true}, nat.PortRange{Low: 5000, High: 5000}, 0, verdict.PortsExhausted},
		{nat.Behaviour{}, nat.PortRange{Low: 5000, High: 5001}, 0, verdict.ReplyTupleTaken},
	} {
		r := newRig(t, behaving(tt.how), func(_ *rig, s *Snapshot) { s.Ports = tt.ports })
		its := conntrack.Tuple{Src: server, Dst: external, SrcPort: 53, DstPort: 5000, Proto: packet.ProtoUDP}
		answer := conntrack.Tuple{Src: client2, Dst: server, SrcPort: 80, DstPort: 53, Proto: packet.ProtoUDP}
		if _, _, _, why := r.worker.flows.Create(&conntrack.NewFlow{Original: its, Reply: answer, Kind: conntrack.PortForward, InPort: outsidePort}, r.now); why != verdict.None {
			t.Fatal(why)
		}
		r.send(insidePort, from{src: client, dst: server, sport: 5000, dport: 53}.udp(t))
		switch sent := r.forwarded(outsidePort); {
		case tt.left != 0 && (len(sent) != 1 || decode(t, sent[0]).packet.SrcPort != tt.left), tt.left == 0 && (len(sent) != 0 || r.drops(tt.reason) != 1):
			t.Errorf("%+v, %v: %d left; drops %v", tt.how, tt.ports, len(sent), r.allDrops())
		}
		if c := r.table.Count(); c.Mappings != min(int(tt.left), 1) {
			t.Errorf("%+v: %d mappings", tt.how, c.Mappings)
		}
		if err := r.table.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// TestTraceIsHurried: what a trace foretells of a packet costs the packets behind it
// no look at all ports; an explanation knows.
func TestTraceIsHurried(t *testing.T) {
	r := exhausted(t, nat.Behaviour{Overload: true})
	frame := from{src: client2, dst: server, sport: 4000, dport: 53}.udp(t)
	var p packet.Packet
	if why := packet.Parse(frame, &p); why != verdict.None {
		t.Fatal(why)
	}
	if o := r.pointer.Load().DryRun(r.worker.flows, insidePort, &p, r.now); o.Reason != verdict.PortsExhausted {
		t.Errorf("an explanation says %v", o.Reason)
	}
	trace := NewTrace(&filter.Filter{}, 1, 10)
	r.worker.SetLooks(NewLooks(1, []*Trace{trace}, nil))
	r.send(insidePort, frame)
	var record TraceRecord
	if !trace.Read(0, &record) || record.Fate != Searching || record.Outcome.Mapping.Origin != nat.PortShared || record.Outcome.Reason != verdict.None {
		t.Errorf("the trace says %+v", &record)
	}
}
