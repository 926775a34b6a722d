package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/internal/fib"
)

const (
	iffLowerUp = 0x10000 // IFF_LOWER_UP: the driver has a carrier

	// ready are the flags of a link that passes frames. IFF_RUNNING comes last:
	// until the kernel's link watch has run, up to a second after the carrier,
	// it throws its own frames away, and an ARP request that is lost is not
	// repeated for another second.
	ready = syscall.IFF_UP | iffLowerUp | syscall.IFF_RUNNING

	ifaFSecondary = 0x01 // IFA_F_SECONDARY
)

// link is what a listed interface is now.
type link struct {
	index   int32 // 0: it does not exist
	mac     [6]byte
	mtu     uint16
	up      bool
	virtual bool
}

// sync reads the tables that changed and hands them to the builder. A table that
// could not be read stays marked.
func (m *Mirror) sync() error {
	var errs []error
	for _, t := range []struct {
		table tables
		read  func() error
	}{
		{linkTable, m.readLinks}, {addressTable, m.readAddresses}, {neighbourTable, m.readNeighbours},
		{ruleTable, m.readRules}, {routeTable, m.readRoutes},
	} {
		if m.dirty&t.table == 0 {
			continue
		}
		// What a read marks in its turn (links mark neighbours) comes later.
		if err := t.read(); err != nil {
			errs = append(errs, err)
			continue
		}
		m.dirty &^= t.table
	}
	return errors.Join(errs...)
}

// readLinks finds the listed interfaces by their names.
func (m *Mirror) readLinks() error {
	all, err := m.handle.LinkList()
	if err != nil {
		return fmt.Errorf("route: list interfaces: %w", err)
	}
	links := make([]link, len(m.cfg.Interfaces))
	m.linkWords = nil
	for _, l := range all {
		a := l.Attrs()
		for port, name := range m.cfg.Interfaces {
			if a.Name != name {
				continue
			}
			links[port] = describe(l)
			if _, ok := a.Slave.(*netlink.VrfSlave); ok {
				m.linkWords = append(m.linkWords, fmt.Sprintf("interface %s belongs to a VRF, whose rule (l3mdev) is not followed: its packets are routed by the other rules", name))
			}
		}
	}
	m.keepRenamed(all, links)
	for port := range links {
		was, is := m.links[port], links[port]
		if was.index != is.index {
			m.log.Debug("interface", "name", m.cfg.Interfaces[port], "index", is.index, "was", was.index)
			// The entries of another index are another link's, and those of
			// this one were not kept while it was not listed.
			m.dirty |= addressTable | neighbourTable
		}
	}
	m.links = links
	m.dirty |= addressTable // both make up a fib.Interface
	return nil
}

// keepRenamed has a listed device that was given another name count as down, not
// as one that is not listed: the kernel would forward what is routed by it, with
// sources that should have been masqueraded. It ends when the name is back, on
// that device or on another, or with the device.
func (m *Mirror) keepRenamed(all []netlink.Link, links []link) {
	for port := range links {
		index := m.links[port].index
		if index == 0 || slices.ContainsFunc(links, func(l link) bool { return l.index == index }) || links[port].index != 0 {
			continue
		}
		for _, l := range all {
			if a := l.Attrs(); int32(a.Index) == index {
				links[port] = describe(l)
				links[port].up = false
				name := m.cfg.Interfaces[port]
				m.linkWords = append(m.linkWords, fmt.Sprintf("interface %s is called %s now and counts as down: `ip link set %s name %s`", name, a.Name, a.Name, name))
			}
		}
	}
}

func describe(l netlink.Link) link {
	a := l.Attrs()
	is := link{
		index: int32(a.Index),
		mtu:   uint16(min(max(a.MTU, 0), 65535)),
		up:    a.RawFlags&ready == ready,
		// The kinds whose senders may leave a checksum to the receiver's hardware.
		virtual: l.Type() == "veth" || l.Type() == "tun" || l.Type() == "tuntap" || a.ParentDevBus == "virtio",
	}
	copy(is.mac[:], a.HardwareAddr)
	return is
}

// readAddresses completes the interfaces with their addresses.
func (m *Mirror) readAddresses() error {
	all, err := m.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("route: list addresses: %w", err)
	}
	interfaces := make([]fib.Interface, len(m.links))
	for port, l := range m.links {
		i := fib.Interface{Name: m.cfg.Interfaces[port], Ifindex: l.index, MAC: l.mac, MTU: l.mtu, Up: l.up, Virtual: l.virtual}
		for _, a := range all {
			if l.index == 0 || a.LinkIndex != int(l.index) {
				continue
			}
			p, ok := prefixOf(a.IPNet)
			if !ok {
				continue
			}
			i.Addresses = append(i.Addresses, p)
			if i.Primary == 0 && a.Flags&ifaFSecondary == 0 && a.Scope == int(netlink.SCOPE_UNIVERSE) {
				i.Primary = fib.U32(p.Addr())
			}
		}
		interfaces[port] = i
	}
	m.builder.SetInterfaces(interfaces)
	return nil
}

// prefixOf keeps the host bits.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP.To4())
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones), ok
}

// dump asks for a whole table and calls f with every message of it.
func (m *Mirror) dump(request int, answer uint16, f func(msg []byte) error) error {
	req := nl.NewNetlinkRequest(request, syscall.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{syscall.NETLINK_ROUTE: m.query}
	// struct rtmsg, fib_rule_hdr and ndmsg are all 12 bytes and begin with the
	// family; all else zero asks for everything.
	req.AddRawData([]byte{11: 0, 0: syscall.AF_INET})
	var failed error
	err := req.ExecuteIter(syscall.NETLINK_ROUTE, answer, func(msg []byte) bool {
		failed = f(msg)
		return failed == nil
	})
	return errors.Join(failed, err)
}

func (m *Mirror) readRoutes() error {
	var routes []fib.Route
	var words []string
	listed := func(index int32) bool {
		for _, l := range m.links {
			if l.index == index && index != 0 {
				return true
			}
		}
		return false
	}
	err := m.dump(syscall.RTM_GETROUTE, syscall.RTM_NEWROUTE, func(msg []byte) error {
		r, lacks, ok, err := decodeRoute(msg)
		if err != nil {
			return err
		}
		if lacks != "" && (len(r.Paths) == 0 || listedPath(r.Paths, listed)) {
			words = append(words, fmt.Sprintf("route %s of table %s: %s", r.Prefix, tableName(r.Table), lacks))
		}
		if ok {
			routes = append(routes, r)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("route: list routes: %w", err)
	}
	m.routeWords = shorten(words)
	m.builder.SetRoutes(routes)
	m.gateways = m.gatewaysOf(routes)
	return nil
}

func listedPath(paths []fib.Path, listed func(int32) bool) bool {
	for _, p := range paths {
		if listed(p.Ifindex) {
			return true
		}
	}
	return false
}

// shorten keeps a status readable where thousands of routes lack the same.
func shorten(words []string) []string {
	const most = 20
	if len(words) <= most {
		return words
	}
	return append(words[:most:most], fmt.Sprintf("%d more routes like these", len(words)-most))
}

func (m *Mirror) readRules() error {
	rules := []fib.Rule{}
	var words []string
	err := m.dump(syscall.RTM_GETRULE, syscall.RTM_NEWRULE, func(msg []byte) error {
		r, lacks, err := decodeRule(msg)
		if err != nil {
			return err
		}
		if lacks != "" {
			words = append(words, lacks)
		}
		rules = append(rules, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("route: list rules: %w", err)
	}
	m.ruleWords = words
	m.builder.SetRules(rules)
	return nil
}

func (m *Mirror) readNeighbours() error {
	now := time.Now()
	all := make(map[neighKey]neighbour)
	var entries []fib.Neighbour
	err := m.dump(syscall.RTM_GETNEIGH, syscall.RTM_NEWNEIGH, func(msg []byte) error {
		k, n, err := decodeNeighbour(msg)
		port := m.portOf(k.index)
		if err != nil || port == fib.NoPort || n.proxy {
			return err
		}
		n.since = now
		if old, ok := m.neighbours[k]; ok && old.state == n.state {
			n.since = old.since
		}
		all[k] = n
		entries = append(entries, n.entry(port, k.addr))
		return nil
	})
	if err != nil {
		return fmt.Errorf("route: list neighbours: %w", err)
	}
	m.neighbours = all
	m.builder.SetNeighbours(entries)
	return nil
}

// portOf returns the port of an interface index, NoPort where it is not listed.
func (m *Mirror) portOf(index int32) fib.PortID {
	for port := range m.links {
		if m.links[port].index == index && index != 0 {
			return fib.PortID(port)
		}
	}
	return fib.NoPort
}
