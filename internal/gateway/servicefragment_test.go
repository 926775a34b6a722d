package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/fragment"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// servedPair are two workers of one gateway with the same service.
func servedPair(t testing.TB, spec serviceSpec) (*served, [2]*rig) {
	v := newServed(t, spec, func(r *rig, _ *Snapshot) { r.workers, r.exchange = 2, fragment.NewExchange(2, [2]uint64{3, 4}) })
	return v, [2]*rig{v.rig, v.second()}
}

// shuffled sends frames to port in, each at either worker, in any order, and
// returns the datagrams that left by port out, put together by the slow model.
func shuffled(t fataler, random *rand.Rand, w [2]*rig, in, out fib.PortID, frames [][]byte) [][]byte {
	random.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	m := newReassembler(t)
	left := func() {
		for _, r := range w {
			for _, f := range r.ports[out].sent() {
				if len(f)-packet.EthernetLength > 1500 {
					t.Fatalf("a frame of %d bytes left", len(f))
				}
				m.take(f)
			}
		}
	}
	for _, f := range frames {
		w[random.IntN(2)].send(in, f)
		left()
	}
	for range 2 {
		w[0].step()
		w[1].step()
		left()
	}
	return m.whole
}

// delivered is what the backend's node makes of the datagrams that came: it takes
// them out of their tunnel and puts them together, and takes the option out, which
// must be there once where the dispatch is by option.
func delivered(t fataler, dispatch dsr.Dispatch, agent bool, whole [][]byte) (out [][]byte) {
	if agent && dispatch != dsr.Option {
		m := newReassembler(t)
		for _, d := range whole {
			if field := binary.BigEndian.Uint16(d[6:]); field&^0x4000 != 0 || len(d) > 1500 {
				t.Fatalf("a tunnel's packet in fragments: %x", d[:packet.IPv4MinLength])
			}
			frame := append(make([]byte, packet.EthernetLength), d[packet.IPv4MinLength:]...)
			if dispatch == dsr.Geneve {
				at, _, _, ok := dsr.DecapsulateGeneve(d)
				if !ok {
					t.Fatalf("no Geneve: %x", d)
				}
				frame = d[at:]
			}
			m.take(frame)
		}
		whole = m.whole
	}
	for _, d := range whole {
		frame := append(make([]byte, packet.EthernetLength), d...)
		if told := dsr.Strip(frame); agent && dispatch == dsr.Option {
			if told != dsr.OptionLen || !bytes.Equal(d[packet.IPv4MinLength:][:dsr.OptionLen], cilium) {
				t.Fatalf("the datagram has options %x", d[packet.IPv4MinLength:int(d[0]&15)*4])
			}
			frame = frame[told:]
		} else if told != 0 {
			t.Fatalf("an option for nobody: %x", d[:40])
		}
		out = append(out, frame[packet.EthernetLength:])
	}
	return out
}

// TestServiceFragments: datagrams in fragments reach the backend as the client sent
// them, with the address that the return path asks for, and the backend's come back
// as the service's: by every mode and dispatch, in any order, whichever worker gets
// which fragment. The first one alone names the service.
func TestServiceFragments(t *testing.T) {
	for _, c := range []struct {
		mode     dsr.Mode
		dispatch dsr.Dispatch
	}{{dsr.SNAT, dsr.Option}, {dsr.DSR, dsr.Option}, {dsr.DSR, dsr.IPIP}, {dsr.DSR, dsr.Geneve}} {
		t.Run(fmt.Sprintf("%v %v", c.mode, c.dispatch), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { serviceFragments(t, rt, c.mode, c.dispatch) })
		})
	}
}

func serviceFragments(t *testing.T, rt *rapid.T, mode dsr.Mode, dispatch dsr.Dispatch) {
	v, w := servedPair(t, serviceSpec{mode: mode, backends: backends[:], dispatch: dispatch})
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 1))
	n, size := rapid.IntRange(64, 8192).Draw(rt, "bytes"), 8*rapid.IntRange(32, 185).Draw(rt, "size")
	call := from{src: server, dst: vip, sport: 40000, dport: servedPort}.summed(t, n)
	for id := range uint16(2) { // the flow begins with the first, and goes on
		got := delivered(rt, dispatch, mode == dsr.DSR, shuffled(rt, random, w, outsidePort, insidePort, call.udpPieces(t, id, size)))
		if len(got) != 1 {
			rt.Fatalf("%d datagrams came; drops %v and %v", len(got), w[0].allDrops(), w[1].allDrops())
		}
		d := got[0]
		src, dst, sport, dport := server, address(d[16:]), uint16(40000), uint16(backendPort)
		switch {
		case mode == dsr.SNAT:
			src, sport = gatewayInside, uint16(d[20])<<8|uint16(d[21])
		case dispatch == dsr.IPIP:
			dst, dport = vip, servedPort
		}
		if dst != vip && !isBackend(dst, backends[:]) {
			rt.Fatalf("went to %v", fib.Addr(dst))
		}
		checkDatagram(rt, d, src, dst, sport, dport, call.payload)

		back := from{src: dst, dst: src, sport: dport, dport: sport}
		if mode == dsr.DSR { // the gateway is the backend's router
			back.src, back.sport = vip, servedPort
		}
		back = back.summed(t, n)
		answers := shuffled(rt, random, w, insidePort, outsidePort, back.udpPieces(t, id, size))
		if len(answers) != 1 {
			rt.Fatalf("%d answers; drops %v and %v", len(answers), w[0].allDrops(), w[1].allDrops())
		}
		checkDatagram(rt, answers[0], vip, server, servedPort, 40000, back.payload)
	}
	if n := v.table.Count(); n.Flows != 1 {
		rt.Fatalf("%d flows", n.Flows)
	}
}

// TestServiceFragmentRefusals: what a whole datagram would be refused for, its
// fragments are, whichever comes first.
func TestServiceFragmentRefusals(t *testing.T) {
	dead := [2]dsr.State{dsr.Dead, dsr.Dead}
	call := from{src: server, dst: vip, sport: 40000, dport: servedPort, payload: big(3000)}
	for _, c := range []struct {
		name  string
		spec  serviceSpec
		in    fib.PortID
		train [][]byte
		want  verdict.Reason
	}{
		{"unknown port", serviceSpec{backends: backends[:]}, outsidePort, from{src: server, dst: vip, sport: 1, dport: 9, payload: big(3000)}.udpPieces(t, 1, 1480), verdict.NoService},
		{"no backend", serviceSpec{backends: backends[:], state: dead}, outsidePort, call.udpPieces(t, 1, 1480), verdict.NoBackend},
		{"a large ping", serviceSpec{backends: backends[:]}, outsidePort, pieces(call.echo(t, packet.ICMPEchoRequest, 7), 1, 1480), verdict.FragmentUnsupported},
		{"a forged answer", serviceSpec{mode: dsr.DSR, backends: backends[:]}, outsidePort, from{src: vip, dst: client, sport: servedPort, dport: 40000, payload: big(3000)}.udpPieces(t, 1, 1480), verdict.OwnSource},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newServed(t, c.spec)
			train := append([][]byte{c.train[len(c.train)-1]}, c.train[:len(c.train)-1]...)
			v.send(c.in, train...)
			if n := v.drops(c.want); n != uint64(len(train)) || len(v.ports[insidePort].sent()) != 0 {
				t.Errorf("%d of %d fragments dropped as %v: %v", n, len(train), c.want, v.allDrops())
			}
		})
	}
}

// TestServiceFragmentAllocations: fragments to a service allocate nothing, those
// that must be divided for a tunnel included.
func TestServiceFragmentAllocations(t *testing.T) {
	for _, dispatch := range []dsr.Dispatch{dsr.Option, dsr.IPIP, dsr.Geneve} {
		v := newServed(t, serviceSpec{mode: dsr.DSR, backends: backends[:], dispatch: dispatch})
		train := from{src: server, dst: vip, sport: 40000, dport: servedPort, payload: big(2900)}.udpPieces(t, 1, 1480)
		v.ports[insidePort].tx, v.ports[outsidePort].tx = nil, nil
		memory := forgetful{v.memory}
		v.worker.memory = memory
		v.worker.ports = []Port{&repeater{memory: v.memory}, &repeater{memory: v.memory, frames: train}}
		before := v.worker.counters.Fragmented
		if n := testing.AllocsPerRun(100, func() { v.worker.Step(v.now); v.now++ }); n != 0 {
			t.Errorf("%v: %v allocations a burst", dispatch, n)
		}
		if c := &v.worker.counters; c.FragmentsFollowed < 200 || c.Fragmented-before < 100 || c.Drops[verdict.NoFreeFrame] > 0 {
			t.Errorf("%v: the bursts did not what they were for: %+v", dispatch, v.allDrops())
		}
	}
}
