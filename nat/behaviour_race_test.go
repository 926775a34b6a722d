package nat

import (
	"fmt"
	"sync"
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestRacingBehaviours: workers that see the first packets of the same flows at
// once end with one flow, one mapping and one port for each, in every mode, and
// with nothing left over; the ports suffice for all, or have to be shared.
func TestRacingBehaviours(t *testing.T) {
	for mapping := range MappingBehaviour(3) {
		for filtering := range FilteringBehaviour(3) {
			for _, scarce := range []bool{false, true} {
				how := Behaviour{Mapping: mapping, Filtering: filtering, Overload: scarce}
				t.Run(fmt.Sprintf("%v mapping, %v filtering, scarce %v", mapping, filtering, scarce), func(t *testing.T) {
					raceBehaviour(t, how, scarce)
				})
			}
		}
	}
}

// racer is one worker's part: the flow that each key ended with.
type racer struct {
	b    *bench
	i    int
	pool *Pool
	got  []uint16 // external ports by key, 0 = refused
}

const raceKeys = 400

func raceKey(i int) conntrack.Tuple {
	return conntrack.Tuple{
		Src: addr("10.0.0.0") + uint32(i%8), SrcPort: uint16(5000 + i/8%5), Dst: addr("198.51.100.0") + uint32(i/40%5), DstPort: uint16(53 + i/200),
		Proto: packet.ProtoUDP,
	}
}

// begin does what the gateway does on a miss.
func (r *racer) begin(key conntrack.Tuple) (port uint16, why verdict.Reason) {
	w, a := r.b.workers[r.i], r.b.allocs[r.i]
	if f, _ := w.Find(key, now); f != nil {
		return f.Answer(conntrack.Original).DstPort, verdict.None
	}
	var search Search
	m, why := a.MapFlow(w, r.pool, nil, &key, &key, &search, now)
	for range 64 {
		if why == verdict.PortSearchWaiting {
			a.Allow(5)
			m, why = a.MapFlow(w, r.pool, nil, &key, &key, &search, now)
			continue
		}
		if why != verdict.None {
			return 0, why
		}
		reply := key.Reverse()
		reply.Dst, reply.DstPort = m.External()
		var f *conntrack.Flow
		var existed bool
		f, _, existed, why = w.Create(&conntrack.NewFlow{Original: key, Reply: reply, Kind: conntrack.Masquerade, Mapping: m}, now)
		if existed || why != verdict.None {
			w.Release(m)
		}
		if why == verdict.None {
			return f.Answer(conntrack.Original).DstPort, why
		}
		if why != verdict.ReplyTupleTaken {
			return 0, why
		}
		m, why = a.ShareFlow(w, r.b.external, &key, &key, &search, now)
	}
	return 0, why
}

func raceBehaviour(t *testing.T, how Behaviour, scarce bool) {
	const workers = 4
	b := newBench(t, workers, 8*raceKeys)
	ports := PortRange{20000, 20000 + 4*raceKeys}
	if scarce {
		ports.High = ports.Low + 63
	}
	racers := make([]*racer, workers)
	var wait sync.WaitGroup
	start := make(chan struct{})
	for i := range workers {
		b.allocs[i].Allow(5)
		b.allocs[i].SetPorts(ports)
		b.allocs[i].SetBehaviour(how)
		r := &racer{b: b, i: i, pool: NewPool(b.external), got: make([]uint16, raceKeys)}
		racers[i] = r
		wait.Go(func() {
			<-start
			for k := range raceKeys {
				port, why := r.begin(raceKey(k))
				if why != verdict.None && !scarce {
					t.Errorf("worker %d, %v: %v", i, raceKey(k), why)
				}
				r.got[k] = port
				b.workers[i].Quiesce()
			}
		})
	}
	close(start)
	wait.Wait()
	flows := 0
	for k := range raceKeys {
		f, _ := b.workers[0].Find(raceKey(k), now)
		if f != nil {
			flows++
		}
		for i, r := range racers {
			if f == nil && r.got[k] != 0 || f != nil && r.got[k] != 0 && f.Answer(conntrack.Original).DstPort != r.got[k] {
				t.Fatalf("%v: worker %d has port %d, the flow is %+v", raceKey(k), i, r.got[k], f)
			}
		}
	}
	if c := b.table.Count(); c.Flows != flows || flows == 0 || !scarce && flows != raceKeys {
		t.Errorf("%d flows are found, of %d; %+v", flows, raceKeys, c)
	}
	if err := b.table.Verify(); err != nil {
		t.Error(err)
	}
	for k := range raceKeys {
		if f, _ := b.workers[0].Find(raceKey(k), now); f != nil {
			b.workers[0].Retire(f, verdict.Filtered)
		}
	}
	if err := b.table.Verify(); err != nil {
		t.Error(err)
	}
	if c := b.table.Count(); c.Mappings != 0 || c.Sources != 0 {
		t.Errorf("left over: %+v", c)
	}
}
