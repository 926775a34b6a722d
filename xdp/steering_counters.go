package xdp

import "fmt"

// Counter counts the frames of all ports that were decided for one reason.
type Counter struct {
	Name    string // stable, kebab-case; kernel-…, worker-… or failure-… says who got the frame
	Text    string // what it means, for people
	Packets uint64
}

// steeringReasons names enum reason of the C source.
var steeringReasons = [steerReasonREASONS]struct{ name, text string }{
	steerReasonKERNEL_NOT_IPV4:     {"kernel-not-ipv4", "not IPv4, or with a VLAN tag"},
	steerReasonKERNEL_MULTICAST:    {"kernel-multicast", "broadcast or multicast"},
	steerReasonKERNEL_OTHER_MAC:    {"kernel-other-mac", "sent to another station's hardware address"},
	steerReasonKERNEL_TRUNCATED:    {"kernel-truncated", "too short to have a destination"},
	steerReasonKERNEL_FRAGMENT:     {"kernel-fragment", "fragment for the host on an address shared with NAT"},
	steerReasonKERNEL_HOST_SOCKET:  {"kernel-host-socket", "NAT holds the port, but a socket of the host is the receiver"},
	steerReasonKERNEL_HOST_ADDRESS: {"kernel-host-address", "for an address of the host"},
	steerReasonKERNEL_ROUTED:       {"kernel-routed", "routed to the host, by an interface that is not listed, or nowhere"},
	steerReasonKERNEL_NO_ROUTE:     {"kernel-no-route", "in no prefix that the program knows"},
	steerReasonWORKER_ARP:          {"worker-arp", "ARP request for an address that only NAT or a service uses"},
	steerReasonWORKER_FRAGMENT:     {"worker-fragment", "later fragment of a datagram for NAT"},
	steerReasonWORKER_SERVICE:      {"worker-service", "for a service, or an ICMP error about a packet from one"},
	steerReasonWORKER_HELD_PORT:    {"worker-held-port", "for a port that NAT holds"},
	steerReasonWORKER_HELD_PEER:    {"worker-held-peer", "of a protocol without ports, from a peer that NAT has a flow of it with"},
	steerReasonWORKER_ICMP_ERROR:   {"worker-icmp-error", "ICMP error about a packet from a port that NAT holds, or to a backend in an outer header"},
	steerReasonWORKER_POOL_ADDRESS: {"worker-pool-address", "for an address that only NAT or a service uses, but no port of theirs"},
	steerReasonWORKER_ROUTED:       {"worker-routed", "routed to a listed interface"},
	steerReasonFAILURE_DROPPED:     {"failure-dropped", "dropped, since the worker of the queue does not run"},
	steerReasonFAILURE_PASSED:      {"failure-passed", "passed to the kernel, since the worker of the queue does not run"},
}

// Counters reads every counter, in a fixed order.
func (s *Steering) Counters() ([]Counter, error) {
	counters := make([]Counter, len(steeringReasons))
	var perCPU []uint64
	for i, r := range steeringReasons {
		if err := s.maps.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("counter %s: bpf(BPF_MAP_LOOKUP_ELEM): %w", r.name, err)
		}
		counters[i] = Counter{Name: r.name, Text: r.text}
		for _, n := range perCPU {
			counters[i].Packets += n
		}
	}
	return counters, nil
}
