package lab

// The addresses of the gateway that SecondGateway adds.
const (
	Gateway2Inside  = "10.20.30.2"
	Gateway2Outside = "198.51.100.4"
)

// gateway2Port is the port of each switch that it is plugged into.
const gateway2Port = "gateway2"

// SecondGateway adds a gateway beside the first one, on both segments and with
// interfaces of the same names, which the caller closes.
func (t *Topology) SecondGateway() (*Namespace, error) {
	second, err := NewNamespace("gateway2")
	if err != nil {
		return nil, err
	}
	for _, leg := range []struct {
		nic, address string
		sw           *Namespace
	}{{InsideNIC, Gateway2Inside, t.InsideSwitch}, {OutsideNIC, Gateway2Outside, t.OutsideSwitch}} {
		for _, step := range []func() error{
			func() error { return Veth(second, leg.nic, leg.sw, gateway2Port, VethOptions{}) },
			func() error { return join(leg.sw, gateway2Port) },
			func() error { return second.AddAddress(leg.nic, leg.address+"/24") },
		} {
			if err := step(); err != nil {
				second.Close()
				return nil, err
			}
		}
	}
	return second, nil
}
