package route

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"sluice/internal/fib"
)

// The kernel's own lookup (`ip route get fibmatch iif`) is the oracle: over
// random routes and rules, every answer must be the same.
func TestLookupEqualsKernel(t *testing.T) {
	r := newRig(t, 0)
	r.must(r.gateway.Sysctl("net/ipv4/ip_forward", "1"))
	r.start()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	seen := make(map[fib.HopType]int)
	for round := range 6 {
		r.randomise(rng, round)
		// The last change, recognisable. Links are read before routes.
		mtu := 1400 + round
		r.must(r.nl.LinkSetMTU(r.link("lan"), mtu))
		s := r.await("the last change of the round", func(s *fib.Snapshot) bool { return int(s.Interface(lan).MTU) == mtu })
		for range 400 {
			dst := randomAddr(rng)
			if typ, ok := r.compare(s, dst, randomAddr(rng), []string{"lan", "wan"}[rng.IntN(2)]); ok {
				seen[typ]++
			}
			if t.Failed() {
				r.describe(dst)
				return
			}
		}
	}
	t.Logf("compared: %v", seen)
	if seen[fib.Forward] < 100 || seen[fib.Kernel]+seen[fib.Local] < 20 {
		t.Errorf("too little was compared: %v", seen)
	}
}

// Few different bytes, so that prefixes nest and are hit.
func randomAddr(rng *rand.Rand) netip.Addr {
	low := []byte{0, 1, 7, 128, 254, 255}
	b := [4]byte{0, low[rng.IntN(6)], low[rng.IntN(6)], low[rng.IntN(6)]}
	b[0] = []byte{10, 10, 20, 20, 100, 192}[rng.IntN(6)]
	switch rng.IntN(8) {
	case 0:
		b = [4]byte{10, 0, 0, b[3]}
	case 1:
		b = [4]byte{192, 0, 2, b[3]}
	}
	return netip.AddrFrom4(b)
}

func randomPrefix(rng *rand.Rand) *net.IPNet {
	p := netip.PrefixFrom(randomAddr(rng), []int{0, 1, 7, 8, 12, 16, 23, 24, 31, 32}[rng.IntN(10)]).Masked()
	return network(p.String())
}

// randomise adds routes and, from the third round on, rules. The kernel may
// refuse some; what it took is what counts.
func (r *rig) randomise(rng *rand.Rand, round int) {
	gateways := []string{"10.0.0.7", "10.0.0.8", "192.0.2.254", "192.0.2.9", "172.16.0.2"}
	links := []int{r.link("lan").Attrs().Index, r.link("wan").Attrs().Index, r.link("other").Attrs().Index}
	for range 60 {
		x := netlink.Route{Dst: randomPrefix(rng), Table: []int{0, 0, 0, 100, 101}[rng.IntN(5)], Priority: rng.IntN(3)}
		switch rng.IntN(8) {
		case 0:
			x.Type = []int{syscall.RTN_UNREACHABLE, syscall.RTN_PROHIBIT, syscall.RTN_BLACKHOLE, syscall.RTN_THROW}[rng.IntN(4)]
		case 1:
			x.LinkIndex, x.Scope = links[rng.IntN(3)], netlink.SCOPE_LINK
		case 2:
			for range 2 + rng.IntN(3) {
				x.MultiPath = append(x.MultiPath, &netlink.NexthopInfo{Gw: net.ParseIP(gateways[rng.IntN(5)]).To4(), Hops: rng.IntN(4)})
			}
		default:
			x.Gw = net.ParseIP(gateways[rng.IntN(5)]).To4()
		}
		_ = r.nl.RouteAdd(&x)
	}
	// Local routes of whole networks, and some routes gone again.
	_ = r.nl.RouteAdd(&netlink.Route{Dst: randomPrefix(rng), Table: 255, Type: syscall.RTN_LOCAL, LinkIndex: r.lo(), Scope: netlink.SCOPE_HOST})
	for range 2 * max(round-1, 0) {
		x := netlink.NewRule()
		x.Family, x.Priority, x.Table = netlink.FAMILY_V4, 1+rng.IntN(50), []int{100, 101, 254}[rng.IntN(3)]
		if rng.IntN(2) == 0 {
			x.Src = randomPrefix(rng)
		}
		if rng.IntN(2) == 0 {
			x.Dst = randomPrefix(rng)
		}
		x.IifName = []string{"", "", "lan", "wan", "other"}[rng.IntN(5)]
		x.Invert = rng.IntN(4) == 0
		if rng.IntN(4) == 0 {
			x.SuppressPrefixlen = []int{0, 8, 23}[rng.IntN(3)]
		}
		if rng.IntN(5) == 0 {
			x.Mark = uint32(rng.IntN(2))
		}
		_ = r.nl.RuleAdd(x)
	}
}

func (r *rig) lo() int { return r.link("lo").Attrs().Index }

// compare asks both for one packet. It returns our answer, and false where the
// kernel refuses the source, which comes before routing.
func (r *rig) compare(s *fib.Snapshot, dst, src netip.Addr, in string) (fib.HopType, bool) {
	r.t.Helper()
	port := map[string]fib.PortID{"lan": lan, "wan": wan}[in]
	_, hop := s.Lookup(fib.U32(dst), fib.U32(src), port, 0x5bd1e995)
	routes, err := r.nl.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Iif: in, SrcAddr: src.AsSlice(), FIBMatch: true})
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		if r.refusesSource(s, src, port) {
			return 0, false
		}
		want := map[syscall.Errno]fib.HopType{syscall.EHOSTUNREACH: fib.Unreachable, syscall.EACCES: fib.Prohibit, syscall.ENETUNREACH: fib.NoRoute, syscall.EINVAL: fib.Blackhole}
		if typ, ok := want[errno]; !ok || hop.Type != typ {
			r.t.Errorf("to %v from %v in %s: the kernel says %v, we %+v", dst, src, in, errno, hop)
		}
	case err != nil:
		r.t.Fatal(err)
	case !r.same(routes[0], hop, fib.U32(dst)):
		r.t.Errorf("to %v from %v in %s: the kernel says %v, we %+v", dst, src, in, routes[0], hop)
	}
	return hop.Type, true
}

// refusesSource reports whether the kernel may drop packets from src for what a
// lookup of the way back answers (fib_validate_source): only unicast is welcome.
func (r *rig) refusesSource(s *fib.Snapshot, src netip.Addr, in fib.PortID) bool {
	for _, dst := range []string{"11.0.0.1", "1.1.1.1"} {
		if _, back := s.Lookup(fib.U32(src), ip(dst), in, 0); back.Type != fib.Forward && back.Type != fib.Kernel && back.Type != fib.NoRoute {
			return true
		}
	}
	return false
}

func (r *rig) same(k netlink.Route, hop fib.Hop, dst uint32) bool {
	switch k.Type {
	case syscall.RTN_LOCAL:
		return hop.Type == fib.Local
	case syscall.RTN_BROADCAST:
		return hop.Type == fib.Broadcast
	}
	paths := k.MultiPath
	if len(paths) == 0 {
		paths = []*netlink.NexthopInfo{{LinkIndex: k.LinkIndex, Gw: k.Gw}}
	}
	return slices.ContainsFunc(paths, func(p *netlink.NexthopInfo) bool {
		if p.LinkIndex != int(hop.Ifindex) {
			return false
		}
		gateway := uint32(0)
		if p.Gw != nil {
			gateway = addrOf(p.Gw.To4())
		}
		if r.mirror.Current().Interface(lan).Ifindex != hop.Ifindex && r.mirror.Current().Interface(wan).Ifindex != hop.Ifindex {
			return hop.Type == fib.Kernel
		}
		if gateway == 0 {
			gateway = dst
		}
		return hop.Type == fib.Forward && hop.Gateway == gateway
	})
}

// describe logs the rules, and the routes that dst may take.
func (r *rig) describe(dst netip.Addr) {
	rules, _ := r.nl.RuleList(netlink.FAMILY_V4)
	for _, x := range rules {
		r.t.Logf("%+v", x)
	}
	routes, _ := r.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	for _, x := range routes {
		if x.Dst.Contains(dst.AsSlice()) {
			r.t.Logf("type %d metric %d %v", x.Type, x.Priority, x)
		}
	}
}
