package nat

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// foresee is what a worker does before it begins a flow.
func (b *bench) foresee(pool *Pool, key *conntrack.Tuple) Hint {
	list := b.workers[0].Ahead()
	list.Source(key.Src)
	list.SourceRecord(key.Src)
	h := b.allocs[0].Ahead(list, b.workers[0], pool, key)
	b.allocs[0].AheadPort(list, b.workers[0], &h, key, key, now)
	list.Free(0)
	list.Send()
	return h
}

// TestHint: the port that is foreseen is the one that the mapping gets, and if it
// was taken meanwhile another; an endpoint with a mapping keeps that.
func TestHint(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(rt, 1, 1024)
		other := conntrack.NewExternal(addr("192.0.2.2"), nil)
		b.table.AddExternal(other)
		pool := NewPool(b.external, other)
		a, w := b.allocs[0], b.workers[0]
		a.SetPorts(PortRange{1024, 1024 + uint16(rapid.IntRange(0, 200).Draw(rt, "ports"))})
		for i := range rapid.IntRange(1, 40).Draw(rt, "flows") {
			key := conntrack.Tuple{
				Src: addr("10.0.0.1") + uint32(rapid.IntRange(0, 3).Draw(rt, "host")), Dst: addr("198.51.100.1"),
				SrcPort: uint16(1020 + rapid.IntRange(0, 30).Draw(rt, "sport")), DstPort: 53, Proto: packet.ProtoUDP,
			}
			h := b.foresee(pool, &key)
			had := find(w, &conntrack.Claim{Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: h.external})
			taken := h.port != 0 && rapid.IntRange(0, 3).Draw(rt, "taken") == 0
			if taken {
				// By an endpoint of its own each time, which keeps it.
				if _, existed, lost, r := w.NewMapping(key.Proto, addr("10.9.9.9"), uint16(i), h.external, h.port, nil, now); existed || lost || r != verdict.None {
					rt.Fatalf("port %d was foreseen and cannot be had", h.port)
				}
			}
			m, r := a.MapHinted(w, pool, h, &key, &key, &Search{}, now)
			switch {
			case r == verdict.PortsExhausted:
				if h.port != 0 && !taken {
					rt.Fatalf("no port, but %d was foreseen", h.port)
				}
			case r != verdict.None:
				rt.Fatal(r)
			default:
				at, port := m.External()
				if at != h.external.Address() {
					rt.Fatalf("mapped to %s, %s was foreseen", address(at), address(h.external.Address()))
				}
				if had == nil && !taken && port != h.port || taken && port == h.port || had != nil && m != had {
					rt.Fatalf("port %d, foreseen %d, taken %v, mapped before %v", port, h.port, taken, had != nil)
				}
			}
		}
	})
}
