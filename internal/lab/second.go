package lab

import "net/netip"

// What SecondGateway adds to the topology.
const (
	SecondNetwork = "10.20.40.0/24"
	SecondInside  = "10.20.40.1"
	SecondOutside = "198.51.100.4"
	SecondClient  = "10.20.40.11"

	SecondPort = "gateway2" // its port of the outside switch
)

// SecondGateway adds a gateway on the outside segment, with a client behind it, so
// that hosts behind two NATs can meet. Its interfaces are called as the first one's.
// The caller closes both, and watches SecondPort by SecondPolicy.
func (t *Topology) SecondGateway() (gateway, client *Namespace, err error) {
	if gateway, err = NewNamespace("gateway2"); err != nil {
		return nil, nil, err
	}
	if client, err = NewNamespace("client3"); err != nil {
		gateway.Close()
		return nil, nil, err
	}
	for _, step := range []func() error{
		func() error { return Veth(gateway, InsideNIC, client, HostNIC, VethOptions{}) },
		func() error { return Veth(gateway, OutsideNIC, t.OutsideSwitch, SecondPort, VethOptions{}) },
		func() error { return t.joinOutside(SecondPort) },
		func() error { return gateway.AddAddress(InsideNIC, SecondInside+"/24") },
		func() error { return gateway.AddAddress(OutsideNIC, SecondOutside+"/24") },
		func() error { return client.AddAddress(HostNIC, SecondClient+"/24") },
		func() error { return client.AddRoute("default", SecondInside) },
	} {
		if err := step(); err != nil {
			client.Close()
			gateway.Close()
			return nil, nil, err
		}
	}
	return gateway, client, nil
}

// SecondPolicy is what the second gateway must hold.
func SecondPolicy() Policy {
	return Policy{Sources: []netip.Prefix{netip.MustParsePrefix(SecondNetwork)}}
}
