package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
)

// VethOptions shapes a cable. The zero value is one queue each way, MTU 1500
// and MAC addresses of the kernel's choice.
type VethOptions struct {
	Queues     int // receive and transmit queues of both ends; 0 means 1
	MTU        int // of both ends; 0 means 1500
	MACA, MACB net.HardwareAddr
}

// carrierTimeout bounds the wait for both ends of a cable to come up. They take
// milliseconds; only a machine in deep trouble gets near this.
const carrierTimeout = 10 * time.Second

// Veth plugs a cable between aName in a and bName in b. On return both ends are
// up and pass frames.
func Veth(a *Namespace, aName string, b *Namespace, bName string, o VethOptions) error {
	if err := plug(a, aName, b, bName, o); err != nil {
		return err
	}
	if err := a.awaitUp(aName); err != nil {
		return err
	}
	return b.awaitUp(bName)
}

// plug is Veth without the wait: both ends are on their way up.
func plug(a *Namespace, aName string, b *Namespace, bName string, o VethOptions) error {
	queues, mtu := max(o.Queues, 1), o.MTU
	if mtu == 0 {
		mtu = 1500
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	attrs.MTU = mtu
	attrs.HardwareAddr = o.MACA
	attrs.NumRxQueues, attrs.NumTxQueues = queues, queues
	veth := netlink.NewVeth(attrs)
	veth.PeerName = bName
	veth.PeerHardwareAddr = o.MACB
	veth.PeerNamespace = netlink.NsFd(int(b.handle))
	veth.PeerNumRxQueues, veth.PeerNumTxQueues = uint32(queues), uint32(queues)
	veth.PeerMTU = uint32(mtu)
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("lab: add veth %s in %s to %s in %s: %w", aName, a.name, bName, b.name, err)
	}
	if err := a.up(aName); err != nil {
		return err
	}
	return b.up(bName)
}

// Bridge makes a switch with the given ports, which must exist. It neither
// speaks STP nor waits before it forwards.
func (n *Namespace) Bridge(name string, ports ...string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := n.nl.LinkAdd(bridge); err != nil {
		return fmt.Errorf("lab: add bridge %s in %s: %w", name, n.name, err)
	}
	// Where br_netfilter is loaded (Docker loads it), netfilter would get at
	// what the switch carries.
	if err := n.Sysctl("net/bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, p := range ports {
		link, err := n.link(p)
		if err != nil {
			return err
		}
		if err := n.nl.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("lab: plug %s into %s in %s: %w", p, name, n.name, err)
		}
	}
	return n.up(name)
}

// AddAddress gives an interface an address with its prefix length, such as
// "10.0.0.1/24".
func (n *Namespace) AddAddress(ifname, cidr string) error {
	link, err := n.link(ifname)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("lab: address %q: %w", cidr, err)
	}
	if err := n.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("lab: add %s to %s in %s: %w", cidr, ifname, n.name, err)
	}
	return nil
}

// AddRoute routes dst, a prefix or "default", by way of the neighbour via.
func (n *Namespace) AddRoute(dst, via string) error {
	route := &netlink.Route{Gw: net.ParseIP(via)}
	if route.Gw == nil {
		return fmt.Errorf("lab: gateway %q is not an address", via)
	}
	if dst == "default" {
		dst = "0.0.0.0/0"
	}
	_, prefix, err := net.ParseCIDR(dst)
	if err != nil {
		return fmt.Errorf("lab: route: %w", err)
	}
	route.Dst = prefix
	if err := n.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("lab: route %s via %s in %s: %w", dst, via, n.name, err)
	}
	return nil
}

// SetUp switches an interface on; on return it passes frames.
func (n *Namespace) SetUp(ifname string) error {
	if err := n.up(ifname); err != nil {
		return err
	}
	return n.awaitUp(ifname)
}

// SetDown switches an interface off.
func (n *Namespace) SetDown(ifname string) error {
	link, err := n.link(ifname)
	if err != nil {
		return err
	}
	if err := n.nl.LinkSetDown(link); err != nil {
		return fmt.Errorf("lab: %s in %s down: %w", ifname, n.name, err)
	}
	return nil
}

// MAC is the hardware address of an interface.
func (n *Namespace) MAC(ifname string) (net.HardwareAddr, error) {
	link, err := n.link(ifname)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

func (n *Namespace) link(ifname string) (netlink.Link, error) {
	link, err := n.nl.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("lab: interface %s in %s: %w", ifname, n.name, err)
	}
	return link, nil
}

func (n *Namespace) up(ifname string) error {
	link, err := n.link(ifname)
	if err != nil {
		return err
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("lab: %s in %s up: %w", ifname, n.name, err)
	}
	return nil
}

// awaitUp waits for the operational state: until the kernel's link watch has
// run, the interface is up but its queues still throw frames away. Asking for
// the one link makes Linux 6.8 and later run it at once; earlier ones take up
// to a second and then say so.
func (n *Namespace) awaitUp(ifname string) error {
	updates := make(chan netlink.LinkUpdate, 16)
	done := make(chan struct{})
	defer close(done)
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &n.handle})
	if err != nil {
		return fmt.Errorf("lab: watch links in %s: %w", n.name, err)
	}
	link, err := n.link(ifname)
	if err != nil || link.Attrs().OperState == netlink.OperUp {
		return err
	}
	timeout := time.NewTimer(carrierTimeout)
	defer timeout.Stop()
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("lab: watch links in %s: the subscription ended", n.name)
			}
			if a := u.Attrs(); a.Name == ifname && a.OperState == netlink.OperUp {
				return nil
			}
		case <-timeout.C:
			return fmt.Errorf("lab: %s in %s did not come up within %v", ifname, n.name, carrierTimeout)
		}
	}
}
