package control

// Router counts what the gateway sends as a router besides what it forwards.
type Router struct {
	ICMPErrors        []Counter `json:"icmp_errors"`         // of its own, by kind
	ICMPErrorsLimited uint64    `json:"icmp_errors_limited"` // not sent for the limit's sake
	FragmentedPackets uint64    `json:"fragmented_packets"`
	Fragments         uint64    `json:"fragments"`         // that those became
	TCPOutOfWindow    uint64    `json:"tcp_out_of_window"` // segments that fit no connection by their numbers; they passed
	MSSClamped        uint64    `json:"mss_clamped"`       // SYNs
	EarlyDrops        uint64    `json:"early_drops"`       // flows that were never answered and made room
	SYNsHeld          uint64    `json:"syns_held"`         // unsolicited, answered after 6 seconds
	EchoReplies       uint64    `json:"echo_replies"`      // to pings of addresses that the host does not hold
	AddressConflicts  uint64    `json:"address_conflicts"` // ARP of other stations with an address of the gateway's as theirs

	FragmentsFollowed   uint64 `json:"fragments_followed"`    // that came, of datagrams that may have to be translated
	FragmentsHeld       uint64 `json:"fragments_held"`        // of them, those that waited for the first one
	FragmentsHandedOver uint64 `json:"fragments_handed_over"` // from one worker to another

	ServiceFlows    []Counter `json:"service_flows"`    // that began, by the way that their answers take
	ServiceResets   uint64    `json:"service_resets"`   // to clients whose connections cannot go on
	Announcements   uint64    `json:"announcements"`    // of service addresses, by ARP
	OptionsStripped uint64    `json:"options_stripped"` // packets from which a foreign DSR option was taken
	PathMTUs        uint64    `json:"path_mtus"`        // errors that told the MTU of a path to a backend
}
