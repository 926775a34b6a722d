package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// restless are the default time-outs for tests that want ports back at once.
func restless() Timeouts {
	t := DefaultTimeouts()
	t.PortRest = 0
	return t
}

// rested is a table whose ports rest, with one external address.
func rested(t *testing.T) (*Table, *Worker, *External) {
	t.Helper()
	table := newTable(t, 100, 1)
	timeouts := DefaultTimeouts()
	table.SetTimeouts(&timeouts)
	x := NewExternal(external, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	return table, table.Worker(0), x
}

// TestPortRest: RFC 6888 REQ-8.
func TestPortRest(t *testing.T) {
	const port, rest = 5000, 120 * TicksPerSecond
	claim := func(w *Worker, x *External, proto uint8, inside uint32, now Tick, early bool) *Mapping {
		t.Helper()
		m, _, _, r := w.Claim(&Claim{Proto: proto, Inside: inside, InsidePort: 4000, External: x, Port: port, Early: early}, now)
		if r != verdict.None {
			t.Fatal(r)
		}
		return m
	}
	for _, c := range []struct {
		name  string
		end   func(w *Worker, f *Flow)
		proto uint8
		rests bool
	}{
		{"UDP that fell silent", func(w *Worker, f *Flow) { w.Sweep(100, 1+10*60*TicksPerSecond) }, packet.ProtoUDP, true},
		{"UDP that was ended", func(w *Worker, f *Flow) { w.Retire(f, verdict.Filtered) }, packet.ProtoUDP, true},
		{"TCP that was ended", func(w *Worker, f *Flow) { w.Retire(f, verdict.Filtered) }, packet.ProtoTCP, true},
		{"REQ-8 A: TCP that was silent for its time-out", func(w *Worker, f *Flow) { w.Sweep(100, 1+10*60*TicksPerSecond) }, packet.ProtoTCP, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, w, x := rested(t)
			key := udp(client, 4000, server, 53)
			key.Proto = c.proto
			f := masquerade(t, w, x, key, port)
			c.end(w, f)
			now := w.now
			if f.Alive() || x.Resting(c.proto, port) != c.rests || x.Held(c.proto, port) != c.rests || x.Holds(c.proto, port) {
				t.Fatalf("alive %v, resting %v, held %v", f.Alive(), x.Resting(c.proto, port), x.Held(c.proto, port))
			}
			audit(t, table, 0)
			if !c.rests {
				return
			}
			if claim(w, x, c.proto, client+1, now+rest-2*TicksPerSecond, false) != nil {
				t.Error("another endpoint got a port that rests")
			}
			if _, ok := x.NextFree(c.proto, port, port, port); ok {
				t.Error("the search found a port that rests")
			}
			m := claim(w, x, c.proto, client, now, false)
			if m == nil {
				t.Fatal("its own endpoint did not get the port back")
			}
			w.Release(m) // no flow used it: nothing rests anew
			if x.Claimed() != 0 {
				t.Errorf("%d ports are claimed", x.Claimed())
			}
			audit(t, table, 0)
		})
	}
	t.Run("the rest ends", func(t *testing.T) {
		table, w, x := rested(t)
		w.Retire(masquerade(t, w, x, udp(client, 4000, server, 53), port), verdict.Filtered)
		table.WakeAll(w.now + rest - 2*TicksPerSecond)
		if !x.Held(packet.ProtoUDP, port) {
			t.Error("woken too early")
		}
		for range 2 * HeldWords {
			w.Sweep(1, w.now+rest+TicksPerSecond)
		}
		if x.Held(packet.ProtoUDP, port) || x.held[portWords+port/64] != 0 {
			t.Error("the bit stays")
		}
		audit(t, table, 0)
	})
	t.Run("a port that rests is better than none", func(t *testing.T) {
		table, w, x := rested(t)
		for i := range uint32(3) {
			f := masquerade(t, w, x, udp(client+i, 4000, server, 53), uint16(port+i))
			w.now = Tick(1000 + (i+1)%3*100) // the third one first
			w.Retire(f, verdict.Filtered)
		}
		if p, ok := x.LongestResting(packet.ProtoUDP, port, port, port+2, 1400); !ok || p != port+2 {
			t.Errorf("longest resting: %d, %v", p, ok)
		}
		if _, ok := x.LongestResting(packet.ProtoUDP, 0, 0, port-1, 1400); ok {
			t.Error("a port out of the range")
		}
		if m := claim(w, x, packet.ProtoUDP, client+9, 1400, true); m == nil {
			t.Error("not to be had early")
		} else {
			w.Release(m)
		}
		audit(t, table, 0)
	})
	t.Run("nothing rests on an address that is gone", func(t *testing.T) {
		table, w, x := rested(t)
		w.Retire(masquerade(t, w, x, udp(client, 4000, server, 53), port), verdict.Filtered)
		f := masquerade(t, w, x, udp(client, 4001, server, 53), port+1)
		table.RemoveExternal(x)
		w.Retire(f, verdict.Filtered)
		table.WakeAll(w.now)
		if x.Claimed() != 0 {
			t.Errorf("%d ports are claimed", x.Claimed())
		}
	})
}

// TestRestSurvivesRestart: the next process knows of ports that rest.
func TestRestSurvivesRestart(t *testing.T) {
	l := newLeft(t, 100, external)
	f := l.masquerade(t, udp(client, 4000, server, 53), external, 61000, 100)
	l.w.now = 100
	l.w.Retire(f, verdict.Filtered)
	for _, c := range []struct {
		now   Tick
		rests bool
	}{{200, true}, {100 + 121*TicksPerSecond, false}} {
		table, _ := l.adopted(t, l.copy(), c.now, external)
		if x := table.External(external); x.Resting(packet.ProtoUDP, 61000) != c.rests || x.Held(packet.ProtoUDP, 61000) != c.rests {
			t.Errorf("at %d: resting %v", c.now, x.Resting(packet.ProtoUDP, 61000))
		}
		audit(t, table, 0)
	}
}

// TestReserversUnite: what one of them lets go, another keeps.
func TestReserversUnite(t *testing.T) {
	x := NewExternal(external, nil)
	set := func(ports ...uint16) *[portWords]uint64 {
		var words [portWords]uint64
		for _, p := range ports {
			words[p/64] |= 1 << (p % 64)
		}
		return &words
	}
	x.Reserve(ByHost, packet.ProtoTCP, set(80, 443))
	x.Reserve(ByService, packet.ProtoTCP, set(443, 8443))
	x.Reserve(ByService, packet.ProtoUDP, set(53))
	for port, want := range map[uint16]bool{80: true, 443: true, 8443: true, 53: false, 81: false} {
		if got := x.Reserved(packet.ProtoTCP, port); got != want {
			t.Errorf("TCP port %d: reserved %v", port, got)
		}
	}
	if x.Capacity(packet.ProtoTCP, 80, 81) != 1 || !x.Reserved(packet.ProtoUDP, 53) {
		t.Error("capacity, or UDP's own set")
	}
	x.Reserve(ByHost, packet.ProtoTCP, nil)
	if x.Reserved(packet.ProtoTCP, 80) || !x.Reserved(packet.ProtoTCP, 443) {
		t.Error("after the host let go")
	}
}
