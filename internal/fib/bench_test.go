package fib

import (
	"net/netip"
	"testing"
)

func BenchmarkLookup(b *testing.B) {
	build := gateway()
	for i := range uint32(250) {
		build.SetNeighbour(Neighbour{Port: lan, Addr: ip("10.0.0.2") + i, State: Resolved, MAC: macA})
	}
	s := build.Build()
	for name, dst := range map[string]uint32{"gateway": ip("1.1.1.1"), "on-link": ip("10.0.0.77")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				s.Lookup(dst, ip("10.0.0.7"), lan, uint32(i))
			}
		})
	}
}

// A table of the size of a large provider's customer routes.
func BenchmarkBuild(b *testing.B) {
	var routes []Route
	for i := range uint32(100_000) {
		routes = append(routes, Route{Table: TableMain, Prefix: netip.PrefixFrom(Addr(ip("20.0.0.0")+i<<8), 24), Paths: via("192.0.2.254", wanIndex)})
	}
	b.Run("routes", func(b *testing.B) {
		for range b.N {
			build := gateway(routes...)
			build.Build()
		}
	})
	b.Run("neighbour", func(b *testing.B) {
		build := gateway(routes...)
		for i := range b.N {
			build.SetNeighbour(Neighbour{Port: lan, Addr: ip("10.0.0.2"), State: Resolved, MAC: [6]byte{5: byte(i)}})
			build.Build()
		}
	})
	b.Run("steer", func(b *testing.B) {
		s := gateway(routes...).Build()
		for range b.N {
			s.Steer()
		}
	})
}
