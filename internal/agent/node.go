package agent

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// node is what was last read of the node.
type node struct {
	links     []netlink.Link
	addresses []netlink.Addr
	rules     []netlink.Rule
}

func (a *Agent) readNode() (n node, err error) {
	// A table that changes while it is read brings another event.
	if n.links, err = a.netlink.LinkList(); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return n, err
	}
	if n.addresses, err = a.netlink.AddrList(nil, netlink.FAMILY_V4); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return n, err
	}
	if n.rules, err = a.netlink.RuleList(netlink.FAMILY_V4); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return n, err
	}
	return n, nil
}

// followRules notes whether the kernel could route a reply otherwise than it did, if
// it had had the service's address and port as its source.
func (a *Agent) followRules(n *node) {
	a.rules = slices.ContainsFunc(n.rules, func(r netlink.Rule) bool { return r.Src != nil || r.Sport != nil })
	a.forwards = sysctl("lo", "forwarding") == '1'
}

// own are the node's addresses, which no client has.
func (n *node) own() (all []netip.Addr) {
	for _, addr := range n.addresses {
		if ip, ok := netip.AddrFromSlice(addr.IP.To4()); ok {
			all = append(all, ip)
		}
	}
	return all
}

// onLink says whether an address is a neighbour's on an interface.
func (n *node) onLink(ifindex int, addr netip.Addr) bool {
	for _, own := range n.addresses {
		if own.LinkIndex == ifindex && own.IPNet != nil && own.Contains(addr.AsSlice()) {
			return true
		}
	}
	return false
}

// wanted are the hooks for the configuration, as far as the interfaces are there.
func (a *Agent) wanted(n *node) map[hook]*ebpf.Program {
	hooks := map[hook]*ebpf.Program{}
	a.missing, a.replies = nil, nil
	for _, name := range a.config.Interfaces {
		l := n.link(name)
		if l == nil {
			a.missing = append(a.missing, name)
			continue
		}
		hooks[hook{ifindex: l.Attrs().Index}] = a.objects.Request
	}
	for _, l := range n.links {
		if !a.carriesReplies(l) {
			continue
		}
		a.replies = append(a.replies, l.Attrs().Name)
		program := a.objects.Reply
		if len(l.Attrs().HardwareAddr) == 0 { // tun, ipip, wireguard: no link layer
			program = a.objects.ReplyBare
		}
		hooks[hook{ifindex: l.Attrs().Index, reply: true}] = program
	}
	for _, name := range a.config.ReplyInterfaces {
		if n.link(name) == nil {
			a.missing = append(a.missing, name)
		}
	}
	slices.Sort(a.replies)
	return hooks
}

// carriesReplies says whether replies may leave by an interface. Where none are
// listed, every one that a route can name: a route may come at any time, and the
// first reply must find the program there. Ports of bridges and bonds send what
// their master was given.
func (a *Agent) carriesReplies(l netlink.Link) bool {
	at := l.Attrs()
	if a.config.ReplyInterfaces != nil {
		return slices.Contains(a.config.ReplyInterfaces, at.Name)
	}
	return at.Flags&net.FlagLoopback == 0 && at.Flags&net.FlagUp != 0 &&
		(at.Slave == nil || at.Slave.SlaveType() == "vrf")
}

func (n *node) link(name string) netlink.Link {
	for _, l := range n.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

const (
	probeAfter = 30 * time.Second // a neighbour that was not heard of is asked again
	nudValid   = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE | netlink.NUD_PROBE | netlink.NUD_STALE | netlink.NUD_DELAY
	nudSettled = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE
)

// neighbour is a trusted gateway's place on an interface.
type neighbour struct {
	ifindex int
	address netip.Addr
}

// resolved is what is known of it. The last MAC stays until another comes: a
// gateway that is quiet for a while is the same one.
type resolved struct {
	mac   net.HardwareAddr
	asked time.Time
}

// putGateways makes the map of trusted gateways what configuration and the ARP
// table say, and has the kernel resolve those that it does not know.
func (a *Agent) putGateways(n *node, at time.Time) error {
	trusted := map[programsGateway]bool{}
	unresolved := map[netip.Addr]bool{}
	found := map[netip.Addr]bool{}
	for _, name := range a.config.Interfaces {
		l := n.link(name)
		if l == nil {
			continue
		}
		index := l.Attrs().Index
		table, err := a.netlink.NeighList(index, netlink.FAMILY_V4)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		for _, g := range a.config.Gateways {
			if g.MAC != nil {
				trusted[keyOfGateway(index, g.MAC)] = true
				continue
			}
			if mac := a.resolve(neighbour{index, g.Address}, table, n, at); mac != nil {
				trusted[keyOfGateway(index, mac)], found[g.Address] = true, true
			} else {
				unresolved[g.Address] = true
			}
		}
	}
	a.unresolved = nil
	for addr := range unresolved {
		if !found[addr] {
			a.unresolved = append(a.unresolved, addr)
		}
	}
	slices.SortFunc(a.unresolved, netip.Addr.Compare)
	return putSet(a.objects.Gateways, "trusted gateways", trusted)
}

// resolve returns a neighbour's MAC, nil while it is not known.
func (a *Agent) resolve(k neighbour, table []netlink.Neigh, n *node, at time.Time) net.HardwareAddr {
	r := a.neighbours[k]
	settled := false
	for _, entry := range table {
		if addr, ok := netip.AddrFromSlice(entry.IP.To4()); ok && addr == k.address && entry.State&nudValid != 0 && len(entry.HardwareAddr) == 6 {
			r.mac, settled = entry.HardwareAddr, entry.State&nudSettled != 0
		}
	}
	wait := probeAfter
	if r.mac == nil {
		wait = time.Second
	}
	if !settled && at.Sub(r.asked) >= wait && n.onLink(k.ifindex, k.address) {
		r.asked = at
		// NTF_USE makes an entry where there is none and starts ARP, or has a
		// stale one probed (neigh_event_send).
		err := a.netlink.NeighSet(&netlink.Neigh{
			LinkIndex: k.ifindex, Family: unix.AF_INET, State: netlink.NUD_NONE,
			Flags: netlink.NTF_USE, IP: k.address.AsSlice(),
		})
		if err != nil {
			a.log.Debug("trusted gateway could not be asked for", "address", k.address, "error", err)
		}
	}
	a.neighbours[k] = r
	return r.mac
}

// strictFilter says whether the kernel drops what arrives on an interface unless
// its route to the sender leaves by the same (rp_filter 1; the larger one of the
// two settings holds, and 2 asks for any route).
func strictFilter(name string) bool {
	return max(sysctl("all", "rp_filter"), sysctl(name, "rp_filter")) == '1'
}

// sysctl is a setting of one digit of IPv4 on an interface, '0' where there is none.
func sysctl(of, key string) byte {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", of, key))
	if b = bytes.TrimSpace(b); err != nil || len(b) != 1 {
		return '0'
	}
	return b[0]
}
