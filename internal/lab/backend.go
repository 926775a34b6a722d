package lab

// What DSRBackend adds to the topology.
const (
	PodNetwork = "10.20.31.0/24"
	PodRouter  = "10.20.31.1"
	PodAddress = "10.20.31.2"

	DirectNIC     = "direct" // the backend node's leg on the outside segment
	DirectPort    = "agent"  // its port of the outside switch
	DirectAddress = "198.51.100.21"
)

// podNIC is the backend node's end of the pod's cable.
const podNIC = "pod0"

// DSRBackend makes client1 a backend node for Direct Server Return: it routes to a
// pod behind veth, which it returns, and has a leg on the outside segment, by which
// its kernel reaches the clients there. Answers pass by the gateway. The caller
// closes the pod.
func (t *Topology) DSRBackend() (pod *Namespace, err error) {
	if pod, err = NewNamespace("pod"); err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return Veth(t.Client1, podNIC, pod, HostNIC, VethOptions{}) },
		func() error { return t.Client1.AddAddress(podNIC, PodRouter+"/24") },
		func() error { return pod.AddAddress(HostNIC, PodAddress+"/24") },
		func() error { return pod.AddRoute("default", PodRouter) },
		func() error { return t.Client1.Sysctl("net/ipv4/ip_forward", "1") },
		func() error { return t.Gateway.AddRoute(PodNetwork, Client1Address) },
		func() error { return Veth(t.Client1, DirectNIC, t.OutsideSwitch, DirectPort, VethOptions{}) },
		func() error { return join(t.OutsideSwitch, DirectPort) },
		func() error { return t.Client1.AddAddress(DirectNIC, DirectAddress+"/24") },
	} {
		if err := step(); err != nil {
			pod.Close()
			return nil, err
		}
	}
	return pod, nil
}

// join makes an interface of a switch a port of it.
func join(sw *Namespace, ifname string) error {
	port, err := sw.link(ifname)
	if err != nil {
		return err
	}
	bridge, err := sw.link("br0")
	if err != nil {
		return err
	}
	return sw.Netlink().LinkSetMaster(port, bridge)
}
