package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// benchSizes are numbers of flows: one that the caches hold, one that the
// last-level cache holds, one that they do not.
var benchSizes = []int{1_000, 64_000, 1_000_000}

// huge is memory such as the daemon's: outside the heap, in huge pages.
func huge(b *testing.B, n int) []byte {
	n = (n + 2<<20 - 1) &^ (2<<20 - 1)
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Munmap(mem) })
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
	return mem
}

func benchTable(b *testing.B, capacity int) *Table {
	cfg := Config{MaxFlows: capacity, Workers: 1, Timeouts: restless(), Seed: [2]uint64{rand.Uint64(), rand.Uint64()}}
	table, err := New(huge(b, Size(cfg)), cfg)
	if err != nil {
		b.Fatal(err)
	}
	return table
}

func benchTuple(i int) Tuple {
	return udp(client+uint32(i)>>12, uint16(1024+i&0xfff), server, 53)
}

// benchFlows fills a table with n flows.
func benchFlows(b *testing.B, n int) (*Worker, []Tuple) {
	w := benchTable(b, max(n, 1024)).Worker(0)
	keys := make([]Tuple, n)
	for i := range keys {
		keys[i] = benchTuple(i)
		f := mustCreate(b, w, plain(keys[i]), 1)
		w.Update(f, Reply, &packet.Packet{Proto: packet.ProtoUDP})
	}
	rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return w, keys
}

// BenchmarkLookup is the time for one packet's flow: found, state moved on,
// counted. Keys are uniformly random, which is the hardest for the caches.
func BenchmarkLookup(b *testing.B) {
	for _, n := range benchSizes {
		p := &packet.Packet{Proto: packet.ProtoUDP}
		b.Run(fmt.Sprintf("burst/%d", n), func(b *testing.B) {
			w, keys := benchFlows(b, n)
			l := new(Lookup)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += Burst {
				at := i % (n - Burst)
				copy(l.Keys[:], keys[at:])
				w.LookupBurst(l, Burst, 2)
				for j := range l.Flow {
					w.Update(l.Flow[j], l.Dir[j], p)
					l.Flow[j].Touch(l.Dir[j], 100, 2)
				}
			}
		})
		b.Run(fmt.Sprintf("single/%d", n), func(b *testing.B) {
			w, keys := benchFlows(b, n)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				f, d := w.Find(keys[i%n], 2)
				w.Update(f, d, p)
				f.Touch(d, 100, 2)
			}
		})
		b.Run(fmt.Sprintf("miss/%d", n), func(b *testing.B) {
			w, keys := benchFlows(b, n)
			l := new(Lookup)
			b.ResetTimer()
			for i := 0; i < b.N; i += Burst {
				copy(l.Keys[:], keys[i%(n-Burst):])
				for j := range l.Keys {
					l.Keys[j].DstPort++
				}
				w.LookupBurst(l, Burst, 2)
			}
		})
	}
}

// BenchmarkSetup is a flow's whole life, in a table that holds n others: the
// look-up that misses, source, mapping, port, both index entries, and the end.
func BenchmarkSetup(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("plain/%d", n), func(b *testing.B) {
			table := benchTable(b, n+Burst)
			w := table.Worker(0)
			for i := range n {
				mustCreate(b, w, plain(benchTuple(i)), 1)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				nf := plain(benchTuple(n + i))
				w.Find(nf.Original, 2)
				f, _, _, _ := w.Create(nf, 2)
				w.Retire(f, verdict.Filtered)
				if i%16 == 0 {
					w.Quiesce()
				}
			}
		})
		b.Run(fmt.Sprintf("masquerade/%d", n), func(b *testing.B) {
			table := benchTable(b, n+Burst)
			w := table.Worker(0)
			x := NewExternal(external, nil)
			if err := table.AddExternal(x); err != nil {
				b.Fatal(err)
			}
			for i := range n {
				mustCreate(b, w, plain(benchTuple(i)), 1)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				key := benchTuple(n + i)
				w.Find(key, 2)
				src, _ := w.Source(key.Src)
				m, _, _, r := w.NewMapping(key.Proto, key.Src, key.SrcPort, x, key.SrcPort, src, 2)
				if m == nil {
					b.Fatal(r)
				}
				nf := &NewFlow{Original: key, Reply: key.Reverse(), Kind: Masquerade, Mapping: m}
				nf.Reply.Dst, nf.Reply.DstPort = m.External()
				f, _, _, _ := w.Create(nf, 2)
				w.Retire(f, verdict.Filtered)
				if i%16 == 0 {
					w.Quiesce()
				}
			}
		})
	}
}

// BenchmarkSweep is the time for one record.
func BenchmarkSweep(b *testing.B) {
	w, _ := benchFlows(b, 1_000_000)
	b.ResetTimer()
	for i := 0; i < b.N; i += 32 {
		w.Sweep(32, 2)
	}
}
