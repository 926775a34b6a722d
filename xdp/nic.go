package xdp

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NIC is what Probe found out about an interface. It is a snapshot: immutable
// and safe to share.
type NIC struct {
	Name    string
	Ifindex int
	MAC     [6]byte
	MTU     int    // bytes of IP packet
	Driver  string // as ethtool -i prints it, or the kind of link where it has none

	RXQueues int // queues in use, not those the hardware could have
	TXQueues int

	// Virtual says that frames from a local stack can arrive with a partial
	// checksum, because the link never crosses a wire (veth, tap, virtio).
	Virtual bool

	// NativeXDP and ZeroCopy are what the driver announces, where
	// FeaturesKnown (Linux 6.3); otherwise only trying tells.
	FeaturesKnown bool
	NativeXDP     bool
	ZeroCopy      bool

	Up bool // administratively, when probed
}

// FrameSize is the smallest frame size that takes the NIC's MTU, in bytes.
func (n *NIC) FrameSize() int {
	if n.MTU+linkHeader <= smallFrame-kernelHeadroom {
		return smallFrame
	}
	return largeFrame
}

// traits are the facts about an interface that decide whether it can be used.
// Gathering them (read) is apart from judging them (check), so that the
// judgement can be tested for hardware that is not there.
type traits struct {
	NIC
	kind         string   // link kind: veth, bond, vlan, …; empty for hardware
	encap        string   // ARPHRD type: ether, loopback, none, …
	slaves       []string // members, of a bond or team
	master       string   // the bond or team it is a member of
	lro          bool     // large receive offload is on
	rxvlan       bool     // receive VLAN offload is on
	vlanChildren []string // VLAN interfaces above it
	peerMTU      int      // of a veth's other end, 0 where unknown
	peerName     string
}

// Probe looks an interface up in the caller's network namespace and refuses one
// that AF_XDP cannot serve, with the reason and a remedy (*SetupError).
func Probe(name string) (*NIC, error) {
	if err := checkKernel(name); err != nil {
		return nil, err
	}
	t, err := readTraits(name)
	if err != nil {
		return nil, err
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	nic := t.NIC
	return &nic, nil
}

// check judges t.
func (t *traits) check() error {
	name := t.Name
	switch {
	case t.encap != "ether":
		return refuse(name, fmt.Sprintf("not an Ethernet device (%s)", t.encap),
			"Sluice forwards Ethernet frames; list a NIC, a veth or a tap device")
	case t.kind == "bond" || t.kind == "team":
		members := "it has no members"
		if len(t.slaves) > 0 {
			members = "its members are " + strings.Join(t.slaves, ", ")
		}
		return refuse(name, "AF_XDP does not work on a "+t.kind+" master, frames arrive on its members' queues",
			"take a member out of the "+t.kind+" and list that instead; "+members)
	case t.master != "":
		return refuse(name, "it is a member of "+t.master+", which frames sent here would bypass",
			"ip link set "+name+" nomaster, or list another interface")
	case t.lro:
		return refuse(name, "large receive offload is on, which native XDP cannot receive",
			"ethtool -K "+name+" lro off")
	case t.rxvlan && len(t.vlanChildren) > 0:
		return refuse(name, "receive VLAN offload is on and VLAN interfaces are above it ("+strings.Join(t.vlanChildren, ", ")+
			"): tags are stripped before XDP sees them, so frames of the VLANs would be taken for untagged ones",
			"ethtool -K "+name+" rxvlan off")
	case t.MTU > MaxMTU:
		return refuse(name, fmt.Sprintf("MTU %d does not fit in one frame of native XDP", t.MTU),
			fmt.Sprintf("ip link set %s mtu %d, or less", name, MaxMTU))
	case t.kind == "veth" && t.MTU > maxVethMTU:
		return refuse(name, fmt.Sprintf("MTU %d is over native XDP's limit for a veth, a page less headroom", t.MTU),
			fmt.Sprintf("ip link set %s mtu %d, or less", name, maxVethMTU))
	case t.kind == "veth" && t.peerMTU > maxVethMTU:
		return refuse(name, fmt.Sprintf("the MTU %d of its veth peer %s is over native XDP's limit, a page less headroom", t.peerMTU, t.peerName),
			fmt.Sprintf("ip link set %s mtu %d, or less", t.peerName, maxVethMTU))
	case t.RXQueues < 1 || t.TXQueues < 1:
		return refuse(name, fmt.Sprintf("it has %d RX and %d TX queues", t.RXQueues, t.TXQueues), "ethtool -L "+name+" combined 1")
	}
	return nil
}

// readTraits gathers the facts about an interface. Facts that a driver does not
// offer stay at their zero value.
func readTraits(name string) (*traits, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil, refuse(name, "no such interface", "see `ip link`, in the network namespace that Sluice runs in")
		}
		return nil, setupError(name, -1, callProbe, err)
	}
	a := link.Attrs()
	t := &traits{
		NIC: NIC{
			Name:     a.Name,
			Ifindex:  a.Index,
			MTU:      a.MTU,
			RXQueues: a.NumRxQueues,
			TXQueues: a.NumTxQueues,
			Up:       a.Flags&net.FlagUp != 0,
		},
		encap: a.EncapType,
	}
	copy(t.MAC[:], a.HardwareAddr)
	if kind := link.Type(); kind != "device" {
		t.kind = kind
	}

	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, setupError(name, -1, "socket(AF_INET)", err)
	}
	defer unix.Close(sock)
	t.readEthtool(sock)

	if err := t.readRelations(a); err != nil {
		return nil, setupError(name, -1, callProbe, err)
	}
	if f, err := xdpFeatures(t.Ifindex); err == nil {
		t.FeaturesKnown = true
		t.NativeXDP = f&(featureBasic|featureRedirect) == featureBasic|featureRedirect
		t.ZeroCopy = f&featureZeroCopy != 0
	}
	return t, nil
}

// readEthtool asks the driver for its name, queues and offloads.
func (t *traits) readEthtool(sock int) {
	t.Driver = t.kind
	if d, err := unix.IoctlGetEthtoolDrvinfo(sock, t.Name); err == nil {
		if s := unix.ByteSliceToString(d.Driver[:]); s != "" {
			t.Driver = s
		}
	}
	switch t.Driver {
	case "veth", "tun", "virtio_net":
		t.Virtual = true
	}
	if c, err := ethtoolChannels(sock, t.Name); err == nil {
		if n := int(c.combined + c.rx); n > 0 {
			t.RXQueues = n
		}
		if n := int(c.combined + c.tx); n > 0 {
			t.TXQueues = n
		}
	}
	if f, err := ethtoolFlags(sock, t.Name); err == nil {
		t.lro = f&ethFlagLRO != 0
		t.rxvlan = f&ethFlagRXVLAN != 0
	}
}

// readRelations finds out what the interface is stacked with.
func (t *traits) readRelations(a *netlink.LinkAttrs) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		la := l.Attrs()
		switch {
		case la.Index == a.MasterIndex && (l.Type() == "bond" || l.Type() == "team"):
			t.master = la.Name
		case la.MasterIndex == a.Index:
			t.slaves = append(t.slaves, la.Name)
		case l.Type() == "vlan" && la.ParentIndex == a.Index:
			t.vlanChildren = append(t.vlanChildren, la.Name)
		}
		if t.kind == "veth" && la.Index == a.ParentIndex && a.NetNsID < 0 {
			t.peerName, t.peerMTU = la.Name, la.MTU
		}
	}
	if t.kind == "veth" && a.NetNsID >= 0 {
		if name, mtu, err := linkInNamespace(a.ParentIndex, a.NetNsID); err == nil {
			t.peerName, t.peerMTU = name, mtu
		}
	}
	return nil
}

// minKernel is the oldest kernel that is supported: the first long-term one
// with shared UMEMs across devices, bpf_link for XDP and the helpers that the
// steering program uses.
var minKernel = [2]int{5, 15}

// checkKernel refuses a kernel that is too old.
func checkKernel(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return setupError(name, -1, "uname", err)
	}
	return checkRelease(name, unix.ByteSliceToString(u.Release[:]))
}

// checkRelease judges a kernel release such as 6.1.0-13-amd64. One that it
// cannot read passes: the calls themselves will tell.
func checkRelease(name, release string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return nil
	}
	if major > minKernel[0] || major == minKernel[0] && minor >= minKernel[1] {
		return nil
	}
	return refuse(name, "kernel "+release+" is too old for this gateway",
		fmt.Sprintf("Linux %d.%d or newer is needed", minKernel[0], minKernel[1]))
}
