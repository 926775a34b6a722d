package gateway

import (
	"net/netip"
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// asked returns the neighbours that the worker asked for since the last call.
func (r *rig) asked() (list []Neighbour) {
	for {
		select {
		case n := <-r.resolve:
			list = append(list, n)
		default:
			return list
		}
	}
}

// reroute publishes what the builder holds now.
func (r *rig) reroute() { r.publish(func(s *Snapshot) { s.Routes = r.builder.Build() }) }

func TestPacketsWaitForTheirNeighbour(t *testing.T) {
	r := newRig(t)
	for i := range 3 {
		r.send(insidePort, from{src: client, dst: silent, sport: 4000, dport: 53, payload: string(rune('a' + i))}.udp(t))
	}
	if n := r.worker.Waiting(); n != 3 {
		t.Fatalf("%d frames wait, want 3; drops %v", n, r.allDrops())
	}
	if got := r.asked(); len(got) == 0 || got[0] != (Neighbour{outsidePort, silent}) {
		t.Fatalf("asked for %v", got)
	}
	// Others are not held up.
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)

	mac := [6]byte{2, 7, 7, 7, 7, 7}
	r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: silent, State: fib.Resolved, MAC: mac})
	r.reroute()
	r.step()
	all := r.ports[outsidePort].sent()
	if len(all) != 3 || r.worker.Waiting() != 0 {
		t.Fatalf("%d frames left, %d still wait", len(all), r.worker.Waiting())
	}
	for i, f := range all {
		v := decode(t, f)
		if [6]byte(v.eth.DstMAC) != mac || src(v) != "192.0.2.1" || string(v.udp.Payload[:1]) != string(rune('a'+i)) {
			t.Errorf("frame %d: to %v from %v: %q", i, v.eth.DstMAC, src(v), v.udp.Payload)
		}
	}
}

func TestDeadNeighbour(t *testing.T) {
	t.Run("the wait is bounded in time", func(t *testing.T) {
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: silent, sport: 4000, dport: 53}.udp(t))
		r.now += holdTicks - 1
		r.step()
		if r.worker.Waiting() != 1 {
			t.Fatal("given up too early")
		}
		r.now++
		r.step()
		r.none(verdict.NeighbourUnresolved)
	})
	t.Run("the kernel is asked again", func(t *testing.T) {
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: silent, sport: 4000, dport: 53}.udp(t))
		r.asked()
		r.now += askAgainTicks
		r.step()
		if len(r.asked()) != 1 {
			t.Error("not asked again after a second")
		}
	})
	t.Run("the kernel says that it failed", func(t *testing.T) {
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: silent, sport: 4000, dport: 53}.udp(t))
		r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: silent, State: fib.Failed})
		r.reroute()
		r.step()
		r.none(verdict.NeighbourUnresolved)
		r.asked()
		r.send(insidePort, from{src: client, dst: silent, sport: 4000, dport: 53}.udp(t))
		r.none(verdict.NeighbourUnresolved)
		if len(r.asked()) != 1 {
			t.Error("a new packet does not make the kernel try again")
		}
	})
	t.Run("the wait is bounded in frames", func(t *testing.T) {
		r := newRig(t)
		for range holdPerHop + 5 {
			r.send(insidePort, from{src: client, dst: silent, sport: 4000, dport: 53}.udp(t))
		}
		if n := r.worker.Waiting(); n != holdPerHop {
			t.Errorf("%d frames wait for one neighbour, want %d", n, holdPerHop)
		}
		r.none(verdict.HoldFull)
		for i := range uint32(100) {
			r.send(insidePort, from{src: client, dst: silent + 1 + i, sport: 4000, dport: 53}.udp(t), from{src: client, dst: silent + 1 + i, sport: 4000, dport: 53}.udp(t), from{src: client, dst: silent + 1 + i, sport: 4000, dport: 53}.udp(t))
		}
		if n := r.worker.Waiting(); n != holdSize {
			t.Errorf("%d frames wait in all, want %d", n, holdSize)
		}
	})
}

func TestNextHopChangesMAC(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f)
	r.one(outsidePort)
	mac := [6]byte{2, 7, 7, 7, 7, 7}
	r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: router, State: fib.Resolved, MAC: mac})
	r.reroute()
	r.send(insidePort, f)
	if v := r.one(outsidePort); [6]byte(v.eth.DstMAC) != mac {
		t.Errorf("a live flow still goes to %v", v.eth.DstMAC)
	}
}

func TestLinkAndRouteGone(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f)
	r.one(outsidePort)
	r.interfaces(false)
	r.reroute()
	r.send(insidePort, f)
	r.none(verdict.NoRoute)
	if !r.ports[outsidePort].down {
		t.Error("the port was not told that its link is down")
	}
	r.interfaces(true)
	r.reroute()
	r.send(insidePort, f)
	if v := r.one(outsidePort); v.udp.SrcPort != 4000 {
		t.Errorf("the flow went on with port %v", v.udp.SrcPort)
	}
	if r.ports[outsidePort].down {
		t.Error("the port was not told that its link is up")
	}
}

func TestExternalAddressChanges(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f)
	r.one(outsidePort)
	fresh := conntrack.NewExternal(ip("192.0.2.2"), nil)
	if err := r.table.AddExternal(fresh); err != nil {
		t.Fatal(err)
	}
	r.publish(func(s *Snapshot) { s.Pools[outsidePort] = nat.NewPool(fresh) })
	r.table.RemoveExternal(r.ext)
	// The flow of the old address ends with a reason, and the next packet
	// begins a new one.
	r.send(insidePort, f)
	r.none(verdict.ExternalAddressMoved)
	r.send(insidePort, f)
	if v := r.one(outsidePort); src(v) != "192.0.2.2" {
		t.Errorf("left from %v", src(v))
	}
}

// TestReloadedPolicy: a flow that was excluded and no longer is ends; it never
// leaks. One that was masqueraded keeps its mapping.
func TestReloadedPolicy(t *testing.T) {
	r := newRig(t)
	open := from{src: client, dst: excluded, sport: 4000, dport: 53}.udp(t)
	masqueraded := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, open)
	r.one(outsidePort)
	r.send(insidePort, masqueraded)
	r.one(outsidePort)
	policy := func(exclude string) *nat.Policy {
		return nat.NewPolicy(nat.PolicyConfig{Enabled: true, Sources: anyPolicyLines,
			NativeRouting: []nat.Rule{{Prefix: netip.MustParsePrefix(exclude)}}})
	}
	r.publish(func(s *Snapshot) { s.Policy = policy("198.51.100.0/24") })
	r.send(insidePort, open)
	r.none(verdict.WouldLeakSource)
	r.send(insidePort, masqueraded)
	if v := r.one(outsidePort); src(v) != "192.0.2.1" {
		t.Errorf("a live flow changed its source to %v", src(v))
	}
	r.send(insidePort, open)
	if v := r.one(outsidePort); src(v) != "192.0.2.1" {
		t.Errorf("the new flow left from %v", src(v))
	}
}

// TestTupleFromTheWrongSide: who guesses a five-tuple from outside does not get
// into the flow from the inside's end.
func TestTupleFromTheWrongSide(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, f)
	r.one(outsidePort)
	r.send(outsidePort, f)
	r.none(verdict.SpoofedSource)
}

func TestFlowsExpireAndPortsReturn(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.one(outsidePort)
	if !r.ext.Holds(packet.ProtoUDP, 4000) {
		t.Fatal("port 4000 is not held")
	}
	r.now += conntrack.DefaultTimeouts().UDPUnreplied + 1
	for range 4 {
		r.worker.Idle(r.now, 4096)
	}
	if n := r.table.Count(); n.Flows != 0 || n.Mappings != 0 || n.Sources != 0 || r.ext.Holds(packet.ProtoUDP, 4000) {
		t.Errorf("left over: %+v, port held: %v", n, r.ext.Holds(packet.ProtoUDP, 4000))
	}
	// RFC 6888 REQ-8: what is late is nobody's while the port rests, then the host's.
	late := from{src: server, dst: external, sport: 53, dport: 4000}.udp(t)
	r.send(outsidePort, late)
	r.none(verdict.NoMapping)
	r.now += conntrack.DefaultTimeouts().PortRest + conntrack.TicksPerSecond
	for range 4 {
		r.worker.Idle(r.now, 1<<16)
	}
	if r.ext.Held(packet.ProtoUDP, 4000) {
		t.Error("the port rests for ever")
	}
	r.send(outsidePort, late)
	r.none(verdict.HostOwned)
}

// TestARPForPoolAddresses: nobody else answers for them; for the host's own the
// kernel does.
func TestARPForPoolAddresses(t *testing.T) {
	request := func(target uint32) []byte {
		f := make([]byte, 42)
		copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 7, 7, 7, 7, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 7, 7, 7, 7, 7})
		for i := range 4 {
			f[28+i], f[38+i] = byte(router>>(24-8*i)), byte(target>>(24-8*i))
		}
		return f
	}
	r := newRig(t, withPool)
	r.send(outsidePort, request(pooled))
	all := r.ports[outsidePort].sent()
	if len(all) != 1 || all[0][21] != 2 || [6]byte(all[0][22:28]) != gatewayMACs[1] || [6]byte(all[0][0:6]) != ([6]byte{2, 7, 7, 7, 7, 7}) {
		t.Fatalf("answers: %x", all)
	}
	r.send(outsidePort, request(external), request(server))
	r.none(verdict.NotIPv4)
}
