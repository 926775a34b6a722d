// Package verdict owns the words for what becomes of a packet: the drop
// reasons, their order, their names and their explanations. One list gives the
// enum, the text and, by its length, the counters; every package that decides
// for a packet returns a Reason from here, and the CLI, the metrics and the
// documents print the same word.
//
// It owns no counter and no decision. Everything here is immutable after
// package initialisation and safe for concurrent use. It imports nothing of
// ours.
package verdict

// Reason says why a packet was dropped. The zero value, None, says that it was
// not. Reasons are printed as kebab-case words and are never renamed; a new one
// goes to the end of its group, since only the words are stable.
type Reason uint8

// The drop reasons. The entry of each in words holds its name and explanation.
const (
	None Reason = iota

	// Malformed: what Parse refuses.
	FrameTooShort
	NotIPv4
	BadVersion
	BadHeaderLength
	BadTotalLength
	BadHeaderChecksum
	BadOption
	SourceRoute
	TransportTruncated
	BadUDPLength
	BadTCPOffset
	BadTCPFlags
	MartianSource
	MartianDestination
	LandAttack
	BadFragment
	TinyFragment

	// Policy and translation.
	OutsideToInside
	SpoofedSource
	OwnSource
	NoMapping
	Filtered
	PortsExhausted
	NoExternalAddress
	FlowTableFull
	MappingTableFull
	SourceTableFull
	SourceLimit
	ReplyTupleTaken
	ReplyWithoutFlow
	HairpinDisabled
	ProtocolUnsupported
	ICMPUnsupported
	ICMPErrorWithoutFlow
	ICMPErrorMalformed
	FragmentUnsupported
	OptionsRefused
	WouldLeakSource
	TCPWithoutFlow
	ExternalAddressMoved
	FlowFlushed
	FragmentOverlap
	TooManyFragments
	FragmentWithoutFirst
	FragmentHoldFull
	FragmentDuplicate
	NoService
	NoBackend
	BackendGone
	BackendUnroutable
	SourceRange
	ServiceRemoved
	ICMPErrorImplausible
	EarlyDrop
	PeerTaken
	ProtocolPassed
	ForwardRemoved
	EchoLimit
	PortSearchWaiting
	PortSearchLimit
	ForeignSource
	HostPeer

	// Routing and the way out.
	NoRoute
	RouteUnreachable
	RouteProhibited
	RouteBlackhole
	HostOwned
	KernelRoute
	NeighbourUnresolved
	HoldFull
	TTLExpired
	FragmentationNeeded
	InterfaceDown
	TransmitRingFull
	DirectedBroadcast
	TransmitFailed
	NoFreeFrame

	// Count is the number of reasons, None included: the length of every
	// array of counters.
	Count
)

// Words is what a reason is called and what it means to an operator.
type Words struct {
	Name        string // kebab-case, stable
	Explanation string // one sentence: what happened, and where it helps, the remedy
}

var words = [Count]Words{
	None: {"none", "the packet was not dropped"},

	FrameTooShort:      {"frame-too-short", "the frame ends before its IPv4 header does"},
	NotIPv4:            {"not-ipv4", "the frame does not carry IPv4"},
	BadVersion:         {"bad-version", "the version field of the IPv4 header is not 4"},
	BadHeaderLength:    {"bad-header-length", "the IPv4 header length is under 20 bytes or beyond the packet"},
	BadTotalLength:     {"bad-total-length", "the IPv4 total length is under the header's or beyond the frame"},
	BadHeaderChecksum:  {"bad-header-checksum", "the IPv4 header checksum is wrong"},
	BadOption:          {"bad-option", "an IPv4 option has a length that does not fit the header"},
	SourceRoute:        {"source-route", "the packet carries a loose or strict source route (RFC 7126)"},
	TransportTruncated: {"transport-truncated", "the packet ends before its TCP, UDP or ICMP header does"},
	BadUDPLength:       {"bad-udp-length", "the UDP length is under 8 or beyond the packet"},
	BadTCPOffset:       {"bad-tcp-offset", "the TCP data offset is under 20 bytes or beyond the packet"},
	BadTCPFlags:        {"bad-tcp-flags", "the TCP flags are a combination that no connection uses"},
	MartianSource:      {"martian-source", "the source is an address no packet may come from (RFC 1812 5.3.7)"},
	MartianDestination: {"martian-destination", "the destination is an address no packet may be forwarded to (RFC 1812 5.3.7)"},
	LandAttack:         {"land-attack", "source and destination are the same address"},
	BadFragment:        {"bad-fragment", "a fragment is empty, or is not the last one and has a length that is no multiple of 8 (RFC 791)"},
	TinyFragment:       {"tiny-fragment", "a first fragment without the whole transport header, or one that would overwrite it (RFC 1858, RFC 3128)"},

	OutsideToInside:      {"outside-to-inside", "a new flow from outside to an inside source that policy masquerades"},
	SpoofedSource:        {"spoofed-source", "a packet from outside with an inside source as its source address (RFC 2827)"},
	OwnSource:            {"own-source", "a packet with one of the gateway's own addresses as its source"},
	NoMapping:            {"no-mapping", "nothing is mapped to this external address and port"},
	Filtered:             {"filtered", "the external port is mapped, but not for this peer (see masquerade.filtering)"},
	PortsExhausted:       {"ports-exhausted", "no port is free on the external address; add addresses or widen masquerade.port-range"},
	NoExternalAddress:    {"no-external-address", "the interface the packet leaves by has no address to masquerade to"},
	FlowTableFull:        {"flow-table-full", "no room for a new flow; raise conntrack.max-flows"},
	MappingTableFull:     {"mapping-table-full", "no room for a new mapping; raise conntrack.max-flows"},
	SourceTableFull:      {"source-table-full", "no room for a new inside source; raise conntrack.max-flows"},
	SourceLimit:          {"source-limit", "the inside source has as many flows as masquerade.max-flows-per-source allows"},
	ReplyTupleTaken:      {"reply-tuple-taken", "another flow already expects the replies this flow would get"},
	ReplyWithoutFlow:     {"reply-without-flow", "the packet answers a flow that is not, or no longer, known"},
	HairpinDisabled:      {"hairpin-disabled", "an inside host called an external address of its own gateway and masquerade.hairpin is false"},
	ProtocolUnsupported:  {"protocol-unsupported", "the protocol cannot be translated and the packet must be"},
	ICMPUnsupported:      {"icmp-unsupported", "an ICMP message that is neither an echo nor an error that is translated"},
	ICMPErrorWithoutFlow: {"icmp-error-without-flow", "an ICMP error about a flow that is not known (RFC 5508 REQ-4, REQ-5)"},
	ICMPErrorMalformed:   {"icmp-error-malformed", "an ICMP error whose checksum or quoted packet is broken (RFC 5508 REQ-3)"},
	FragmentUnsupported:  {"fragment-unsupported", "a fragment of a large echo request to a service's address, which would have to be put together, or of an ICMP error by a router whose address stays about a flow whose addresses do not"},
	OptionsRefused:       {"options-refused", "the packet carries IPv4 options and masquerade.ip-options is drop"},
	WouldLeakSource:      {"would-leak-source", "the packet would have left outside with an inside source that policy masquerades"},
	TCPWithoutFlow:       {"tcp-without-flow", "a TCP segment that opens no connection and belongs to none that is known"},
	ExternalAddressMoved: {"external-address-moved", "the flow's external address is gone, or is not that of the interface its route now leaves by"},
	FlowFlushed:          {"flow-flushed", "an operator ended the flow: `sluice flows flush`"},
	FragmentOverlap:      {"fragment-overlap", "a fragment overlaps another of its datagram, or says another length or other ports: all of the datagram is dropped (RFC 5722)"},
	TooManyFragments:     {"too-many-fragments", "a datagram comes in more than 128 fragments: all of it is dropped"},
	FragmentWithoutFirst: {"fragment-without-first", "the first fragment of the datagram did not come within 5 s, or its flow has ended since"},
	FragmentHoldFull:     {"fragment-hold-full", "too many fragments wait for the first one of their datagram; the oldest are dropped"},
	FragmentDuplicate:    {"fragment-duplicate", "a fragment came again while it waits for the first one of its datagram"},
	NoService:            {"no-service", "nothing is served on this port of a service's address"},
	NoBackend:            {"no-backend", "no backend of the service can be chosen: all are dead, draining or of weight 0; see `sluice services list`"},
	BackendGone:          {"backend-gone", "the flow's backend is dead or was removed (see services.dead-backend)"},
	BackendUnroutable:    {"backend-unroutable", "the route to the chosen backend leads to the gateway's own host or by an interface that is not listed"},
	SourceRange:          {"source-range", "the client is in none of the service's source-ranges"},
	ServiceRemoved:       {"service-removed", "the flow's service is configured no more"},
	ICMPErrorImplausible: {"icmp-error-implausible", "an ICMP error that quotes a TCP sequence number its receiver cannot have sent (RFC 5927)"},
	EarlyDrop:            {"early-drop", "the flow was never answered, and ended so that a full table has room for a new one; raise conntrack.max-flows"},
	PeerTaken:            {"peer-taken", "on every external address another inside host has flows of this protocol without ports with this peer; add addresses to masquerade.addresses"},
	ProtocolPassed:       {"protocol-passed", "a protocol without ports, which masquerade.other-protocols leaves to the kernel, and the kernel could not be given it"},
	ForwardRemoved:       {"forward-removed", "the entry of port-forwards that the flow was translated by is gone or says otherwise"},
	EchoLimit:            {"echo-limit", "more echo requests to external addresses came than the gateway answers"},
	PortSearchWaiting:    {"port-search-waiting", "a port to share is still being searched for the packet's flow; the sender's next packet finds it"},
	PortSearchLimit:      {"port-search-limit", "as many packets as may wait for a port to share; add addresses or widen masquerade.port-range"},
	ForeignSource:        {"foreign-source", "a packet from inside whose source no route leads to there (RFC 2827; masquerade.foreign-sources: drop)"},
	HostPeer:             {"host-peer", "the host itself speaks this protocol without ports with this peer on the external address (`sluice status`), and the answers are its own; add addresses to masquerade.addresses that the host does not have"},

	NoRoute:             {"no-route", "there is no route to the destination"},
	RouteUnreachable:    {"route-unreachable", "the route to the destination is of type unreachable"},
	RouteProhibited:     {"route-prohibited", "the route to the destination is of type prohibit"},
	RouteBlackhole:      {"route-blackhole", "the route to the destination is of type blackhole"},
	HostOwned:           {"host-owned", "the packet is for the gateway's own host and reached a worker"},
	KernelRoute:         {"kernel-route", "the packet is routed by an interface that is not listed and reached a worker"},
	NeighbourUnresolved: {"neighbour-unresolved", "the next hop does not answer ARP"},
	HoldFull:            {"hold-full", "too many packets already wait for this next hop's address"},
	TTLExpired:          {"ttl-expired", "the packet's time to live ran out here"},
	FragmentationNeeded: {"fragmentation-needed", "the packet does not fit the way out's MTU and must not be fragmented (DF), or would make too many fragments"},
	InterfaceDown:       {"interface-down", "the interface the packet leaves by is down"},
	TransmitRingFull:    {"transmit-ring-full", "the transmit ring of the way out is full"},
	DirectedBroadcast:   {"directed-broadcast", "the destination is the broadcast address of a connected network (RFC 2644)"},
	TransmitFailed:      {"transmit-failed", "the kernel could not send the frame: the far end takes no more, the carrier is lost or the interface went away"},
	NoFreeFrame:         {"no-free-frame", "no free frame was left for the fragments of a packet that does not fit the way out's MTU, or for one that waited"},
}

// String returns the reason's kebab-case word.
func (r Reason) String() string {
	if r >= Count {
		return "unknown-reason"
	}
	return words[r].Name
}

// Explain returns one sentence on what the reason means.
func (r Reason) Explain() string {
	if r >= Count {
		return "a reason this version does not know"
	}
	return words[r].Explanation
}

// Parse returns the reason called name.
func Parse(name string) (Reason, bool) {
	for r := range Count {
		if words[r].Name == name {
			return r, true
		}
	}
	return None, false
}

// All lists every drop reason, None excluded, in the order they are counted.
func All() []Reason {
	all := make([]Reason, 0, Count-1)
	for r := None + 1; r < Count; r++ {
		all = append(all, r)
	}
	return all
}
