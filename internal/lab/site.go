package lab

import "net/netip"

// What SecondSite adds to the topology.
const (
	SiteNetwork = "10.20.40.0/24"
	SiteInside  = "10.20.40.1"
	SiteOutside = "198.51.100.5"
	SiteClient  = "10.20.40.11"

	SitePort = "site2" // its gateway's port of the outside switch
)

// SecondSite adds a gateway with an inside network of its own and a client there, on
// the same outside segment, so that hosts behind two NATs can meet. The gateway's
// interfaces are called as the first one's. The caller closes both, and watches
// SitePort by SitePolicy.
func (t *Topology) SecondSite() (gateway, client *Namespace, err error) {
	if gateway, err = NewNamespace("site2"); err != nil {
		return nil, nil, err
	}
	if client, err = NewNamespace("client3"); err != nil {
		gateway.Close()
		return nil, nil, err
	}
	for _, step := range []func() error{
		func() error { return Veth(gateway, InsideNIC, client, HostNIC, VethOptions{}) },
		func() error { return Veth(gateway, OutsideNIC, t.OutsideSwitch, SitePort, VethOptions{}) },
		func() error { return join(t.OutsideSwitch, SitePort) },
		func() error { return gateway.AddAddress(InsideNIC, SiteInside+"/24") },
		func() error { return gateway.AddAddress(OutsideNIC, SiteOutside+"/24") },
		func() error { return client.AddAddress(HostNIC, SiteClient+"/24") },
		func() error { return client.AddRoute("default", SiteInside) },
	} {
		if err := step(); err != nil {
			client.Close()
			gateway.Close()
			return nil, nil, err
		}
	}
	return gateway, client, nil
}

// SitePolicy is what the second site's gateway must hold.
func SitePolicy() Policy {
	return Policy{Sources: []netip.Prefix{netip.MustParsePrefix(SiteNetwork)}}
}
