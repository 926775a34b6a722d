package xdp

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"
)

// Verdicts of a model of the prefix map.
const (
	modelNone = iota
	modelKernel
	modelWorker
)

// lookup is the longest match, by looking at every prefix.
func lookup(routes map[netip.Prefix]bool, a netip.Addr) int {
	verdict, bits := modelNone, -1
	for p, toWorker := range routes {
		if p.Contains(a) && p.Bits() > bits {
			verdict, bits = modelKernel+int(b2u(toWorker)), p.Bits()
		}
	}
	return verdict
}

// maxModelRoutes is less than the 32 prefixes there are to draw, so that the old
// and the new set often do not fit in the map together.
const maxModelRoutes = 24

// drawRoutes draws nested prefixes over 16 neighbouring destinations.
func drawRoutes(t *rapid.T, label string) map[netip.Prefix]bool {
	return rapid.MapOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "address") & 15})
		return netip.PrefixFrom(a, rapid.IntRange(27, 32).Draw(t, "bits")).Masked()
	}), rapid.Bool(), 0, maxModelRoutes).Draw(t, label)
}

// TestRouteChangesHaveNoThirdVerdict: however two sets differ, every
// destination goes from the old verdict to the new one, once.
func TestRouteChangesHaveNoThirdVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, wanted := drawRoutes(t, "old"), drawRoutes(t, "wanted")
		now := maps.Clone(old)
		var changed [16]bool
		for _, c := range routeChanges(old, wanted) {
			if c.remove {
				delete(now, c.prefix)
			} else {
				now[c.prefix] = c.toWorker
			}
			for i := range changed {
				a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
				was, is, will := lookup(old, a), lookup(now, a), lookup(wanted, a)
				switch {
				case is != was && is != will:
					t.Fatalf("%s goes from %d over %d to %d with %+v", a, was, is, will, c)
				case is != was:
					changed[i] = true
				case changed[i] && is != will:
					t.Fatalf("%s goes back to %d with %+v", a, is, c)
				}
			}
		}
		if !maps.Equal(now, wanted) {
			t.Fatalf("ends with %v, want %v", now, wanted)
		}
	})
}

// TestSetRoutesAgainstModel: what the kernel's map holds after each of many
// changes of the whole set is that set.
func TestSetRoutesAgainstModel(t *testing.T) {
	w := newWorld(t, SteeringConfig{MaxRoutes: maxModelRoutes})
	rapid.Check(t, func(t *rapid.T) {
		wanted := drawRoutes(t, "routes")
		var routes []SteeringRoute
		for p, toWorker := range wanted {
			routes = append(routes, SteeringRoute{p, toWorker})
		}
		if err := w.SetRoutes(routes); err != nil {
			t.Fatal(err)
		}
		for i := range byte(32) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, i})
			var verdict uint32
			got := modelNone
			err := w.maps.Routes.Lookup(routeKey(netip.PrefixFrom(a, 32)), &verdict)
			switch {
			case err == nil:
				got = modelKernel + int(verdict)
			case !errors.Is(err, ebpf.ErrKeyNotExist):
				t.Fatal(err)
			}
			if want := lookup(wanted, a); got != want {
				t.Fatalf("%s: %d, want %d", a, got, want)
			}
		}
	})
}
