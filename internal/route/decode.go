package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"sluice/internal/fib"
)

// The netlink package decodes most of this, but neither the id of a nexthop
// object, nor every encapsulation, nor the action of a rule, and it looks up the
// interface of some neighbours in whatever namespace its caller is in.

const (
	rtmNewNexthop = 104 // linux/rtnetlink.h
	rtmDelNexthop = 105

	attrType = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

	rtaMetrics   = 8
	rtaMultipath = 9
	rtaTable     = 15
	rtaVia       = 18
	rtaNewDst    = 19
	rtaEncap     = 22
	rtaNexthopID = 30
	rtaxMTU      = 2
	rtnhFDead    = 1

	ndaDst    = 1
	ndaLLAddr = 2

	ntfUse   = 0x01
	ntfProxy = 0x08
)

// States of a neighbour (linux/neighbour.h).
const (
	nudNone      = 0x00
	nudReachable = 0x02
	nudStale     = 0x04
	nudDelay     = 0x08
	nudProbe     = 0x10
	nudFailed    = 0x20
	nudNoARP     = 0x40
	nudPermanent = 0x80

	nudValid = nudReachable | nudStale | nudDelay | nudProbe | nudNoARP | nudPermanent
)

var (
	errShort  = errors.New("route: the kernel sent a message that is too short")
	errLength = errors.New("route: the kernel sent a prefix of more than 32 bits")
)

// attributes walks over the struct rtattrs in b: type and value of each. It ends
// at the first one that does not fit.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= syscall.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < syscall.SizeofRtAttr || length > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&attrType, b[syscall.SizeofRtAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func addrOf(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func tableName(t uint32) string {
	switch t {
	case fib.TableMain:
		return "main"
	case fib.TableLocal:
		return "local"
	case fib.TableDefault:
		return "default"
	}
	return strconv.FormatUint(uint64(t), 10)
}

var routeTypes = map[uint8]fib.RouteType{
	syscall.RTN_UNICAST: fib.RouteUnicast, syscall.RTN_LOCAL: fib.RouteLocal, syscall.RTN_BROADCAST: fib.RouteBroadcast,
	syscall.RTN_UNREACHABLE: fib.RouteUnreachable, syscall.RTN_PROHIBIT: fib.RouteProhibit,
	syscall.RTN_BLACKHOLE: fib.RouteBlackhole, syscall.RTN_THROW: fib.RouteThrow,
}

// decodeRoute reads a struct rtmsg. lacks says what of the route is not
// followed; ok is false where the route must be left out.
func decodeRoute(msg []byte) (r fib.Route, lacks string, ok bool, err error) {
	if len(msg) < syscall.SizeofRtMsg {
		return r, "", false, errShort
	}
	length, tos, table, typ, flags := msg[1], msg[3], msg[4], msg[7], u32(msg[8:])
	if length > 32 {
		return r, "", false, errLength
	}
	if flags&syscall.RTM_F_CLONED != 0 {
		return r, "", false, nil // an exception that the kernel learned from an ICMP error
	}
	var known bool
	if r.Type, known = routeTypes[typ]; !known {
		r.Type = fib.RouteKernel
	}
	r.Table = uint32(table)
	dst, single, object := uint32(0), fib.Path{Dead: flags&rtnhFDead != 0}, uint32(0)
	for t, v := range attributes(msg[syscall.SizeofRtMsg:]) {
		switch t {
		case syscall.RTA_DST:
			dst = addrOf(v)
		case rtaTable:
			r.Table = u32(v)
		case syscall.RTA_PRIORITY:
			r.Metric = u32(v)
		case syscall.RTA_OIF:
			single.Ifindex = int32(u32(v))
		case syscall.RTA_GATEWAY:
			single.Gateway = addrOf(v)
		case rtaMetrics:
			r.MTU = decodeMTU(v)
		case rtaMultipath:
			if r.Paths, lacks, err = decodePaths(v); err != nil {
				return r, "", false, err
			}
		case rtaNexthopID:
			object = u32(v)
		case rtaVia, rtaEncap, rtaNewDst:
			lacks = pathLacks[t]
		}
	}
	r.Prefix = netip.PrefixFrom(fib.Addr(dst), int(length)).Masked()
	if single.Ifindex != 0 {
		r.Paths = append(r.Paths, single)
	}
	if r.Type == fib.RouteUnicast && len(r.Paths) == 0 {
		lacks = fmt.Sprintf("its nexthop object %d is not shown with it (set net.ipv4.nexthop_compat_mode=1); left to the kernel", object)
	}
	if lacks != "" {
		r.Type = fib.RouteKernel
	}
	if tos != 0 {
		return r, fmt.Sprintf("chosen by TOS %#x, which is not followed; ignored", tos), false, nil
	}
	return r, lacks, true, nil
}

var pathLacks = map[uint16]string{
	rtaVia:    "its gateway is not an IPv4 address; left to the kernel",
	rtaEncap:  "it encapsulates; left to the kernel",
	rtaNewDst: "it rewrites the destination; left to the kernel",
}

// decodePaths reads the struct rtnexthops of a multipath route.
func decodePaths(b []byte) (paths []fib.Path, lacks string, err error) {
	for len(b) >= syscall.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < syscall.SizeofRtNexthop || length > len(b) {
			return nil, "", errShort
		}
		p := fib.Path{Dead: b[2]&rtnhFDead != 0, Weight: uint16(b[3]) + 1, Ifindex: int32(u32(b[4:]))}
		for t, v := range attributes(b[syscall.SizeofRtNexthop:length]) {
			switch t {
			case syscall.RTA_GATEWAY:
				p.Gateway = addrOf(v)
			case rtaVia, rtaEncap, rtaNewDst:
				lacks = pathLacks[t]
			}
		}
		paths = append(paths, p)
		b = b[min((length+3)&^3, len(b)):]
	}
	return paths, lacks, nil
}

// decodeMTU finds the MTU among a route's metrics, 0 where there is none.
func decodeMTU(b []byte) uint16 {
	for t, v := range attributes(b) {
		if t == rtaxMTU {
			return uint16(min(u32(v), 65535))
		}
	}
	return 0
}

type neighKey struct {
	addr  uint32
	index int32
}

// neighbour is an entry of the kernel's ARP table.
type neighbour struct {
	state uint16
	mac   [6]byte
	proxy bool
	moved bool      // failed after it had been good: its address may be another host's now
	since time.Time // when the state was first seen, or the last probe of a stale one
}

// entry is what a worker may know of it.
func (n neighbour) entry(port fib.PortID, addr uint32) fib.Neighbour {
	e := fib.Neighbour{Port: port, Addr: addr}
	switch {
	case n.state&nudValid != 0 && n.mac != [6]byte{}:
		e.State, e.MAC = fib.Resolved, n.mac
	case n.state&nudFailed != 0:
		e.State = fib.Failed
	}
	return e
}

// decodeNeighbour reads a struct ndmsg.
func decodeNeighbour(msg []byte) (k neighKey, n neighbour, err error) {
	const size = 12
	if len(msg) < size {
		return k, n, errShort
	}
	k.index = int32(u32(msg[4:]))
	n.state, n.proxy = binary.NativeEndian.Uint16(msg[8:]), msg[10]&ntfProxy != 0
	for t, v := range attributes(msg[size:]) {
		switch t {
		case ndaDst:
			k.addr = addrOf(v)
		case ndaLLAddr:
			if len(v) == len(n.mac) {
				n.mac = [6]byte(v)
			}
		}
	}
	return k, n, nil
}
