package conntrack

import (
	"fmt"
	"testing"
	"time"

	"sluice/internal/verdict"
)

// BenchmarkRebuild is how long a start takes to make a full table whole again:
// what a restart adds to the gap.
func BenchmarkRebuild(b *testing.B) {
	for _, kind := range []Kind{Forward, Masquerade} {
		b.Run(fmt.Sprintf("%v/1000000", kind), func(b *testing.B) { benchRebuild(b, kind, 1_000_000) })
	}
}

func benchRebuild(b *testing.B, kind Kind, flows int) {
	cfg := adoptionConfig(flows, 1)
	mem := huge(b, Size(cfg))
	table, err := New(mem, cfg)
	if err != nil {
		b.Fatal(err)
	}
	// As many as a mapping for each needs: an external address has 64512.
	var externals []uint32
	for i := range uint32(16) {
		externals = append(externals, external+i)
	}
	l := &left{cfg: cfg, mem: mem, table: table, w: table.Worker(0)}
	for _, addr := range externals {
		if err := table.AddExternal(NewExternal(addr, nil)); err != nil {
			b.Fatal(err)
		}
	}
	for i := range flows {
		tuple := benchTuple(i)
		if kind == Masquerade {
			l.masquerade(b, tuple, externals[i%16], uint16(1024+i/16), 1)
		} else if _, _, _, r := l.w.Create(plain(tuple), 1); r != verdict.None {
			b.Fatal(r)
		}
	}
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		r, err := Adopt(mem, len(mem), cfg)
		if err != nil {
			b.Fatal(err)
		}
		for _, addr := range externals {
			if err := r.Table().AddExternal(NewExternal(addr, nil)); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		began := time.Now()
		report := r.Rebuild(1)
		b.ReportMetric(float64(time.Since(began).Nanoseconds())/float64(flows), "ns/flow")
		if report.Adopted != flows {
			b.Fatal(report)
		}
	}
}
