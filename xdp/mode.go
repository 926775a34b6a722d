package xdp

import "golang.org/x/sys/unix"

// Mode is how frames get between the NIC and the UMEM.
type Mode uint8

const (
	ModeAuto     Mode = iota // zero-copy, else copy
	ModeZeroCopy             // the NIC reads and writes the UMEM
	ModeCopy                 // native XDP; the kernel copies between its buffers and the UMEM
	ModeGeneric              // XDP after the skb was made; copies, and drops super-frames of a virtual peer
)

// String returns the configuration's word for m.
func (m Mode) String() string {
	switch m {
	case ModeAuto:
		return "auto"
	case ModeZeroCopy:
		return "zero-copy"
	case ModeCopy:
		return "copy"
	case ModeGeneric:
		return "generic"
	}
	return "invalid"
}

// ParseMode is the inverse of Mode.String.
func ParseMode(s string) (Mode, bool) {
	for m := ModeAuto; m <= ModeGeneric; m++ {
		if m.String() == s {
			return m, true
		}
	}
	return ModeAuto, false
}

// Sizes in bytes that bound what fits in a frame.
const (
	pageSize = 4096

	// kernelHeadroom is kept free by the kernel in front of every received
	// frame (XDP_PACKET_HEADROOM).
	kernelHeadroom = unix.XDP_PACKET_HEADROOM

	smallFrame = 2048
	largeFrame = 4096 // the largest that a UMEM of 4 KiB pages takes

	// linkHeader is an Ethernet header and one VLAN tag.
	linkHeader = 14 + 4

	// maxVethMTU is the largest MTU of a veth's peer with which the veth takes
	// a native XDP program without fragments: a page less headroom, Ethernet
	// header and skb_shared_info (drivers/net/veth.c, veth_xdp_set).
	maxVethMTU = 3506
)

// MaxMTU is the largest MTU that fits in one frame.
const MaxMTU = largeFrame - kernelHeadroom - linkHeader

const ringNeedWakeup = unix.XDP_RING_NEED_WAKEUP
