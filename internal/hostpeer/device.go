package hostpeer

import (
	"encoding/binary"
	"iter"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"

	"sluice/nat"
)

// Protocols of IPv4 that package syscall has no name for.
const (
	protoIPIP   = 4
	protoIPv6   = 41 // sit
	protoGRE    = 47
	protoESP    = 50
	protoAH     = 51
	protoIPComp = 108
	protoMPLS   = 137
)

// kind is what the attributes of a kind of device are called (if_tunnel.h).
type kind struct {
	local, remote, encap, proto uint16 // 0: it has none
	speaks                      []uint8
}

var (
	greAttributes = kind{nl.IFLA_GRE_LOCAL, nl.IFLA_GRE_REMOTE, nl.IFLA_GRE_ENCAP_TYPE, 0, []uint8{protoGRE}}
	kinds         = map[string]kind{
		"gre": greAttributes, "gretap": greAttributes, "erspan": greAttributes,
		"ipip": {nl.IFLA_IPTUN_LOCAL, nl.IFLA_IPTUN_REMOTE, nl.IFLA_IPTUN_ENCAP_TYPE, nl.IFLA_IPTUN_PROTO, []uint8{protoIPIP}},
		"sit":  {nl.IFLA_IPTUN_LOCAL, nl.IFLA_IPTUN_REMOTE, nl.IFLA_IPTUN_ENCAP_TYPE, nl.IFLA_IPTUN_PROTO, []uint8{protoIPv6}},
		"vti":  {nl.IFLA_VTI_LOCAL, nl.IFLA_VTI_REMOTE, 0, 0, []uint8{protoESP, protoAH, protoIPComp}},
	}
)

// carries are the protocols of an ipip or sit device whose IFLA_IPTUN_PROTO says
// so; 0 is all of them (net/ipv4/ipip.c, net/ipv6/sit.c).
func (k *kind) carries(name string, proto uint8) []uint8 {
	switch proto {
	case protoIPIP, protoIPv6, protoMPLS:
		return []uint8{proto}
	case 0:
		if name == "sit" {
			return []uint8{protoIPv6, protoIPIP, protoMPLS}
		}
		return []uint8{protoIPIP, protoMPLS}
	}
	return k.speaks
}

// decodeDevice reads a link message: struct ifinfomsg, then attributes. A device
// that is not up gets nothing (net/ipv4/ip_tunnel.c:ip_tunnel_lookup), one that
// ends no tunnel over IPv4 has nothing to tell.
func decodeDevice(msg []byte) []nat.HostPeer {
	if len(msg) < syscall.SizeofIfInfomsg || binary.NativeEndian.Uint32(msg[8:])&syscall.IFF_UP == 0 {
		return nil
	}
	var device, of string
	var data []byte
	for t, v := range attributes(msg[syscall.SizeofIfInfomsg:]) {
		switch t {
		case syscall.IFLA_IFNAME:
			device = text(v)
		case syscall.IFLA_LINKINFO:
			of, data = linkInfo(v)
		}
	}
	k, ok := kinds[of]
	if !ok {
		return nil
	}
	peers := k.decode(of, data)
	for i := range peers {
		peers[i].By = of + " device " + device
	}
	return peers
}

// linkInfo reads IFLA_LINKINFO: the kind, and what its driver says of it.
func linkInfo(b []byte) (kind string, data []byte) {
	for t, v := range attributes(b) {
		switch t {
		case nl.IFLA_INFO_KIND:
			kind = text(v)
		case nl.IFLA_INFO_DATA:
			data = v
		}
	}
	return kind, data
}

// decode reads the attributes of a tunnel device. Without a remote end, or where
// each packet brings its own (IFLA_*_COLLECT_METADATA), it takes what anybody sends.
func (k *kind) decode(of string, data []byte) (peers []nat.HostPeer) {
	var p nat.HostPeer
	speaks := k.speaks
	for t, v := range attributes(data) {
		switch {
		case t == k.local && len(v) == 4:
			p.Local = binary.BigEndian.Uint32(v)
		case t == k.remote && len(v) == 4:
			p.Peer = binary.BigEndian.Uint32(v)
		case t == k.proto && k.proto != 0 && len(v) == 1:
			speaks = k.carries(of, v[0])
		case t == k.encap && k.encap != 0 && len(v) == 2 && binary.NativeEndian.Uint16(v) != 0:
			return nil // inside UDP
		}
	}
	switch {
	case of == "vti" && p.Peer == 0:
		return nil // its IPsec states say with whom
	case p.Peer>>28 == 0xe:
		return nil // to a group: the kernel's in any case
	}
	for _, proto := range speaks {
		p.Proto = proto
		peers = append(peers, p)
	}
	return peers
}

// attributes walks over the struct rtattrs in b: type and value of each. It ends
// where one does not fit.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	const mask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= syscall.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < syscall.SizeofRtAttr || length > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[2:])&mask, b[syscall.SizeofRtAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
