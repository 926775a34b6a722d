package control

// Router counts what the gateway sends as a router besides what it forwards.
type Router struct {
	ICMPErrors        []Counter `json:"icmp_errors"`         // of its own, by kind
	ICMPErrorsLimited uint64    `json:"icmp_errors_limited"` // not sent for the limit's sake
	FragmentedPackets uint64    `json:"fragmented_packets"`
	Fragments         uint64    `json:"fragments"` // that those became
}
