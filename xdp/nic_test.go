package xdp

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
)

// ordinary is a NIC that nothing is wrong with.
func ordinary() traits {
	return traits{NIC: NIC{Name: "eth1", Ifindex: 7, MTU: 1500, Driver: "ice", RXQueues: 8, TXQueues: 8}, encap: "ether"}
}

// TestTraits judges interfaces that are not all to be had in a test.
func TestTraits(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*traits)
		want   string // "" = usable
	}{
		"ordinary": {func(*traits) {}, ""},
		"loopback": {func(tr *traits) { tr.encap = "loopback" },
			"eth1: not an Ethernet device (loopback): Sluice forwards Ethernet frames; list a NIC, a veth or a tap device"},
		"tunnel": {func(tr *traits) { tr.encap = "none" },
			"eth1: not an Ethernet device (none): Sluice forwards Ethernet frames; list a NIC, a veth or a tap device"},
		"bond": {func(tr *traits) { tr.kind, tr.slaves = "bond", []string{"eth2", "eth3"} },
			"eth1: AF_XDP does not work on a bond master, frames arrive on its members' queues: take a member out of the bond and list that instead; its members are eth2, eth3"},
		"bond without members": {func(tr *traits) { tr.kind = "bond" },
			"eth1: AF_XDP does not work on a bond master, frames arrive on its members' queues: take a member out of the bond and list that instead; it has no members"},
		"bond member": {func(tr *traits) { tr.master = "bond0" },
			"eth1: it is a member of bond0, which frames sent here would bypass: ip link set eth1 nomaster, or list another interface"},
		"LRO": {func(tr *traits) { tr.lro = true },
			"eth1: large receive offload is on, which native XDP cannot receive: ethtool -K eth1 lro off"},
		"rxvlan without children": {func(tr *traits) { tr.rxvlan = true }, ""},
		"children without rxvlan": {func(tr *traits) { tr.vlanChildren = []string{"eth1.5"} }, ""},
		"rxvlan over children": {func(tr *traits) { tr.rxvlan, tr.vlanChildren = true, []string{"eth1.5", "eth1.6"} },
			"eth1: receive VLAN offload is on and VLAN interfaces are above it (eth1.5, eth1.6): tags are stripped before XDP sees them, so frames of the VLANs would be taken for untagged ones: ethtool -K eth1 rxvlan off"},
		"largest MTU": {func(tr *traits) { tr.MTU = 3822 }, ""},
		"jumbo": {func(tr *traits) { tr.MTU = 9000 },
			"eth1: MTU 9000 does not fit in one frame of native XDP: ip link set eth1 mtu 3822, or less"},
		"largest veth MTU": {func(tr *traits) { tr.kind, tr.MTU, tr.peerMTU = "veth", 3506, 3506 }, ""},
		"veth": {func(tr *traits) { tr.kind, tr.MTU = "veth", 3507 },
			"eth1: MTU 3507 is over native XDP's limit for a veth, a page less headroom: ip link set eth1 mtu 3506, or less"},
		"veth peer": {func(tr *traits) { tr.kind, tr.peerMTU, tr.peerName = "veth", 9000, "eth0" },
			"eth1: the MTU 9000 of its veth peer eth0 is over native XDP's limit, a page less headroom: ip link set eth0 mtu 3506, or less"},
		"no TX queue": {func(tr *traits) { tr.TXQueues = 0 },
			"eth1: it has 8 RX and 0 TX queues: ethtool -L eth1 combined 1"},
	} {
		tr := ordinary()
		c.change(&tr)
		got := ""
		if err := tr.check(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}

func TestFrameSize(t *testing.T) {
	for mtu, want := range map[int]int{576: 2048, 1500: 2048, 1774: 2048, 1775: 4096, 3506: 4096, MaxMTU: 4096} {
		n := NIC{MTU: mtu}
		if got := n.FrameSize(); got != want {
			t.Errorf("MTU %d: frames of %d bytes, want %d", mtu, got, want)
		}
	}
}

func TestKernelRelease(t *testing.T) {
	for release, ok := range map[string]bool{
		"5.15.0": true, "5.15.0-91-generic": true, "6.1.0-13-amd64": true, "6.18.44": true, "10.0": true,
		"5.14.21": false, "5.4.0-150-generic": false, "4.19.0": false, "unreadable": true,
	} {
		err := checkRelease("eth1", release)
		if (err == nil) != ok {
			t.Errorf("%s: %v", release, err)
		}
		if err != nil && err.Error() != "eth1: kernel "+release+" is too old for this gateway: Linux 5.15 or newer is needed" {
			t.Error(err)
		}
	}
}

func TestMode(t *testing.T) {
	for m, word := range map[Mode]string{ModeAuto: "auto", ModeZeroCopy: "zero-copy", ModeCopy: "copy", ModeGeneric: "generic"} {
		if m.String() != word {
			t.Errorf("%d is %q, want %q", m, m, word)
		}
		if got, ok := ParseMode(word); !ok || got != m {
			t.Errorf("%q is parsed as %v, %v", word, got, ok)
		}
	}
	if _, ok := ParseMode("fast"); ok {
		t.Error("parsed nonsense")
	}
}

// TestProbeVeth checks what is found out about a veth whose peer is in another
// namespace.
func TestProbeVeth(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{MTU: 1400, MACB: mac})
	n := probe(t, nsG, "g0")
	if n.Name != "g0" || n.Driver != "veth" || !n.Virtual || n.MTU != 1400 || !n.Up || n.Ifindex == 0 || n.MAC != [6]byte(mac) {
		t.Errorf("%+v", *n)
	}
	if n.FeaturesKnown && (!n.NativeXDP || n.ZeroCopy) {
		t.Errorf("features of a veth: %+v", *n)
	}
}

// refused probes an interface that must be refused for the given reason.
func refused(t *testing.T, n *lab.Namespace, name, reason string) {
	t.Helper()
	err := n.Do(func() error {
		_, err := Probe(name)
		return err
	})
	var e *SetupError
	if !errors.As(err, &e) || e.Interface != name || e.Remedy == "" || !strings.Contains(err.Error(), reason) {
		t.Errorf("%s: error %v, want %q", name, err, reason)
	}
}

// TestProbeRefuses meets the interfaces that a kernel can make up.
func TestProbeRefuses(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	nl := nsG.Netlink()
	// Not every kernel has every kind of device; the table of TestTraits has
	// them all.
	made := func(l netlink.Link) bool {
		t.Helper()
		err := nsG.Do(func() error { return netlink.LinkAdd(l) }) // tun and tap go where the caller is
		if err != nil {
			t.Logf("no %s: %v", l.Attrs().Name, err)
		}
		return err == nil
	}
	attrs := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}

	refused(t, nsG, "absent0", "no such interface")
	refused(t, nsG, "lo", "not an Ethernet device (loopback)")

	if made(&netlink.Tuntap{LinkAttrs: attrs("tun0"), Mode: netlink.TUNTAP_MODE_TUN}) {
		refused(t, nsG, "tun0", "not an Ethernet device (none)")
	}
	if made(&netlink.Tuntap{LinkAttrs: attrs("tap0"), Mode: netlink.TUNTAP_MODE_TAP}) {
		if tap := probe(t, nsG, "tap0"); tap.Driver != "tun" || !tap.Virtual {
			t.Errorf("%+v", *tap)
		}
	}

	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{})
	probe(t, nsG, "g0")
	parent, err := nl.LinkByName("g0")
	if err != nil {
		t.Fatal(err)
	}
	vlan := attrs("g0.5")
	vlan.ParentIndex = parent.Attrs().Index
	if made(&netlink.Vlan{LinkAttrs: vlan, VlanId: 5}) {
		refused(t, nsG, "g0", "receive VLAN offload is on and VLAN interfaces are above it (g0.5)")
	}

	cable(t, nsA, "a1", nsG, "g1", lab.VethOptions{MTU: 9000})
	refused(t, nsG, "g1", "MTU 9000 does not fit")
	link, err := nl.LinkByName("g1")
	if err != nil {
		t.Fatal(err)
	}
	if err := nl.LinkSetMTU(link, 1500); err != nil {
		t.Fatal(err)
	}
	refused(t, nsG, "g1", "the MTU 9000 of its veth peer a1")

	bond := netlink.NewLinkBond(attrs("bond7"))
	bond.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
	if !made(bond) {
		return
	}
	cable(t, nsA, "a2", nsG, "g2", lab.VethOptions{})
	member, err := nl.LinkByName("g2")
	if err != nil {
		t.Fatal(err)
	}
	if err := nsG.SetDown("g2"); err != nil {
		t.Fatal(err)
	}
	if err := nl.LinkSetMaster(member, bond); err != nil {
		t.Fatal(err)
	}
	refused(t, nsG, "bond7", "its members are g2")
	refused(t, nsG, "g2", "it is a member of bond7")
}
