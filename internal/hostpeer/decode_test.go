package hostpeer

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/nat"
)

const (
	host = 0x0a000001 // 10.0.0.1
	peer = 0xc0000202 // 192.0.2.2
)

func word(addr uint32) []byte { return binary.BigEndian.AppendUint32(nil, addr) }
func half(n uint16) []byte    { return binary.NativeEndian.AppendUint16(nil, n) }

// attribute is one attribute of a device's own.
type attribute struct {
	number int
	value  []byte
}

// linkMessage is what RTM_GETLINK answers about a device.
func linkMessage(name, kind string, flags uint32, own ...attribute) []byte {
	msg := nl.NewIfInfomsg(syscall.AF_UNSPEC)
	msg.Flags = flags
	info := nl.NewRtAttr(syscall.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	for _, a := range own {
		data.AddRtAttr(a.number, a.value)
	}
	return slices.Concat(msg.Serialize(), nl.NewRtAttr(syscall.IFLA_IFNAME, nl.ZeroTerminated(name)).Serialize(), info.Serialize())
}

// TestDevices: what each kind of tunnel device speaks, by the attributes that the
// kernel gives it.
func TestDevices(t *testing.T) {
	up := uint32(syscall.IFF_UP)
	gre := []attribute{{nl.IFLA_GRE_LOCAL, word(host)}, {nl.IFLA_GRE_REMOTE, word(peer)}, {nl.IFLA_GRE_ENCAP_TYPE, half(0)}}
	iptun := func(proto uint8) []attribute {
		return []attribute{{nl.IFLA_IPTUN_LOCAL, word(host)}, {nl.IFLA_IPTUN_REMOTE, word(peer)}, {nl.IFLA_IPTUN_PROTO, []byte{proto}}}
	}
	for name, c := range map[string]struct {
		kind  string
		flags uint32
		own   []attribute
		want  []uint8 // protocols, between host and peer
		local uint32
		peer  uint32
	}{
		"gre":              {"gre", up, gre, []uint8{47}, host, peer},
		"gretap":           {"gretap", up, gre, []uint8{47}, host, peer},
		"erspan":           {"erspan", up, gre, []uint8{47}, host, peer},
		"down":             {"gre", 0, gre, nil, 0, 0},
		"any remote":       {"gre", up, gre[:1], []uint8{47}, host, 0},
		"each packet's":    {"gretap", up, []attribute{{nl.IFLA_GRE_COLLECT_METADATA, nil}}, []uint8{47}, 0, 0},
		"inside UDP":       {"gre", up, append(gre[:2:2], attribute{nl.IFLA_GRE_ENCAP_TYPE, half(1)}), nil, 0, 0},
		"to a group":       {"gre", up, []attribute{{nl.IFLA_GRE_LOCAL, word(host)}, {nl.IFLA_GRE_REMOTE, word(0xe0000001)}}, nil, 0, 0},
		"ipip":             {"ipip", up, iptun(4), []uint8{4}, host, peer},
		"ipip any":         {"ipip", up, iptun(0), []uint8{4, 137}, host, peer},
		"ipip mpls":        {"ipip", up, iptun(137), []uint8{137}, host, peer},
		"sit":              {"sit", up, iptun(41), []uint8{41}, host, peer},
		"sit any":          {"sit", up, iptun(0), []uint8{41, 4, 137}, host, peer},
		"sit, not told":    {"sit", up, iptun(0)[:2], []uint8{41}, host, peer},
		"vti":              {"vti", up, []attribute{{nl.IFLA_VTI_LOCAL, word(host)}, {nl.IFLA_VTI_REMOTE, word(peer)}}, []uint8{50, 51, 108}, host, peer},
		"vti, any remote":  {"vti", up, []attribute{{nl.IFLA_VTI_LOCAL, word(host)}}, nil, 0, 0},
		"no tunnel":        {"veth", up, gre, nil, 0, 0},
		"address cut":      {"gre", up, []attribute{{nl.IFLA_GRE_LOCAL, word(host)}, {nl.IFLA_GRE_REMOTE, []byte{1, 2}}}, []uint8{47}, host, 0},
		"a tunnel of IPv6": {"ip6gre", up, gre, nil, 0, 0},
	} {
		got := decodeDevice(linkMessage("t0", c.kind, c.flags, c.own...))
		var want []nat.HostPeer
		for _, proto := range c.want {
			want = append(want, nat.HostPeer{Proto: proto, Local: c.local, Peer: c.peer, By: c.kind + " device t0"})
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	whole := linkMessage("t0", "gre", up, gre...)
	for n := range whole {
		if got := decodeDevice(whole[:n]); len(got) > 1 {
			t.Errorf("%d bytes of a link message: %v", n, got)
		}
	}
}

// TestAssociations: IPsec states and policies name their ends, unless they are
// inside UDP.
func TestAssociations(t *testing.T) {
	local, remote := net.IPv4(10, 0, 0, 1), net.IPv4(192, 0, 2, 2)
	other := net.IPv4(192, 0, 2, 3)
	network := func(s string) *net.IPNet {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	tunnel := func(src, dst net.IP) netlink.XfrmPolicy {
		return netlink.XfrmPolicy{Src: network("10.1.0.0/16"), Dst: network("10.2.0.0/16"),
			Tmpls: []netlink.XfrmPolicyTmpl{{Src: src, Dst: dst, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL}}}
	}
	transport := func(src, dst string) netlink.XfrmPolicy {
		return netlink.XfrmPolicy{Src: network(src), Dst: network(dst),
			Tmpls: []netlink.XfrmPolicyTmpl{{Src: net.IPv4zero, Dst: net.IPv4zero, Proto: netlink.XFRM_PROTO_AH}}}
	}
	plain := netlink.XfrmState{Src: remote, Dst: local, Proto: netlink.XFRM_PROTO_ESP}
	natt := netlink.XfrmState{Src: remote, Dst: local, Proto: netlink.XFRM_PROTO_ESP, Encap: &netlink.XfrmStateEncap{}}
	six := netlink.XfrmState{Src: net.ParseIP("2001:db8::1"), Dst: net.ParseIP("2001:db8::2"), Proto: netlink.XFRM_PROTO_ESP}
	for name, c := range map[string]struct {
		states   []netlink.XfrmState
		policies []netlink.XfrmPolicy
		proto    uint8
		peer     uint32 // of which the table must know with host
		has      bool
	}{
		"nothing":                     {nil, nil, 50, peer, false},
		"a state":                     {[]netlink.XfrmState{plain}, nil, 50, peer, true},
		"a state of another protocol": {[]netlink.XfrmState{plain}, nil, 51, peer, false},
		"inside UDP":                  {[]netlink.XfrmState{natt}, nil, 50, peer, false},
		"IPv6":                        {[]netlink.XfrmState{six}, nil, 50, peer, false},
		"a policy":                    {nil, []netlink.XfrmPolicy{tunnel(local, remote)}, 50, peer, true},
		"its other direction":         {nil, []netlink.XfrmPolicy{tunnel(remote, local)}, 50, peer, true},
		"a policy of another peer":    {nil, []netlink.XfrmPolicy{tunnel(local, other)}, 50, peer, false},
		"a policy inside UDP":         {[]netlink.XfrmState{natt}, []netlink.XfrmPolicy{tunnel(remote, local)}, 50, peer, false},
		"transport":                   {nil, []netlink.XfrmPolicy{transport("10.0.0.1/32", "192.0.2.2/32")}, 51, peer, true},
		"transport of a network":      {nil, []netlink.XfrmPolicy{transport("10.0.0.1/32", "192.0.2.0/24")}, 51, peer, false},
		"a policy that blocks":        {nil, []netlink.XfrmPolicy{{Src: network("0.0.0.0/0"), Dst: network("0.0.0.0/0")}}, 50, peer, false},
	} {
		got := nat.NewHostPeers(association(c.states, c.policies)).Find(c.proto, host, c.peer)
		if (got != nil) != c.has {
			t.Errorf("%s: %v", name, got)
		}
		if got != nil && !strings.HasPrefix(got.By, "IPsec ") {
			t.Errorf("%s: by %q", name, got.By)
		}
	}
}

// TestRawSockets: the kernel's own lines.
func TestRawSockets(t *testing.T) {
	const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	line := func(local, remote uint32, proto string) string {
		number := func(addr uint32) string {
			return strings.ToUpper(hex(binary.NativeEndian.Uint32(word(addr))))
		}
		return "  47: " + number(local) + ":" + proto + " " + number(remote) + ":0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 0000000000000000 0\n"
	}
	table := heading + line(0, 0, "0059") + line(host, peer, "002F") + line(0, 0, "0001") + line(0, 0, "00FF") + line(host, 0, "0011") + line(0, peer, "0004")
	got, err := rawSockets(strings.NewReader(table))
	want := []nat.HostPeer{{Proto: 89, By: "raw socket"}, {Proto: 47, Local: host, Peer: peer, By: "raw socket"}, {Proto: 4, Peer: peer, By: "raw socket"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"x\n", "  0: 0000:zz 00000000:0000 07\n", "  0: 00000000 00000000:0000 07\n", "  0: 00000000:0001 1000000000:0000 07\n"} {
		if got, err := rawSockets(strings.NewReader(heading + bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func hex(n uint32) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 8)
	for i := range b {
		b[7-i] = digits[n>>(4*i)&15]
	}
	return string(b)
}

// TestDecodeSocket: sockets of IPv6 that take IPv4 count, others do not.
func TestDecodeSocket(t *testing.T) {
	mapped := func(addr uint32) []byte { return slices.Concat(make([]byte, 10), []byte{0xff, 0xff}, word(addr)) }
	four := func(addr uint32) []byte { return append(word(addr), make([]byte, 12)...) }
	six := net.ParseIP("2001:db8::1")
	for name, c := range map[string]struct {
		family        byte
		local, remote []byte
		ok            bool
		want          nat.HostPeer
	}{
		"IPv4":        {syscall.AF_INET, four(host), four(peer), true, nat.HostPeer{Local: host, Peer: peer}},
		"listens":     {syscall.AF_INET, four(0), four(0), true, nat.HostPeer{}},
		"mapped":      {syscall.AF_INET6, mapped(host), mapped(peer), true, nat.HostPeer{Local: host, Peer: peer}},
		"both":        {syscall.AF_INET6, make([]byte, 16), make([]byte, 16), true, nat.HostPeer{}},
		"IPv6 local":  {syscall.AF_INET6, six, make([]byte, 16), false, nat.HostPeer{}},
		"IPv6 remote": {syscall.AF_INET6, make([]byte, 16), six, false, nat.HostPeer{}},
	} {
		msg := slices.Concat([]byte{c.family, 1, 0, 0, 0, 0, 0, 0}, c.local, c.remote, make([]byte, 32))
		got, ok := decodeSocket(msg, 132, "x")
		c.want.Proto, c.want.By = 132, "x"
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
	if _, ok := decodeSocket(make([]byte, 39), 132, "x"); ok {
		t.Error("a message that is cut short has a socket")
	}
}

// FuzzDevice: no link message makes decodeDevice read beyond it, or say more than a
// device can speak.
func FuzzDevice(f *testing.F) {
	f.Add(linkMessage("t0", "gre", syscall.IFF_UP, attribute{nl.IFLA_GRE_LOCAL, word(host)}, attribute{nl.IFLA_GRE_REMOTE, word(peer)}))
	f.Add(linkMessage("t0", "sit", syscall.IFF_UP, attribute{nl.IFLA_IPTUN_PROTO, []byte{0}}))
	f.Add(linkMessage("t0", "vti", syscall.IFF_UP, attribute{nl.IFLA_VTI_REMOTE, word(peer)}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		peers := decodeDevice(msg)
		if len(peers) > 3 {
			t.Errorf("%d peers: %v", len(peers), peers)
		}
		for _, p := range peers {
			if p.Proto == 0 || p.Peer>>28 == 0xe || !strings.Contains(p.By, " device ") {
				t.Errorf("%+v", p)
			}
		}
	})
}
