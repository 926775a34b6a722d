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
	AddressConflicts  uint64    `json:"address_conflicts"` // ARP of other stations with an address of the gateway's as theirs

	FragmentsFollowed   uint64 `json:"fragments_followed"`    // that came, of datagrams that may have to be translated
	FragmentsHeld       uint64 `json:"fragments_held"`        // of them, those that waited for the first one
	FragmentsHandedOver uint64 `json:"fragments_handed_over"` // from one worker to another
}
