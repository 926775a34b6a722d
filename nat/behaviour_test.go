package nat

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// modelFlow is a flow that the test holds, and its mapping as a client sees it.
type modelFlow struct {
	key      conntrack.Tuple
	flow     *conntrack.Flow
	external uint16
}

// behaviourModel knows, of the flows that there are, who has which port towards
// whom, by looking at all of them.
type behaviourModel struct {
	*rapid.T
	b     *bench
	how   Behaviour
	ports PortRange
	flows []modelFlow
}

// reply is the tuple in which the answers to key arrive at a port.
func (m *behaviourModel) reply(key conntrack.Tuple, port uint16) conntrack.Tuple {
	key.Src, key.SrcPort = m.b.external.Address(), port
	return key.Reverse()
}

// begin makes the flow that a packet would begin, as the gateway does.
func (m *behaviourModel) begin(key conntrack.Tuple) (f *conntrack.Flow, port uint16, r verdict.Reason) {
	a, w := m.b.allocs[0], m.b.workers[0]
	pool := NewPool(m.b.external)
	var search Search
	mapping, r := a.MapFlow(w, pool, nil, &key, &key, &search, now)
	for range 16 {
		if r == verdict.PortSearchWaiting { // a port a time: see runBehaviour
			a.Allow(1)
			mapping, r = a.MapFlow(w, pool, nil, &key, &key, &search, now)
			continue
		}
		if r != verdict.None {
			return nil, 0, r
		}
		_, port = mapping.External()
		var existed bool
		f, _, existed, r = w.Create(&conntrack.NewFlow{Original: key, Reply: m.reply(key, port), Kind: conntrack.Masquerade, Mapping: mapping}, now)
		if existed {
			m.Fatalf("%v existed", key)
		}
		if r == verdict.None {
			return f, port, r
		}
		w.Release(mapping)
		if r != verdict.ReplyTupleTaken {
			return nil, 0, r
		}
		mapping, r = a.ShareFlow(w, m.b.external, &key, &key, &search, now)
	}
	return nil, 0, r
}

// mapped reports whether the inside endpoint has a mapping that serves key.
func (m *behaviourModel) mapped(key conntrack.Tuple) bool {
	w := m.b.workers[0]
	var found *conntrack.Mapping
	switch m.how.Mapping {
	case MapEndpoint:
		found = w.FindMapping(key.Proto, key.Src, key.SrcPort, m.b.external)
	case MapAddress:
		found = w.FindMappingTowards(key.Proto, key.Src, key.SrcPort, m.b.external, key.Dst)
	}
	if found == nil {
		return false
	}
	w.Release(found)
	return true
}

// same reports whether two flows of one inside endpoint are towards the same
// destination, as far as the mapping behaviour asks.
func (m *behaviourModel) same(a, b conntrack.Tuple) bool {
	switch m.how.Mapping {
	case MapAddress:
		return a.Dst == b.Dst
	case MapAddressAndPort:
		return a.Dst == b.Dst && a.DstPort == b.DstPort
	}
	return true
}

// judge holds a new flow, or its refusal, to what the behaviour promises.
// mapped says that the endpoint had a mapping for it before.
func (m *behaviourModel) judge(key conntrack.Tuple, mapped bool, port uint16, r verdict.Reason) {
	free := int(m.ports.High-m.ports.Low) + 1
	used := map[uint16]bool{}
	for _, f := range m.flows {
		used[f.external] = true
	}
	free -= len(used)
	if r != verdict.None {
		if r != verdict.PortsExhausted && r != verdict.ReplyTupleTaken || free > 0 {
			m.Fatalf("%v: %v with %d ports free", key, r, free)
		}
		if r == verdict.PortsExhausted && m.how.shares() {
			m.noneToShare(key)
		}
		return
	}
	if !m.ports.contains(port) {
		m.Fatalf("%v: port %d of %v", key, port, m.ports)
	}
	for _, f := range m.flows {
		mine := f.key.Src == key.Src && f.key.SrcPort == key.SrcPort
		switch {
		case mine && m.same(f.key, key) && !m.how.Overload && f.external != port:
			m.Fatalf("%v: port %d, and %d for %v", key, port, f.external, f.key) // REQ-1, or its dependent kin
		case mine && !m.same(f.key, key) && f.external == port && (!m.how.shares() || free > 0 && !mapped):
			m.Fatalf("%v: port %d, as for %v", key, port, f.key)
		case mine || f.external != port:
		case free > 0 && !mapped, !m.how.shares():
			m.Fatalf("%v: port %d is shared with %v, and %d are free", key, port, f.key, free) // REQ-3
		case f.key.Dst == key.Dst && f.key.DstPort == key.DstPort,
			// (An endpoint keeps its mapping even where one that shares its port was
			// first with the peer: strangers' packets of that peer are the other's.)
			f.key.Dst == key.Dst && m.how.Filtering == FilterAddress && m.how.Mapping != MapEndpoint:
			m.Fatalf("%v: port %d is shared with %v, and answers cannot be told apart", key, port, f.key)
		}
	}
}

// noneToShare fails where a port could be shared by a flow for which none was found:
// somebody else's, that nobody uses towards its destination.
func (m *behaviourModel) noneToShare(key conntrack.Tuple) {
	for port := int(m.ports.Low); port <= int(m.ports.High); port++ {
		on := m.b.workers[0].MappingAt(m.b.external, key.Proto, uint16(port))
		if on == nil {
			continue
		}
		addr, inside := on.Inside()
		// Who had the port first stays listed while others share it.
		taken := addr == key.Src && inside == key.SrcPort || m.b.workers[0].PeerAt(m.b.external, key.Proto, uint16(port), key.Dst) != nil
		for _, f := range m.flows {
			taken = taken || int(f.external) == port && f.key.Dst == key.Dst
		}
		if !taken {
			m.Fatalf("%v: no port, and it could share %d", key, port)
		}
	}
}

// admitted compares who may send to a port with the flows that there have been.
func (m *behaviourModel) admitted(port uint16, peer uint32) {
	w := m.b.workers[0]
	on := w.MappingAt(m.b.external, packet.ProtoUDP, port)
	if on == nil {
		for _, f := range m.flows {
			if f.external == port {
				m.Fatalf("port %d of %v is nobody's", port, f.key)
			}
		}
		return
	}
	got, r := m.how.Admitted(w, m.b.external, on, packet.ProtoUDP, port, peer)
	for _, f := range m.flows {
		if f.external != port || f.key.Dst != peer || m.how.Filtering != FilterAddress || m.how.Overload && m.how.Mapping == MapEndpoint {
			continue
		}
		if got == nil {
			m.Fatalf("%#x is not admitted to port %d of %v: %v", peer, port, f.key, r)
		}
		if addr, inside := got.Inside(); addr != f.key.Src || inside != f.key.SrcPort {
			m.Fatalf("%#x is admitted to port %d of another than %v", peer, port, f.key)
		}
	}
	if want := m.how.Filtering == FilterEndpoint; m.how.Filtering != FilterAddress && (r == verdict.None) != want {
		m.Fatalf("%#x to port %d: %v", peer, port, r)
	}
}

// TestBehavioursAgainstModel: in each mode, random flows come and go over a few
// ports. (RFC 4787 REQ-1, REQ-3, REQ-11, RFC 7857 3.)
func TestBehavioursAgainstModel(t *testing.T) {
	for mapping := range MappingBehaviour(3) {
		for filtering := range FilteringBehaviour(3) {
			for _, overload := range []bool{false, true} {
				how := Behaviour{Mapping: mapping, Filtering: filtering, Overload: overload}
				t.Run(fmt.Sprintf("%v mapping, %v filtering, overload %v", mapping, filtering, overload), func(t *testing.T) {
					rapid.Check(t, func(rt *rapid.T) { runBehaviour(rt, how) })
				})
			}
		}
	}
}

func runBehaviour(rt *rapid.T, how Behaviour) {
	m := &behaviourModel{T: rt, b: newBench(rt, 1, 256), how: how, ports: PortRange{5000, 5003}}
	restless := conntrack.DefaultTimeouts()
	restless.PortRest = 0
	m.b.table.SetTimeouts(&restless)
	m.b.allocs[0].SetPorts(m.ports)
	m.b.allocs[0].SetBehaviour(how)
	for range rapid.IntRange(1, 40).Draw(rt, "steps") {
		if n := len(m.flows); n > 0 && rapid.IntRange(0, 3).Draw(rt, "end") == 0 {
			i := rapid.IntRange(0, n-1).Draw(rt, "which")
			m.b.workers[0].Retire(m.flows[i].flow, verdict.Filtered)
			m.flows = append(m.flows[:i], m.flows[i+1:]...)
		} else {
			key := conntrack.Tuple{
				Src: addr("10.0.0.0") + rapid.Uint32Range(0, 2).Draw(rt, "host"), SrcPort: rapid.Uint16Range(5002, 5004).Draw(rt, "port"),
				Dst: addr("198.51.100.0") + rapid.Uint32Range(0, 2).Draw(rt, "peer"), DstPort: rapid.Uint16Range(53, 54).Draw(rt, "to"), Proto: packet.ProtoUDP,
			}
			if f, _ := m.b.workers[0].Find(key, now); f != nil {
				continue
			}
			m.b.allocs[0].Allow(rapid.SampledFrom([]int{0, 1, 2, 100}).Draw(rt, "allowed"))
			mapped := m.mapped(key)
			f, port, r := m.begin(key)
			m.judge(key, mapped, port, r)
			if r == verdict.None {
				m.flows = append(m.flows, modelFlow{key, f, port})
			}
		}
		m.b.workers[0].Quiesce()
		m.admitted(rapid.Uint16Range(5000, 5003).Draw(rt, "at"), addr("198.51.100.0")+rapid.Uint32Range(0, 3).Draw(rt, "from"))
	}
	if err := m.b.table.Verify(); err != nil {
		rt.Fatal(err)
	}
}

// TestMapFlowAllocs: no mode allocates.
func TestMapFlowAllocs(t *testing.T) {
	for mapping := range MappingBehaviour(3) {
		for filtering := range FilteringBehaviour(3) {
			b := newBench(t, 1, 1024)
			a, w, pool := b.allocs[0], b.workers[0], NewPool(b.external)
			a.SetPorts(PortRange{5000, 5000})
			a.SetBehaviour(Behaviour{Mapping: mapping, Filtering: filtering, Overload: true})
			if n := testing.AllocsPerRun(100, func() {
				key := conntrack.Tuple{Src: 1, SrcPort: 2, Dst: 3, DstPort: 4, Proto: packet.ProtoUDP}
				var search Search
				first, r := a.MapFlow(w, pool, nil, &key, &key, &search, now)
				if r != verdict.None {
					t.Fatal(r)
				}
				key.Src, key.Dst = 5, 6
				second, r := a.MapFlow(w, pool, nil, &key, &key, &search, now) // has to share
				if r != verdict.None {
					t.Fatal(r)
				}
				w.Release(second)
				w.Release(first)
				w.Quiesce()
			}); n != 0 {
				t.Errorf("%v, %v: %v allocations", mapping, filtering, n)
			}
		}
	}
}
