package gateway

import (
	"sync"
	"testing"

	"sluice/dsr"
	"sluice/internal/packet"
)

// TestOneBackendForOneFlow: two workers get the first packets of the same flows at
// the same time, and choose in turn, so that they would choose differently. Each
// flow goes to one backend with one source port all the same.
func TestOneBackendForOneFlow(t *testing.T) {
	const flows = 200
	for _, mode := range []dsr.Mode{dsr.SNAT, dsr.DSR} {
		v := newServed(t, serviceSpec{mode: mode, backends: backends[:], algorithm: dsr.RoundRobin}, func(r *rig, _ *Snapshot) { r.workers = 2 })
		pair := [2]*rig{v.rig, v.second()}
		for round := range flows {
			frame := from{src: server, dst: vip, sport: uint16(1000 + round), dport: servedPort}.tcp(t, packet.TCPSyn)
			var start, done sync.WaitGroup
			start.Add(1)
			for _, r := range pair {
				r.ports[outsidePort].rx = append(r.ports[outsidePort].rx, r.memory.take(t, frame))
				done.Go(func() {
					start.Wait()
					r.worker.Step(v.now)
				})
			}
			start.Done()
			done.Wait()
			if a, b := endpoints(pair[0].one(insidePort)), endpoints(pair[1].one(insidePort)); a != b {
				t.Fatalf("mode %v, flow %d: one worker sent %s, the other %s", mode, round, a, b)
			}
		}
		if n := v.table.Count(); n.Flows != flows || mode == dsr.SNAT && n.Mappings != flows {
			t.Errorf("mode %v: %+v for %d flows", mode, n, flows)
		}
		if err := v.table.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// second is another worker on the same table, with ports and memory of its own.
func (v *rig) second() *rig {
	r := &rig{t: v.t, memory: newMemory(2048), now: v.now, table: v.table}
	for i := range r.ports {
		r.ports[i] = &port{m: r.memory, room: -1}
	}
	r.worker = New(Config{
		ID: 1, Workers: 2, Table: v.table, Ports: []Port{r.ports[0], r.ports[1]}, Memory: r.memory, Snapshot: &v.pointer, Resolve: v.resolve, Seed: [32]byte{2},
		Fragments: v.exchange, Wake: v.woke,
	})
	return r
}

// TestOneBackendForOneClient: two workers get the first packets of two flows of one
// client at once. With affinity both flows go to one backend.
func TestOneBackendForOneClient(t *testing.T) {
	for _, algorithm := range []dsr.Algorithm{dsr.Random, dsr.RoundRobin} {
		v := newServed(t, serviceSpec{backends: backends[:], algorithm: algorithm, affinity: 600}, func(r *rig, s *Snapshot) {
			r.workers, s.Balance.Choice = 2, Choice{0x9e3779b97f4a7c15, 0xff51afd7ed558ccd}
		})
		pair := [2]*rig{v.rig, v.second()}
		served := map[uint32]int{}
		for round := range 200 {
			var start, done sync.WaitGroup
			start.Add(1)
			for i, r := range pair {
				frame := from{src: server + 256*uint32(round), dst: vip, sport: uint16(1000 + i), dport: servedPort}.tcp(t, packet.TCPSyn)
				r.ports[outsidePort].rx = append(r.ports[outsidePort].rx, r.memory.take(t, frame))
				done.Go(func() {
					start.Wait()
					r.worker.Step(v.now)
				})
			}
			start.Done()
			done.Wait()
			a, b := pair[0].one(insidePort), pair[1].one(insidePort)
			if a.packet.Dst != b.packet.Dst {
				t.Fatalf("%v, client %d: one worker sent %s, the other %s", algorithm, round, endpoints(a), endpoints(b))
			}
			served[a.packet.Dst]++
		}
		if len(served) != 2 {
			t.Errorf("%v: all clients went to one backend", algorithm)
		}
	}
}
