package bench

import (
	"sluice/internal/lab"
	"sluice/xdp"
)

// endpoint is an AF_XDP socket of the benchmark's own on interfaces of one
// namespace: a UMEM and a port for each of them.
type endpoint struct {
	umem  *xdp.UMEM
	ports []*xdp.Port
}

// openEndpoint opens a worker's ports on the interfaces named.
func openEndpoint(ns *lab.Namespace, names ...string) (*endpoint, error) {
	e := new(endpoint)
	err := ns.Do(func() error {
		var nics []*xdp.NIC
		for _, name := range names {
			nic, err := xdp.Probe(name)
			if err != nil {
				return err
			}
			nics = append(nics, nic)
		}
		plans, err := xdp.Plan(nics, 1)
		if err != nil {
			return err
		}
		e.umem, e.ports, err = xdp.OpenPorts(plans[0], xdp.PortsConfig{Spare: 2 * burst, HugePages: true})
		return err
	})
	return e, err
}

func (e *endpoint) close() error {
	if e == nil || e.umem == nil {
		return nil
	}
	return xdp.ClosePorts(e.umem, e.ports)
}

// attach attaches a program to an interface of a namespace.
func attach(ns *lab.Namespace, name string, how func(*xdp.NIC) (*program, error)) (p *program, err error) {
	err = ns.Do(func() error {
		nic, err := xdp.Probe(name)
		if err == nil {
			p, err = how(nic)
		}
		return err
	})
	return p, err
}
