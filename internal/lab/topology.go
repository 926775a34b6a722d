package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// The addresses of the topology that Up makes. Outside uses TEST-NET-2.
const (
	InsideNetwork  = "10.20.30.0/24"
	GatewayInside  = "10.20.30.1"
	Client1Address = "10.20.30.11"
	Client2Address = "10.20.30.12"

	OutsideNetwork = "198.51.100.0/24"
	GatewayOutside = "198.51.100.2" // the external address, shared with the gateway's host
	RouterAddress  = "198.51.100.3" // the way to the excluded network
	Server1Address = "198.51.100.11"
	Server2Address = "198.51.100.12"

	ExcludedNetwork = "10.99.0.0/24"
	ExcludedAddress = "10.99.0.10"
)

// The names of the gateway's interfaces, and of the interface of every host.
const (
	InsideNIC  = "inside"
	OutsideNIC = "outside"
	HostNIC    = "eth0"
)

// GatewayPort is the port of each switch that the gateway is plugged into.
const GatewayPort = "gateway"

// Options shapes the topology.
type Options struct {
	InsideQueues  int // queues of the gateway's inside NIC; 0 means 1
	OutsideQueues int // queues of the gateway's outside NIC; 0 means 1
}

// Topology is the network of the demo and of the gateway's tests:
//
//	client1 .11 ─┐                                   ┌─ .11 server1
//	             ├─ inside switch ─ gateway ─ outside switch
//	client2 .12 ─┘ 10.20.30.0/24  .1     .2  198.51.100.0/24
//	                                                 ├─ .12 server2
//	                                                 └─ .3  excluded 10.99.0.10
//
// The excluded host stands for a network that policy excludes from
// masquerading: the gateway routes 10.99.0.0/24 to it, and it has a route back
// to the inside. So have the servers, though no such network has business
// having one: a packet that leaks is answered, and shows as the wrong source
// instead of as a timeout.
type Topology struct {
	Client1, Client2 *Namespace
	Gateway          *Namespace
	Server1, Server2 *Namespace
	Excluded         *Namespace

	// InsideSwitch and OutsideSwitch are bridges in namespaces of their own.
	InsideSwitch, OutsideSwitch *Namespace

	// Checker watches what the gateway sends outside, from the first frame.
	Checker *Checker
}

// MasqueradePolicy is what the topology's configuration says, in the checker's
// terms.
func MasqueradePolicy() Policy {
	return Policy{
		Sources:  []netip.Prefix{netip.MustParsePrefix(InsideNetwork)},
		Excluded: []netip.Prefix{netip.MustParsePrefix(ExcludedNetwork)},
	}
}

// Up builds the topology and starts its checker. The gateway's namespace has
// addresses and routes; what forwards there is up to the caller.
func Up(o Options) (*Topology, error) {
	t := &Topology{}
	if err := t.build(o); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Topology) build(o Options) error {
	for _, n := range []struct {
		ns   **Namespace
		name string
	}{
		{&t.InsideSwitch, "inside"}, {&t.OutsideSwitch, "outside"}, {&t.Gateway, "gateway"},
		{&t.Client1, "client1"}, {&t.Client2, "client2"},
		{&t.Server1, "server1"}, {&t.Server2, "server2"}, {&t.Excluded, "excluded"},
	} {
		ns, err := NewNamespace(n.name)
		if err != nil {
			return err
		}
		*n.ns = ns
	}
	cables := []cable{
		{t.Gateway, InsideNIC, t.InsideSwitch, GatewayPort, o.InsideQueues},
		{t.Gateway, OutsideNIC, t.OutsideSwitch, GatewayPort, o.OutsideQueues},
		{t.Client1, HostNIC, t.InsideSwitch, "client1", 0},
		{t.Client2, HostNIC, t.InsideSwitch, "client2", 0},
		{t.Server1, HostNIC, t.OutsideSwitch, "server1", 0},
		{t.Server2, HostNIC, t.OutsideSwitch, "server2", 0},
		{t.Excluded, HostNIC, t.OutsideSwitch, "excluded", 0},
	}
	if err := plugAll(cables); err != nil {
		return err
	}
	if err := t.address(); err != nil {
		return err
	}
	if err := t.InsideSwitch.Bridge("br0", GatewayPort, "client1", "client2"); err != nil {
		return err
	}
	if err := t.OutsideSwitch.Bridge("br0", GatewayPort, "server1", "server2", "excluded"); err != nil {
		return err
	}
	var err error
	t.Checker, err = Watch(t.OutsideSwitch, GatewayPort, MasqueradePolicy())
	return err
}

// cable is a veth pair from a host to a port of a switch.
type cable struct {
	host   *Namespace
	nic    string
	sw     *Namespace
	port   string
	queues int
}

// plugAll waits for the cables together: where the kernel takes its time to
// call a link up, it takes it once.
func plugAll(cables []cable) error {
	for _, c := range cables {
		if err := plug(c.host, c.nic, c.sw, c.port, VethOptions{Queues: c.queues}); err != nil {
			return err
		}
	}
	for _, c := range cables {
		if err := c.host.awaitUp(c.nic); err != nil {
			return err
		}
		if err := c.sw.awaitUp(c.port); err != nil {
			return err
		}
	}
	return nil
}

// address gives every host its addresses and routes.
func (t *Topology) address() error {
	for _, a := range []struct {
		host          *Namespace
		ifname, cidr  string
		network, next string // a route; "" = none
	}{
		{t.Client1, HostNIC, Client1Address + "/24", "default", GatewayInside},
		{t.Client2, HostNIC, Client2Address + "/24", "default", GatewayInside},
		{t.Gateway, InsideNIC, GatewayInside + "/24", "", ""},
		{t.Gateway, OutsideNIC, GatewayOutside + "/24", ExcludedNetwork, RouterAddress},
		{t.Server1, HostNIC, Server1Address + "/24", "default", GatewayOutside},
		{t.Server2, HostNIC, Server2Address + "/24", "default", GatewayOutside},
		{t.Excluded, HostNIC, RouterAddress + "/24", "default", GatewayOutside},
		{t.Excluded, "lo", ExcludedAddress + "/32", "", ""},
	} {
		if err := a.host.AddAddress(a.ifname, a.cidr); err != nil {
			return err
		}
		if a.network == "" {
			continue
		}
		if err := a.host.AddRoute(a.network, a.next); err != nil {
			return err
		}
	}
	return nil
}

// Namespaces are all of the topology's, hosts before switches.
func (t *Topology) Namespaces() []*Namespace {
	return []*Namespace{
		t.Client1, t.Client2, t.Gateway, t.Server1, t.Server2, t.Excluded,
		t.InsideSwitch, t.OutsideSwitch,
	}
}

// Close ends the checker and removes everything. The error is the checker's
// verdict joined with what could not be removed.
func (t *Topology) Close() error {
	var errs []error
	if t.Checker != nil {
		errs = append(errs, t.Checker.Close().Err())
	}
	for _, n := range t.Namespaces() {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

// Config is a configuration for the gateway of the topology: masquerading for
// the inside, the true source for the excluded network, and the control socket
// at the path given. Flows end with the process.
func Config(controlSocket string) string { return PersistentConfig(controlSocket, "") }

// PersistentConfig is Config for a gateway whose flows outlive it, in a state
// file.
func PersistentConfig(controlSocket, stateFile string) string {
	return fmt.Sprintf(`interfaces:
  - {name: %s, role: inside}
  - {name: %s, role: outside}
masquerade:
  sources: [%s]
  native-routing-cidrs: [%s]
  addresses: [auto]
state-file: %q
control: {socket: %s}
`, InsideNIC, OutsideNIC, InsideNetwork, ExcludedNetwork, stateFile, controlSocket)
}
