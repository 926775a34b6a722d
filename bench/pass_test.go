package bench

import (
	"testing"
	"time"
)

// The benchmarks below are what the compiler's profile is taken of (make
// profile), and what one looks at in pprof. Figures to quote come from `sluice
// bench`.

var benchmarkSizes = []int{1 << 10, 1 << 16, 1 << 20}

func benchmarkRig(b *testing.B, n int) (*rig, *traffic) {
	r, err := newRig(n)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.close() })
	flows := makeFlows(0, n)
	if err := r.populate(flows); err != nil {
		b.Fatal(err)
	}
	return r, newTraffic(flows, Uniform)
}

func BenchmarkWholePass(b *testing.B) {
	for _, n := range benchmarkSizes {
		b.Run(sizeName(n), func(b *testing.B) {
			r, t := benchmarkRig(b, n)
			var took time.Duration
			b.ResetTimer()
			for i := 0; i < b.N; i += group {
				_, d := r.step(t)
				took += d
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/packet")
		})
	}
}

func BenchmarkSetUp(b *testing.B) {
	for _, n := range benchmarkSizes {
		b.Run(sizeName(n), func(b *testing.B) {
			r, _ := benchmarkRig(b, n)
			fresh := makeFlows(n+portsPerHost, freshFlows)
			var took time.Duration
			b.ResetTimer()
			for i := 0; i < b.N; i += freshFlows {
				_, d := r.setUp(fresh)
				took += d
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/flow")
		})
	}
}

func BenchmarkKinds(b *testing.B) {
	k, err := newKindRig(1 << 15)
	if err != nil {
		b.Fatal(err)
	}
	defer k.close()
	for i := range k.chatters {
		c := &k.chatters[i]
		b.Run(c.name, func(b *testing.B) {
			var took time.Duration
			for i := 0; i < b.N; i += group {
				_, d := k.step(c)
				took += d
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/packet")
		})
	}
}
