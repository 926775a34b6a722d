package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/internal/fib"
	"sluice/internal/lab"
)

func TestRoutesAreFollowed(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	// What New read.
	s := r.mirror.Current()
	for dst, want := range map[string]fib.HopType{
		"10.0.0.1": fib.Local, "192.0.2.1": fib.Local, "172.16.0.1": fib.Local, "127.0.0.1": fib.Local,
		"10.0.0.255": fib.Broadcast, "192.0.2.255": fib.Broadcast,
		"10.0.0.7": fib.Forward, "1.1.1.1": fib.Forward, "172.16.0.2": fib.Kernel,
	} {
		if got := hop(s, dst); got.Type != want {
			t.Errorf("%s: %v, want %v", dst, got.Type, want)
		}
	}
	if !by("1.1.1.1", "192.0.2.254")(s) || !by("10.0.0.9", "10.0.0.9")(s) {
		t.Errorf("default route by %v, neighbour by %v", fib.Addr(hop(s, "1.1.1.1").Gateway), fib.Addr(hop(s, "10.0.0.9").Gateway))
	}
	if words := r.mirror.Unsupported(); len(words) != 0 {
		t.Errorf("unsupported on a plain host: %q", words)
	}

	gw := func(a string) net.IP { return net.ParseIP(a).To4() }
	route := netlink.Route{Dst: network("203.0.113.0/24"), Gw: gw("192.0.2.10")}
	r.must(r.nl.RouteAdd(&route))
	r.await("route added", by("203.0.113.9", "192.0.2.10"))
	route.Gw = gw("192.0.2.11")
	r.must(r.nl.RouteReplace(&route))
	r.await("route replaced", by("203.0.113.9", "192.0.2.11"))
	worse := netlink.Route{Dst: route.Dst, Gw: gw("192.0.2.12"), Priority: 100}
	r.must(r.nl.RouteAdd(&worse))
	r.must(r.nl.RouteDel(&netlink.Route{Dst: route.Dst, Gw: route.Gw}))
	r.await("route with a higher metric", by("203.0.113.9", "192.0.2.12"))
	r.must(r.nl.RouteDel(&worse))
	r.await("route deleted", by("203.0.113.9", "192.0.2.254"))

	standard := netlink.Route{Dst: network("0.0.0.0/0"), Gw: gw("192.0.2.254")}
	r.must(r.nl.RouteDel(&standard))
	r.await("default route gone", is("1.1.1.1", fib.NoRoute))
	r.must(r.nl.RouteAdd(&standard))
	r.await("default route back", by("1.1.1.1", "192.0.2.254"))

	for typ, want := range map[int]fib.HopType{syscall.RTN_UNREACHABLE: fib.Unreachable, syscall.RTN_PROHIBIT: fib.Prohibit, syscall.RTN_BLACKHOLE: fib.Blackhole, syscall.RTN_THROW: fib.NoRoute} {
		refuse := netlink.Route{Dst: network("198.51.100.0/24"), Type: typ}
		r.must(r.nl.RouteAdd(&refuse))
		r.await(want.String(), is("198.51.100.1", want))
		r.must(r.nl.RouteDel(&refuse))
		r.await(want.String()+" gone", is("198.51.100.1", fib.Forward))
	}

	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("100.64.0.0/10"), Gw: gw("192.0.2.254"), MTU: 1280}))
	r.await("MTU of a route", func(s *fib.Snapshot) bool { return hop(s, "100.64.0.1").MTU == 1280 })
	if mtu := hop(r.mirror.Current(), "1.1.1.1").MTU; mtu != 1500 {
		t.Errorf("MTU of the same gateway by another route: %d", mtu)
	}
}

func TestMultipathIsFollowed(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	index := func(name string) int { return r.link(name).Attrs().Index }
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.113.0/24"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: index("wan"), Gw: net.ParseIP("192.0.2.10").To4(), Hops: 2},
		{LinkIndex: index("lan"), Gw: net.ParseIP("10.0.0.7").To4()},
		{LinkIndex: index("other"), Gw: net.ParseIP("172.16.0.2").To4()},
	}}))
	share := func(s *fib.Snapshot) map[string]int {
		count := make(map[string]int)
		for i := range uint32(5000) {
			_, h := s.Lookup(ip("203.0.113.1"), 0, lan, i*0x9e3779b9)
			count[fmt.Sprint(h.Type, " ", fib.Addr(h.Gateway))]++
		}
		return count
	}
	close := func(got, want int) bool { return got > want-50 && got < want+50 }
	s := r.await("multipath", func(s *fib.Snapshot) bool { return len(share(s)) == 3 })
	got := share(s)
	if !close(got["forward 192.0.2.10"], 3000) || !close(got["forward 10.0.0.7"], 1000) || !close(got["kernel 172.16.0.2"], 1000) {
		t.Errorf("shares %v, want 3000, 1000, 1000", got)
	}
	// The kernel keeps the route and marks the path dead.
	r.must(r.gateway.SetDown("wan"))
	s = r.await("a path's link down", func(s *fib.Snapshot) bool { return len(share(s)) == 2 })
	if got := share(s); !close(got["forward 10.0.0.7"], 2500) || !close(got["kernel 172.16.0.2"], 2500) {
		t.Errorf("shares %v, want 2500, 2500", got)
	}
}

func TestRulesAreFollowed(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	r.must(r.nl.RouteAdd(&netlink.Route{Table: 100, Dst: network("0.0.0.0/0"), Gw: net.ParseIP("192.0.2.100").To4()}))
	const std, alt = "192.0.2.254", "192.0.2.100"
	from := func(s *fib.Snapshot, src string, in fib.PortID) uint32 {
		_, h := s.Lookup(ip("1.1.1.1"), ip(src), in, 0)
		return h.Gateway
	}
	rule := func(f func(*netlink.Rule)) *netlink.Rule {
		x := netlink.NewRule()
		x.Family, x.Priority, x.Table = netlink.FAMILY_V4, 100, 100
		f(x)
		return x
	}
	for _, tt := range []struct {
		name string
		rule *netlink.Rule
		is   func(s *fib.Snapshot) bool
		says string // part of what Unsupported says; "" for nothing
	}{
		{"from", rule(func(x *netlink.Rule) { x.Src = network("10.0.0.0/24") }),
			func(s *fib.Snapshot) bool {
				return from(s, "10.0.0.7", lan) == ip(alt) && from(s, "10.0.1.7", lan) == ip(std)
			}, ""},
		{"to", rule(func(x *netlink.Rule) { x.Dst = network("1.0.0.0/8") }),
			func(s *fib.Snapshot) bool { return by("1.1.1.1", alt)(s) && by("2.1.1.1", std)(s) }, ""},
		{"iif", rule(func(x *netlink.Rule) { x.IifName = "lan" }),
			func(s *fib.Snapshot) bool {
				return from(s, "10.0.0.7", lan) == ip(alt) && from(s, "10.0.0.7", wan) == ip(std)
			}, ""},
		{"not from", rule(func(x *netlink.Rule) { x.Src, x.Invert = network("10.0.0.0/24"), true }),
			func(s *fib.Snapshot) bool {
				return from(s, "10.0.0.7", lan) == ip(std) && from(s, "10.0.1.7", lan) == ip(alt)
			}, ""},
		{"fwmark", rule(func(x *netlink.Rule) { x.Mark = 7; x.Dst = network("9.9.9.9/32") }), by("9.9.9.9", std), "rule 100: fwmark 0x7/0xffffffff is not supported"},
		{"not fwmark", rule(func(x *netlink.Rule) { x.Mark, x.Invert = 7, true }), by("1.1.1.1", alt), "taken to match every packet"},
		{"oif", rule(func(x *netlink.Rule) { x.OifName = "wan" }), by("1.1.1.1", std), "rule 100: oif wan is not supported"},
		{"tos", rule(func(x *netlink.Rule) { x.Tos = 0x10 }), by("1.1.1.1", std), "rule 100: tos 0x10 is not supported"},
		{"uidrange", rule(func(x *netlink.Rule) { x.UIDRange = netlink.NewRuleUIDRange(1000, 2000) }), by("1.1.1.1", std), "rule 100: uidrange from 1000 is not supported"},
		{"ipproto", rule(func(x *netlink.Rule) { x.IPProto = 6 }), by("1.1.1.1", std), "rule 100: ipproto is not supported"},
		{"sport, dport", rule(func(x *netlink.Rule) {
			x.IPProto, x.Sport, x.Dport = 17, netlink.NewRulePortRange(1, 2), netlink.NewRulePortRange(3, 4)
		}), by("1.1.1.1", std), "rule 100: sport, dport, ipproto is not supported"},
		{"suppress_prefixlength", rule(func(x *netlink.Rule) { x.Table, x.SuppressPrefixlen, x.Priority = 254, 0, 100 }),
			by("1.1.1.1", std), ""},
		{"goto", rule(func(x *netlink.Rule) { x.Table, x.Goto = 0, 32766 }), by("1.1.1.1", std), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := r.mirror.Current().Generation()
			r.must(r.nl.RuleAdd(tt.rule))
			r.await(tt.name, func(s *fib.Snapshot) bool { return s.Generation() != before && tt.is(s) })
			if words := r.mirror.Unsupported(); tt.says == "" && len(words) != 0 || !r.unsupported(tt.says) {
				t.Errorf("unsupported: %q, want %q", words, tt.says)
			}
			before = r.mirror.Current().Generation()
			r.must(r.nl.RuleDel(tt.rule))
			r.await(tt.name+" gone", func(s *fib.Snapshot) bool { return s.Generation() != before && by("1.1.1.1", std)(s) })
		})
	}
}

func TestWhatOnlyTheKernelCanFollowIsNamed(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.113.0/24"), LinkIndex: r.link("wan").Attrs().Index,
		Via: &netlink.Via{AddrFamily: syscall.AF_INET6, Addr: net.ParseIP("fe80::1")}}))
	r.await("route by an IPv6 gateway", is("203.0.113.1", fib.Kernel))
	if !r.unsupported("route 203.0.113.0/24 of table main: its gateway is not an IPv4 address; left to the kernel") {
		t.Errorf("unsupported: %q", r.mirror.Unsupported())
	}
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.114.0/24"), Tos: 0x10, Gw: net.ParseIP("192.0.2.10").To4()}))
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.115.0/24"), Gw: net.ParseIP("192.0.2.10").To4()}))
	r.await("route after one by TOS", by("203.0.115.1", "192.0.2.10"))
	if s := r.mirror.Current(); !by("203.0.114.1", "192.0.2.254")(s) || !r.unsupported("chosen by TOS 0x10") {
		t.Errorf("route by TOS: %v; %q", hop(s, "203.0.114.1"), r.mirror.Unsupported())
	}
}

// A nexthop object is followed as the routes that use it show it.
func TestNexthopObjects(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	nexthop := func(gateway string) error {
		req := nl.NewNetlinkRequest(rtmNewNexthop, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE|syscall.NLM_F_ACK)
		// struct nhmsg, then NHA_ID, NHA_OIF, NHA_GATEWAY
		req.AddRawData(append([]byte{syscall.AF_INET, 0, 0, 0, 0, 0, 0, 0}, concat(
			nl.NewRtAttr(1, nl.Uint32Attr(42)).Serialize(),
			nl.NewRtAttr(5, nl.Uint32Attr(uint32(r.link("wan").Attrs().Index))).Serialize(),
			nl.NewRtAttr(6, net.ParseIP(gateway).To4()).Serialize())...))
		return r.execute(req)
	}
	r.must(nexthop("192.0.2.20"))
	req := nl.NewNetlinkRequest(syscall.RTM_NEWROUTE, syscall.NLM_F_CREATE|syscall.NLM_F_ACK)
	req.AddRawData(concat([]byte{syscall.AF_INET, 24, 0, 0, 254, syscall.RTPROT_STATIC, 0, syscall.RTN_UNICAST, 0, 0, 0, 0},
		nl.NewRtAttr(syscall.RTA_DST, net.ParseIP("203.0.113.0").To4()).Serialize(),
		nl.NewRtAttr(rtaNexthopID, nl.Uint32Attr(42)).Serialize()))
	r.must(r.execute(req))
	r.await("route by a nexthop object", by("203.0.113.1", "192.0.2.20"))
	r.must(nexthop("192.0.2.21"))
	r.await("nexthop object replaced", by("203.0.113.1", "192.0.2.21"))

	// Where the kernel shows the id only, the route is named and left to it.
	r.must(r.gateway.Sysctl("net/ipv4/nexthop_compat_mode", "0"))
	r.must(nexthop("192.0.2.22"))
	r.await("nexthop object not shown", is("203.0.113.1", fib.Kernel))
	if !r.unsupported("its nexthop object 42 is not shown") {
		t.Errorf("unsupported: %q", r.mirror.Unsupported())
	}
}

func concat(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// execute sends a request inside the gateway.
func (r *rig) execute(req *nl.NetlinkRequest) error {
	return r.gateway.Do(func() error {
		_, err := req.Execute(syscall.NETLINK_ROUTE, 0)
		return err
	})
}

func TestLinksAndAddressesAreFollowed(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	iface := func(s *fib.Snapshot) *fib.Interface { return s.Interface(wan) }
	i := iface(r.mirror.Current())
	l := r.link("wan").Attrs()
	if i.Name != "wan" || i.Port != wan || int(i.Ifindex) != l.Index || net.HardwareAddr(i.MAC[:]).String() != l.HardwareAddr.String() ||
		i.MTU != 1500 || !i.Up || !i.Virtual || i.Primary != ip("192.0.2.1") || len(i.Addresses) != 1 {
		t.Fatalf("interface %+v", *i)
	}

	addr := func(s string) *netlink.Addr { return &netlink.Addr{IPNet: hostNetwork(s)} }
	r.must(r.nl.AddrAdd(r.link("wan"), addr("192.0.2.3/24")))
	r.await("second address", func(s *fib.Snapshot) bool {
		return s.Local(ip("192.0.2.3")) && iface(s).Primary == ip("192.0.2.1")
	})
	r.must(r.gateway.Sysctl("net/ipv4/conf/wan/promote_secondaries", "1"))
	r.must(r.nl.AddrDel(r.link("wan"), addr("192.0.2.1/24")))
	r.await("first address gone", func(s *fib.Snapshot) bool {
		return iface(s).Primary == ip("192.0.2.3") && !s.Local(ip("192.0.2.1"))
	})

	r.must(r.nl.LinkSetMTU(r.link("wan"), 1400))
	r.await("MTU", func(s *fib.Snapshot) bool { return iface(s).MTU == 1400 && hop(s, "192.0.2.9").MTU == 1400 })
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 99}
	r.must(r.nl.LinkSetHardwareAddr(r.link("wan"), mac))
	r.await("MAC", func(s *fib.Snapshot) bool {
		return iface(s).MAC == [6]byte(mac) && hop(s, "192.0.2.9").Source == [6]byte(mac)
	})

	r.must(r.server.SetDown("eth0"))
	r.await("no carrier", func(s *fib.Snapshot) bool {
		h := hop(s, "192.0.2.9")
		return !iface(s).Up && h.Type == fib.Forward && !h.Up
	})
	r.must(r.server.SetUp("eth0"))
	r.await("carrier", func(s *fib.Snapshot) bool { return iface(s).Up && hop(s, "192.0.2.9").Up })

	// Routes without carrier stay, unless the host is told otherwise.
	r.must(r.gateway.Sysctl("net/ipv4/conf/wan/ignore_routes_with_linkdown", "1"))
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.113.0/24"), Gw: net.ParseIP("192.0.2.9").To4()}))
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.113.0/24"), Gw: net.ParseIP("10.0.0.7").To4(), Priority: 10}))
	r.await("two uplinks", by("203.0.113.1", "192.0.2.9"))
	r.must(r.server.SetDown("eth0"))
	r.await("the other uplink", by("203.0.113.1", "10.0.0.7"))
	r.must(r.server.SetUp("eth0"))
	r.await("the first uplink again", by("203.0.113.1", "192.0.2.9"))

	r.must(r.gateway.SetDown("wan"))
	r.await("down: the kernel drops the routes without a word", is("192.0.2.9", fib.NoRoute))
	r.must(r.gateway.SetUp("wan"))
	r.await("up again", is("192.0.2.9", fib.Forward))
}

func hostNetwork(s string) *net.IPNet {
	a, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = a.To4()
	return n
}

func TestInterfacesComeAndGo(t *testing.T) {
	r := newRig(t, 0)
	r.start()
	indexOf := func(name string) int32 { return int32(r.link(name).Attrs().Index) }
	index := func() int32 { return indexOf("wan") }
	first := index()
	r.must(r.nl.LinkDel(r.link("wan")))
	r.await("deleted", func(s *fib.Snapshot) bool {
		i := s.Interface(wan)
		return i.Ifindex == 0 && !i.Up && i.Primary == 0 && i.Name == "wan" && hop(s, "192.0.2.9").Type == fib.NoRoute
	})
	r.cable("wan", "198.51.100.1/24", r.server, "198.51.100.2/24")
	s := r.await("made again", func(s *fib.Snapshot) bool {
		return s.Interface(wan).Up && by("198.51.100.9", "198.51.100.9")(s)
	})
	if got := s.Interface(wan).Ifindex; got != index() || got == first {
		t.Errorf("index %d, is %d, was %d", got, index(), first)
	}
	// Its neighbours are those of the new one.
	r.mirror.Resolve(wan, ip("198.51.100.2"))
	r.await("neighbour on the new interface", func(s *fib.Snapshot) bool { return hop(s, "198.51.100.2").State == fib.Resolved })

	rename := func(from, to string) {
		l := r.link(from)
		r.must(r.nl.LinkSetDown(l))
		r.must(r.nl.LinkSetName(l, to))
		r.must(r.gateway.SetUp(to))
	}
	rename("wan", "elsewhere")
	r.await("renamed: down, and not the kernel's to forward by", func(s *fib.Snapshot) bool {
		i, h := s.Interface(wan), hop(s, "198.51.100.9")
		return i.Ifindex == indexOf("elsewhere") && !i.Up && h.Type == fib.Forward && !h.Up &&
			len(r.mirror.Unsupported()) == 1
	})
	rename("elsewhere", "wan")
	r.await("renamed back", func(s *fib.Snapshot) bool {
		return by("198.51.100.9", "198.51.100.9")(s) && s.Interface(wan).Up && len(r.mirror.Unsupported()) == 0
	})

	rename("wan", "elsewhere")
	r.must(lab.Veth(r.gateway, "wan", r.server, "eth1", lab.VethOptions{}))
	r.must(r.gateway.AddAddress("wan", "203.0.113.1/24"))
	r.await("another has the name: the first is not listed any more", func(s *fib.Snapshot) bool {
		return s.Interface(wan).Ifindex == index() && hop(s, "198.51.100.9").Type == fib.Kernel &&
			by("203.0.113.9", "203.0.113.9")(s)
	})
	r.must(r.nl.LinkDel(r.link("wan")))
	r.await("nobody has the name", func(s *fib.Snapshot) bool { return s.Interface(wan).Ifindex == 0 })
}

// Lost events are noticed, and everything is read again.
func TestLostEvents(t *testing.T) {
	r := newRig(t, 0)
	if err := r.mirror.events.SetReceiveBufferSize(1, true); err != nil { // the kernel's least: some messages
		t.Fatal(err)
	}
	for i := range 200 {
		r.must(r.nl.RouteAdd(&netlink.Route{Dst: network(fmt.Sprintf("203.0.%d.0/24", i)), Gw: net.ParseIP("192.0.2.10").To4()}))
	}
	// An event that is lost for certain: the buffer was full long before.
	r.must(r.nl.LinkDel(r.link("lan")))
	r.start()
	r.await("all routes", func(s *fib.Snapshot) bool {
		return by("203.0.0.1", "192.0.2.10")(s) && by("203.0.199.1", "192.0.2.10")(s) && s.Interface(lan).Ifindex == 0
	})
}

func TestTakeErrors(t *testing.T) {
	m := &Mirror{log: discard()}
	now := time.Now()
	if err := m.take(batch{err: syscall.ENOBUFS}, now); err != nil || m.dirty != allTables {
		t.Errorf("ENOBUFS: %v, dirty %b", err, m.dirty)
	}
	// What follows may be older than what is read now: it is not believed.
	m.dirty = 0
	event := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: syscall.RTM_NEWNEIGH}, Data: []byte{syscall.AF_INET, 11: 0}}
	if err := m.take(batch{messages: []syscall.NetlinkMessage{event}}, now.Add(settle/2)); err != nil || m.dirty != neighbourTable {
		t.Errorf("event after a loss: %v, dirty %b", err, m.dirty)
	}
	if err := m.take(batch{err: syscall.EBADF}, now); !errors.Is(err, syscall.EBADF) {
		t.Errorf("EBADF: %v", err)
	}
}

// Where tables take long to read, neighbours do not wait for them.
func TestNeighboursDoNotWaitForTables(t *testing.T) {
	r := newRig(t, 0)
	r.mirror.earliestRead = time.Now().Add(time.Hour)
	r.start()
	r.must(r.nl.RouteAdd(&netlink.Route{Dst: network("203.0.113.0/24"), Gw: net.ParseIP("192.0.2.10").To4()}))
	for i := range 3 {
		host := fmt.Sprintf("10.0.0.%d", 100+i)
		r.must(r.nl.NeighSet(&netlink.Neigh{LinkIndex: r.link("lan").Attrs().Index, Family: syscall.AF_INET, State: netlink.NUD_PERMANENT,
			IP: net.ParseIP(host).To4(), HardwareAddr: net.HardwareAddr{2, 1, 1, 1, 1, 1}}))
		s := r.await("a neighbour", func(s *fib.Snapshot) bool { return hop(s, host).State == fib.Resolved })
		if !by("203.0.113.1", "192.0.2.254")(s) {
			t.Fatal("the routes were read")
		}
	}
}

// A Mirror that is closed under Run ends it with an error; one whose context
// ends does not.
func TestRunEnds(t *testing.T) {
	r := newRig(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.mirror.Run(ctx, func(*fib.Snapshot) {}); err != nil {
		t.Errorf("context ended: %v", err)
	}
	r.must(r.gateway.Do(func() (err error) {
		r.mirror, err = New(Config{Interfaces: []string{"lan", "wan"}})
		return err
	}))
	done := make(chan error)
	go func() { done <- r.mirror.Run(t.Context(), func(*fib.Snapshot) {}) }()
	r.mirror.Close()
	if err := <-done; err == nil {
		t.Error("closed under Run, which returned nil")
	}
	if _, err := r.mirror.HostPorts(); err == nil {
		t.Error("HostPorts of a closed Mirror succeeds")
	}
}

func TestNewErrors(t *testing.T) {
	if _, err := New(Config{Interfaces: make([]string, 300)}); err == nil || !strings.Contains(err.Error(), "at most 255") {
		t.Errorf("300 interfaces: %v", err)
	}
}
