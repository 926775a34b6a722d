package nat

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
)

// TestStaticAgainstModel: the table answers as the list does that is asked from
// the beginning to the end, both ways, and the two ways are inverse.
func TestStaticAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var list []PortForward
		for range rapid.IntRange(0, 8).Draw(rt, "forwards") {
			f := PortForward{
				External: rapid.Uint32Range(1, 3).Draw(rt, "external"), Inside: rapid.Uint32Range(10, 12).Draw(rt, "inside"),
				Proto: rapid.SampledFrom([]uint8{0, packet.ProtoTCP, packet.ProtoUDP}).Draw(rt, "proto"),
				First: rapid.Uint16Range(1, 20).Draw(rt, "first"), To: rapid.Uint16Range(1, 20).Draw(rt, "to"),
				Out: rapid.SampledFrom([]uint8{AnyOut, 0, 1}).Draw(rt, "out"),
			}
			f.Last = f.First + rapid.Uint16Range(0, 5).Draw(rt, "more")
			if f.Proto == 0 {
				f.First, f.Last, f.To = 0, 65535, 0
			}
			clash := false
			for _, g := range list {
				clash = clash || f.External == g.External && f.Proto == g.Proto && f.First <= g.Last && g.First <= f.Last
			}
			if !clash {
				list = append(list, f)
			}
		}
		s := NewStatic(list)
		for proto := range map[uint8]bool{packet.ProtoTCP: true, packet.ProtoUDP: true, packet.ProtoGRE: true} {
			for port := range uint16(30) {
				for external := uint32(1); external <= 3; external++ {
					f, inside, to := s.Inward(external, proto, port)
					if want, at := inward(list, external, proto, port); want == nil != (f == nil) || f != nil && (*want != *f || inside != want.Inside || to != at) {
						rt.Fatalf("inward %d/%d:%d is %+v, %d:%d; want %+v:%d", proto, external, port, f, inside, to, want, at)
					}
				}
				for inside := uint32(10); inside <= 12; inside++ {
					for _, out := range []uint8{0, 1, AnyOut} {
						f, external, from := s.Outward(inside, proto, port, out)
						if want, at := outward(list, inside, proto, port, out); want == nil != (f == nil) || f != nil && (*want != *f || external != want.External || from != at) {
							rt.Fatalf("outward %d/%d:%d by %d is %+v, %d:%d; want %+v:%d", proto, inside, port, out, f, external, from, want, at)
						}
					}
				}
			}
		}
	})
}

func inward(list []PortForward, external uint32, proto uint8, port uint16) (*PortForward, uint16) {
	for i, f := range list {
		if f.External == external && f.Proto == proto && f.First <= port && port <= f.Last {
			return &list[i], port - f.First + f.To
		}
	}
	for i, f := range list {
		if f.External == external && f.Proto == 0 {
			return &list[i], port
		}
	}
	return nil, 0
}

func outward(list []PortForward, inside uint32, proto uint8, port uint16, out uint8) (*PortForward, uint16) {
	for i, f := range list {
		last := int(f.To) + int(f.Last-f.First)
		if f.Inside == inside && f.Proto == proto && int(f.To) <= int(port) && int(port) <= last && (f.Out == AnyOut || out == AnyOut || f.Out == out) {
			return &list[i], port - f.To + f.First
		}
	}
	for i, f := range list {
		if f.Inside == inside && f.Proto == 0 && (f.Out == AnyOut || out == AnyOut || f.Out == out) {
			return &list[i], port
		}
	}
	return nil, 0
}
