package control

// DSRAgent is the state of this node as a backend that answers clients itself.
type DSRAgent struct {
	Interfaces      []string  `json:"interfaces"`       // where requests are learned from
	ReplyInterfaces []string  `json:"reply_interfaces"` // where replies get the service address
	StrictFilter    []string  `json:"strict_rp_filter"` // of the interfaces, those with rp_filter 1
	SourceRules     bool      `json:"source_rules"`     // routing rules ask for the source: replies are looked up with the service address
	Hook            string    `json:"hook"`             // tcx, or clsact before Linux 6.6
	Pinned          bool      `json:"pinned"`           // flows and programs outlive the process
	Path            string    `json:"path"`             // of the pins, or why there are none
	Flows           Usage     `json:"flows"`            // counted every few seconds
	Counters        []Counter `json:"counters"`
}
