package faults

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
)

// What the lab has besides lab.Topology. The far address is served by two hosts,
// so that it shows which way the route goes. The uplink is a tap device, which
// the test can leave full.
const (
	farNetwork = "203.0.113.0/24"
	farAddress = "203.0.113.10"

	uplinkNIC     = "uplink"
	uplinkAddress = "192.0.2.1"
	uplinkPeer    = "192.0.2.9"

	uplinkMAC = "02:00:00:00:00:09"
)

// rig is the lab, and the test that uses it at the moment.
type rig struct {
	*testing.T            // of the part that runs
	whole      *testing.T // of all parts: what it cleans up, lives to the end
	top        *lab.Topology
	uplink     *os.File

	running *gateway // the last that was started

	watching []*lab.Checker          // besides the topology's
	leaks    map[*lab.Checker]uint64 // reported already
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, whole: t, top: lab.Start(t, lab.Options{}), leaks: map[*lab.Checker]uint64{}}
	top := r.top
	// What gets past the gateway is then forwarded, and seen.
	r.must(top.Gateway.Sysctl("net/ipv4/ip_forward", "1"))
	r.must(top.Gateway.AddRoute("default", lab.RouterAddress))
	r.must(top.Excluded.AddAddress("lo", farAddress+"/32"))
	r.must(top.Server2.AddAddress("lo", farAddress+"/32"))
	for _, n := range []*lab.Namespace{top.Server1, top.Server2, top.Excluded} {
		// The watch at the switch ends with the port it is on; these stay.
		r.watch(n, lab.HostNIC)
	}
	r.makeUplink()
	r.echoUDP(top.Server1, "server1", lab.Server1Address)
	r.echoUDP(top.Server2, "server2", farAddress)
	r.echoUDP(top.Excluded, "router", farAddress)
	r.echoUDP(top.Excluded, "excluded", lab.ExcludedAddress)
	r.echoTCP(top.Server1)
	return r
}

// watch holds the invariant on another interface until the end.
func (r *rig) watch(n *lab.Namespace, ifname string) {
	r.Helper()
	c, err := lab.Watch(n, ifname, lab.MasqueradePolicy())
	r.must(err)
	r.watching = append(r.watching, c)
}

// noLeak holds what every watch has seen since the last time to the invariant.
func (r *rig) noLeak() {
	r.Helper()
	for _, c := range append(r.watching, r.top.Checker) {
		if seen := c.Report(); seen.Leaks > r.leaks[c] || seen.Missed > 0 {
			r.Error(seen.Err())
			r.leaks[c] = seen.Leaks
		}
	}
}

// makeUplink adds the tap device.
func (r *rig) makeUplink() {
	r.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = uplinkNIC
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_MULTI_QUEUE, NonPersist: true}
	r.must(r.top.Gateway.Do(func() error { return netlink.LinkAdd(tap) }))
	r.uplink = tap.Fds[0]
	r.Cleanup(func() { r.uplink.Close() })
	r.must(r.top.Gateway.AddAddress(uplinkNIC, uplinkAddress+"/24"))
	r.must(r.netlink().LinkSetUp(r.link(uplinkNIC)))
	mac, err := net.ParseMAC(uplinkMAC)
	r.must(err)
	r.must(r.netlink().NeighSet(&netlink.Neigh{LinkIndex: r.link(uplinkNIC).Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(uplinkPeer), HardwareAddr: mac}))
}

// config is the gateway's, with more lines at its end.
func config(more string) string {
	return fmt.Sprintf(`interfaces:
  - {name: %s, role: inside}
  - {name: %s, role: outside}
  - {name: %s, role: outside}
masquerade:
  sources: [%s]
  native-routing-cidrs: [%s]
state-file: ""
%s`, lab.InsideNIC, lab.OutsideNIC, uplinkNIC, lab.InsideNetwork, lab.ExcludedNetwork, more)
}

// run runs a part of the test.
func (r *rig) run(name string, f func()) {
	t := r.T
	t.Run(name, func(sub *testing.T) {
		r.T = sub
		defer func() { r.T = t }()
		f()
		r.noLeak()
	})
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) write(path, text string) {
	r.Helper()
	r.must(os.WriteFile(path, []byte(text), 0o600))
}

// eventually asks again until f has nothing to object. Counters and states are
// published several times a second; nobody announces them.
func (r *rig) eventually(what string, f func() error) {
	r.Helper()
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("not in time: %s: %v", what, err)
		}
	}
}

// netlink works in the gateway's namespace.
func (r *rig) netlink() *netlink.Handle { return r.top.Gateway.Netlink() }

// link is an interface of the gateway.
func (r *rig) link(name string) netlink.Link {
	r.Helper()
	l, err := r.netlink().LinkByName(name)
	r.must(err)
	return l
}

// address is an address with its prefix length, of an interface of the gateway.
func (r *rig) address(cidr string) *netlink.Addr {
	r.Helper()
	a, err := netlink.ParseAddr(cidr)
	r.must(err)
	return a
}

// route is a route of the gateway; "default" stands for 0.0.0.0/0.
func (r *rig) route(dst, via string) *netlink.Route {
	r.Helper()
	if dst == "default" {
		dst = "0.0.0.0/0"
	}
	_, prefix, err := net.ParseCIDR(dst)
	r.must(err)
	return &netlink.Route{Dst: prefix, Gw: net.ParseIP(via)}
}

// plug puts a port of a switch into its bridge.
func (r *rig) plug(sw *lab.Namespace, port string) {
	r.Helper()
	bridge, err := sw.Netlink().LinkByName("br0")
	r.must(err)
	l, err := sw.Netlink().LinkByName(port)
	r.must(err)
	r.must(sw.Netlink().LinkSetMaster(l, bridge))
}

// noPins fails where the gateway's namespace has a pinned program left.
func (r *rig) noPins() {
	r.Helper()
	if pins := r.pins(); len(pins) > 0 {
		r.Errorf("pins are left: %v", pins)
	}
}

// pins lists the pinned links of the gateway's namespace.
func (r *rig) pins() []string {
	r.Helper()
	var st syscall.Stat_t
	r.must(syscall.Stat(r.top.Gateway.Path(), &st))
	pins, err := filepath.Glob(filepath.Join("/sys/fs/bpf/sluice", strconv.FormatUint(st.Ino, 10), "*", "*"))
	r.must(err)
	return pins
}

// steered reports whether an interface of the gateway has an XDP program.
func (r *rig) steered(name string) bool {
	r.Helper()
	x := r.link(name).Attrs().Xdp
	return x != nil && x.Attached
}
