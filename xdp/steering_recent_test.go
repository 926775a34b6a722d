package xdp

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// slotOf is slot_of of the C source, for an address in host byte order.
func slotOf(a netip.Addr) uint32 {
	k := a.As4()
	le := uint32(k[0]) | uint32(k[1])<<8 | uint32(k[2])<<16 | uint32(k[3])<<24
	return le * 0x9e3779b1 >> 16 & 2047
}

// sharedSlot are destinations of 10.0.0.0/8 that the program remembers in one
// place.
func sharedSlot(n int) (list []netip.Addr) {
	first := netip.MustParseAddr("10.1.2.3")
	for a := first; len(list) < n; a = a.Next() {
		if slotOf(a) == slotOf(first) {
			list = append(list, a)
		}
	}
	return list
}

// remembered is how many destinations the program remembers, on all CPUs.
func (w *world) remembered() (n int) {
	var perCPU [][2048]uint64
	must(w.maps.Recent.Lookup(uint32(0), &perCPU))
	for _, slots := range perCPU {
		for _, s := range slots {
			if s != 0 {
				n++
			}
		}
	}
	return n
}

// TestSteeringRemembers: what a worker gets by a route is remembered, and nothing
// else is.
func TestSteeringRemembers(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	w.expect("before anything is remembered", tcp(at(netip.MustParseAddr("0.0.0.0"), 80)), verdictPass, "kernel-no-route")
	for _, f := range [][]byte{tcp(at(peerAddress, 80)), tcp(at(hostAddress, 80)), tcp(at(sharedAddress, heldTCP)), tcp(at(poolAddress, heldTCP))} {
		w.run(f)
	}
	if n := w.remembered(); n != 0 {
		t.Errorf("%d destinations remembered that no route gave to a worker", n)
	}
	w.expect("first", tcp(routedTo), verdictRedirect, "worker-routed")
	if n := w.remembered(); n != 1 {
		t.Errorf("%d destinations remembered, want 1", n)
	}
	w.expect("remembered", tcp(routedTo), verdictRedirect, "worker-routed")
}

// TestSteeringForgets: whatever changes, the next frame is decided by what is now,
// be the destination remembered or its slot another's.
func TestSteeringForgets(t *testing.T) {
	w := newWorld(t, SteeringConfig{StaleAfter: time.Hour})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	destinations := append(sharedSlot(3), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("0.0.0.0"))
	rapid.Check(t, func(t *rapid.T) {
		routes, addresses := map[netip.Prefix]bool{}, map[netip.Addr]AddressKind{}
		for _, d := range destinations {
			must(w.DeleteAddress(hostOrder(d)))
		}
		must(w.SetRoutes(nil))
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			d := rapid.SampledFrom(destinations).Draw(t, "destination")
			switch rapid.IntRange(0, 2).Draw(t, "change") {
			case 0:
				p := netip.PrefixFrom(d, rapid.SampledFrom([]int{0, 8, 32}).Draw(t, "bits")).Masked()
				if routes[p] {
					delete(routes, p)
				} else {
					routes[p] = rapid.IntRange(0, 3).Draw(t, "to a worker") > 0
				}
				var list []SteeringRoute
				for p, worker := range routes {
					list = append(list, SteeringRoute{p, worker})
				}
				must(w.SetRoutes(list))
			case 1:
				addresses[d] = AddrHost
				must(w.SetAddress(hostOrder(d), AddrHost, -1))
			case 2:
				delete(addresses, d)
				must(w.DeleteAddress(hostOrder(d)))
			}
			for range 2 {
				for _, d := range destinations {
					want := []string{"kernel-no-route", "kernel-routed", "worker-routed"}[lookup(routes, d)]
					if addresses[d] != 0 {
						want = "kernel-host-address"
					}
					if _, reason := w.run(tcp(at(d, 80))); reason != want {
						t.Fatalf("%s is %s, want %s", d, reason, want)
					}
				}
			}
		}
	})
}
