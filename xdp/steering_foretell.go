package xdp

// Steered is what the steering program decides about a whole IPv4 packet by,
// one that is sent to the interface's own MAC and neither a fragment nor an ICMP
// error.
type Steered struct {
	Destination uint32      // host byte order
	Kind        AddressKind // of the destination; 0 where SetAddress was not told of it
	Service     bool        // a service has its port there
	Peered      bool        // of a protocol without ports, and NAT has a flow of it with the source
	Held        bool        // NAT holds its port or echo identifier there
	HostSocket  bool        // the host has a socket for exactly this packet
	Routed      bool        // the destination is in a prefix of SetRoutes,
	ToWorker    bool        // and what that says
}

// Foretell says who gets the packet where the workers run, and under which
// counter's name and text that is counted. It is steer() of steering.c in Go, for
// people that ask; a test holds the two together.
func (p *Steered) Foretell() (toWorker bool, name, text string) {
	r := p.reason()
	switch r {
	case steerReasonWORKER_SERVICE, steerReasonWORKER_HELD_PEER, steerReasonWORKER_HELD_PORT, steerReasonWORKER_POOL_ADDRESS, steerReasonWORKER_ROUTED:
		toWorker = true
	}
	return toWorker, steeringReasons[r].name, steeringReasons[r].text
}

func (p *Steered) reason() steerReason {
	switch {
	case p.Destination>>28 == 0xe, p.Destination == 0xffffffff:
		return steerReasonKERNEL_MULTICAST
	case p.Kind == AddrHost:
		return steerReasonKERNEL_HOST_ADDRESS
	case p.Kind != 0 && p.Service:
		return steerReasonWORKER_SERVICE
	case p.Kind == AddrShared && p.Peered:
		return steerReasonWORKER_HELD_PEER
	case p.Kind == AddrShared && p.Held && p.HostSocket:
		return steerReasonKERNEL_HOST_SOCKET
	case p.Kind != 0 && p.Held:
		return steerReasonWORKER_HELD_PORT
	case p.Kind == AddrPool:
		return steerReasonWORKER_POOL_ADDRESS
	case p.Kind == AddrShared:
		return steerReasonKERNEL_HOST_ADDRESS
	case !p.Routed:
		return steerReasonKERNEL_NO_ROUTE
	case !p.ToWorker:
		return steerReasonKERNEL_ROUTED
	}
	return steerReasonWORKER_ROUTED
}
