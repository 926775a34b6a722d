package nat

import (
	"cmp"
	"slices"

	"sluice/conntrack"
)

// PortForward is a static forward: an external endpoint, or several in a row, that
// belong to inside ones for good. It is a mapping that the configuration makes,
// endpoint-independent and without filtering, in both directions.
type PortForward struct {
	External, Inside uint32
	Proto            uint8  // 0: every protocol, on every port: one-to-one
	First, Last      uint16 // external ports
	To               uint16 // inside port of First; the others follow
	Out              uint8  // the port whose own address External is; AnyOut: not by interface
	Line             int    // of the configuration
}

// AnyOut is PortForward.Out where the external address is not an interface's.
const AnyOut = 0xff

// OneToOne reports whether the whole address is forwarded.
func (f *PortForward) OneToOne() bool { return f.Proto == 0 }

// inside is the inside port of an external one, and outside the reverse.
func (f *PortForward) inside(port uint16) uint16  { return f.To + port - f.First }
func (f *PortForward) outside(port uint16) uint16 { return f.First + port - f.To }

// Static is all static forwards. It is immutable; nil has none.
type Static struct {
	inward  []PortForward // by external address, protocol, first port: they do not overlap
	outward []PortForward // by inside address and protocol, in the order of the configuration
}

// NewStatic makes the table of forwards, whose external endpoints must not
// overlap. For one inside endpoint with several external ones, the first in the
// list is what its own flows leave with.
func NewStatic(list []PortForward) *Static {
	s := &Static{inward: slices.Clone(list), outward: slices.Clone(list)}
	slices.SortFunc(s.inward, func(a, b PortForward) int {
		return cmp.Or(cmp.Compare(a.External, b.External), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First))
	})
	slices.SortStableFunc(s.outward, func(a, b PortForward) int { return compareInside(&a, b.Inside, b.Proto) })
	return s
}

func compareInside(f *PortForward, inside uint32, proto uint8) int {
	return cmp.Or(cmp.Compare(f.Inside, inside), cmp.Compare(f.Proto, proto))
}

// Equal reports whether both say the same; lines do not count.
func (s *Static) Equal(other *Static) bool {
	if s == nil || other == nil {
		return s == other
	}
	same := func(a, b PortForward) bool {
		a.Line, b.Line = 0, 0
		return a == b
	}
	return slices.EqualFunc(s.inward, other.inward, same) && slices.EqualFunc(s.outward, other.outward, same)
}

// Inward returns the forward of an external endpoint and the inside endpoint that
// it leads to, or nil. A forward of the port goes before one of the address.
func (s *Static) Inward(external uint32, proto uint8, port uint16) (f *PortForward, inside uint32, to uint16) {
	if s == nil {
		return nil, 0, 0
	}
	if f := s.inwardOf(external, proto, port); f != nil {
		return f, f.Inside, f.inside(port)
	}
	if f := s.inwardOf(external, 0, 0); f != nil {
		return f, f.Inside, port
	}
	return nil, 0, 0
}

// inwardOf is the last forward that begins at or before the endpoint, if it
// reaches that far.
func (s *Static) inwardOf(external uint32, proto uint8, port uint16) *PortForward {
	low, high := 0, len(s.inward)
	for low < high {
		mid := int(uint(low+high) / 2)
		f := &s.inward[mid]
		if cmp.Or(cmp.Compare(f.External, external), cmp.Compare(f.Proto, proto), cmp.Compare(f.First, port)) <= 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return nil
	}
	if f := &s.inward[low-1]; f.External == external && f.Proto == proto && port <= f.Last {
		return f
	}
	return nil
}

// Outward returns the forward that the inside endpoint's own flows use when they
// leave by port out, with the external endpoint that it makes of it, or nil. With
// AnyOut for out, any will do.
func (s *Static) Outward(inside uint32, proto uint8, port uint16, out uint8) (f *PortForward, external uint32, from uint16) {
	if s == nil {
		return nil, 0, 0
	}
	for f := s.firstOf(inside, proto); f < len(s.outward) && compareInside(&s.outward[f], inside, proto) == 0; f++ {
		x := &s.outward[f]
		if port >= x.To && int(port)-int(x.To) <= int(x.Last)-int(x.First) && x.usable(out) {
			return x, x.External, x.outside(port)
		}
	}
	for f := s.firstOf(inside, 0); f < len(s.outward) && compareInside(&s.outward[f], inside, 0) == 0; f++ {
		if x := &s.outward[f]; x.usable(out) {
			return x, x.External, port
		}
	}
	return nil, 0, 0
}

// Serves reports whether any forward leads to the inside address by the protocol,
// whatever its port: a later fragment has none.
func (s *Static) Serves(inside uint32, proto uint8) bool {
	if s == nil {
		return false
	}
	for _, proto := range [...]uint8{proto, 0} {
		if f := s.firstOf(inside, proto); f < len(s.outward) && compareInside(&s.outward[f], inside, proto) == 0 {
			return true
		}
	}
	return false
}

func (f *PortForward) usable(out uint8) bool { return f.Out == AnyOut || out == AnyOut || f.Out == out }

// firstOf is the place of the first forward of an inside address and protocol.
func (s *Static) firstOf(inside uint32, proto uint8) int {
	low, high := 0, len(s.outward)
	for low < high {
		mid := int(uint(low+high) / 2)
		if compareInside(&s.outward[mid], inside, proto) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// Owns reports whether flows that leave by port out may have addr as their
// source, since a forward says so.
func (s *Static) Owns(out uint8, addr uint32) bool {
	if s == nil {
		return false
	}
	for i := range s.inward {
		if f := &s.inward[i]; f.External == addr && f.usable(out) {
			return true
		}
	}
	return false
}

// Translates reports whether a flow of kind PortForward is one that the forwards
// make: its destination by one of them, or its source, or both.
func (s *Static) Translates(original, reply conntrack.Tuple) bool {
	if reply.Src != original.Dst || reply.SrcPort != original.DstPort {
		f, inside, to := s.Inward(original.Dst, original.Proto, original.DstPort)
		return f != nil && inside == reply.Src && to == reply.SrcPort
	}
	f, inside, to := s.Inward(reply.Dst, original.Proto, reply.DstPort)
	return f != nil && inside == original.Src && to == original.SrcPort
}

// Ports adds the ports of one protocol that are forwarded at an external address to
// the bitmap: bit p%64 of word p/64.
func (s *Static) Ports(external uint32, proto uint8, ports *[1 << 16 / 64]uint64) {
	if s == nil {
		return
	}
	for i := range s.inward {
		f := &s.inward[i]
		if f.External != external || f.Proto != proto && !f.OneToOne() {
			continue
		}
		for port := int(f.First); port <= int(f.Last); port++ {
			ports[port/64] |= 1 << (port % 64)
		}
	}
}
