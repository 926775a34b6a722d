package xdp

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bits of ETHTOOL_GFLAGS (enum ethtool_flags).
const (
	ethFlagRXVLAN = 1 << 8
	ethFlagLRO    = 1 << 15
)

// channels is struct ethtool_channels.
type channels struct {
	cmd                                 uint32
	maxRX, maxTX, maxOther, maxCombined uint32
	rx, tx, other, combined             uint32
}

// ifreq is struct ifreq with a pointer in its union, as SIOCETHTOOL takes it.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	ptr  unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ethtoolChannels asks for the queues in use (ethtool -l).
func ethtoolChannels(sock int, name string) (channels, error) {
	c := channels{cmd: unix.ETHTOOL_GCHANNELS}
	err := ethtool(sock, name, unsafe.Pointer(&c))
	return c, err
}

// ethtoolFlags asks for the offloads that have a bit in the old flags word.
func ethtoolFlags(sock int, name string) (uint32, error) {
	v := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GFLAGS}
	err := ethtool(sock, name, unsafe.Pointer(&v))
	return v.data, err
}

// ethtool performs one SIOCETHTOOL. value points to the structure of the
// command that its first word names; the kernel writes no further than that
// structure (net/ethtool/ioctl.c), and the garbage collector sees the pointer
// in the request, since it is an unsafe.Pointer there and not a number.
func ethtool(sock int, name string, value unsafe.Pointer) error {
	r := ifreq{ptr: value}
	if len(name) >= len(r.name) {
		return unix.EINVAL
	}
	copy(r.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// The netdev generic netlink family (Documentation/netlink/specs/netdev.yaml).
const (
	netdevFamily       = "netdev"
	netdevCmdDevGet    = 1
	netdevAttrIfindex  = 1
	netdevAttrFeatures = 3

	featureBasic    = 1 << 0 // NETDEV_XDP_ACT_BASIC: XDP_PASS, XDP_DROP, XDP_TX
	featureRedirect = 1 << 1 // NETDEV_XDP_ACT_REDIRECT
	featureZeroCopy = 1 << 3 // NETDEV_XDP_ACT_XSK_ZEROCOPY
)

// genlHeader is struct genlmsghdr: command, version and two reserved bytes,
// which this family wants to be zero and nl.Genlmsg leaves to chance.
type genlHeader [nl.SizeofGenlmsg]byte

func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

// xdpFeatures asks the kernel what XDP features a driver announces. Kernels
// before 6.3 do not have the question.
func xdpFeatures(ifindex int) (uint64, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return 0, err
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(genlHeader{netdevCmdDevGet, 1})
	req.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(ifindex))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == netdevAttrFeatures && len(a.Value) == 8 {
				return binary.NativeEndian.Uint64(a.Value), nil
			}
		}
	}
	return 0, errors.New("no xdp-features in the kernel's answer")
}

// linkInNamespace looks up an interface of another network namespace by the id
// that ours has for it (IFLA_TARGET_NETNSID). It needs CAP_NET_ADMIN there.
func linkInNamespace(ifindex, nsid int) (name string, mtu int, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(ifindex)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(nsid))))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return "", 0, err
	}
	if len(msgs) == 0 {
		return "", 0, unix.ENODEV
	}
	link, err := netlink.LinkDeserialize(nil, msgs[0])
	if err != nil {
		return "", 0, err
	}
	return link.Attrs().Name, link.Attrs().MTU, nil
}
