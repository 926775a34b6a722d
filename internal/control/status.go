package control

import (
	"net/netip"
	"time"
)

// Version says which build answers.
type Version struct {
	Version string `json:"version"` // "devel" where the build carries none
	Commit  string `json:"commit"`  // "" where unknown; "-dirty" is appended where the tree was not clean
	Go      string `json:"go"`
	Arch    string `json:"arch"`
}

// Status is the whole of what `sluice status` shows (RFC 6888 REQ-10).
type Status struct {
	Version       Version       `json:"version"`
	PID           int           `json:"pid"`
	Started       time.Time     `json:"started"`
	UptimeSeconds float64       `json:"uptime_seconds"`
	Config        ConfigStatus  `json:"config"`
	Degraded      []Degradation `json:"degraded"` // empty: all is well
	Workers       []Worker      `json:"workers"`
	Interfaces    []Interface   `json:"interfaces"`
	Masquerade    Masquerade    `json:"masquerade"`
	Services      ServiceUsage  `json:"services"`
	Flows         FlowUsage     `json:"flows"`
	Mappings      Usage         `json:"mappings"`
	Sources       Usage         `json:"sources"`
	StateFile     StateFile     `json:"state_file"`
	Process       Process       `json:"process"`
	Timeouts      Timeouts      `json:"timeouts_seconds"`
	Steering      Steering      `json:"steering"`
	Punts         Punts         `json:"punts"`
	Router        Router        `json:"router"`
	PortSearch    PortSearch    `json:"port_search"`
	Unsupported   []string      `json:"unsupported"`         // routes and rules that are not followed, in words
	Netfilter     []string      `json:"netfilter"`           // nft, iptables and tc rules that steered packets bypass, in words
	HostPeers     []HostPeer    `json:"host_peers"`          // with whom the host itself speaks protocols without ports by external addresses
	Looks         []Look        `json:"looks"`               // traces and captures that are on
	DSRAgent      *DSRAgent     `json:"dsr_agent,omitempty"` // absent: this node is no agent
}

// Degradation is one thing that is not as it should be, and what to do.
type Degradation struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

// HostPeer is a use that the host itself makes of a protocol without ports. Inside
// hosts have no flows of it with that peer by that address (drop reason host-peer).
type HostPeer struct {
	Protocol string     `json:"protocol"`
	Address  netip.Addr `json:"address"` // of the host; "": each of its own
	Peer     netip.Addr `json:"peer"`    // "": anybody
	By       string     `json:"by"`      // what of the host: a device, IPsec, a socket
}

// ConfigStatus says which configuration is in force.
type ConfigStatus struct {
	Path       string      `json:"path"`
	Loaded     time.Time   `json:"loaded"`      // when what is in force was read
	Warnings   []string    `json:"warnings"`    // of the configuration in force
	LastReload *LastReload `json:"last_reload"` // null: never reloaded
}

// Process is what the daemon takes of the machine, besides its threads' time. In
// a gateway that has been at work for a while none of it grows.
type Process struct {
	Goroutines    int    `json:"goroutines"`
	HeapBytes     uint64 `json:"heap_bytes"`     // live and not yet swept objects of Go's heap
	ResidentBytes uint64 `json:"resident_bytes"` // of all its memory; the flow table and the frames are most of it
	Descriptors   int    `json:"descriptors"`    // open files
}

// StateFile is where the flow table is kept, so that it outlives the process, and
// what became of the one that was there at the start.
type StateFile struct {
	Path    string `json:"path"`    // "" where flows end with the process
	Tmpfs   bool   `json:"tmpfs"`   // in memory, as it should be
	Adopted int    `json:"adopted"` // flows of an earlier process
	Dropped int    `json:"dropped"` // flows of an earlier process that could not stay
	Start   string `json:"start"`   // how the table began, in words
}

// LastReload is how the latest reload ended.
type LastReload struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"` // "" where it succeeded
}

// Worker is one data path thread.
type Worker struct {
	ID                  int     `json:"id"`
	CPU                 int     `json:"cpu"` // -1: not pinned
	Running             bool    `json:"running"`
	HeartbeatAgeSeconds float64 `json:"heartbeat_age_seconds"`
	Packets             uint64  `json:"packets"`
	Bursts              uint64  `json:"bursts"`
	Utilisation         float64 `json:"utilisation"`  // share of the last second spent on packets, 0 to 1
	BusySeconds         float64 `json:"busy_seconds"` // spent on packets since the start
	Frames              Frames  `json:"frames"`
}

// Frames accounts for a worker's UMEM: the five parts add up to Total.
type Frames struct {
	Free  int   `json:"free"`
	Fill  int   `json:"fill"`
	RX    int   `json:"rx"`
	TX    int   `json:"tx"`
	Held  int   `json:"held"`
	Total int   `json:"total"`
	Bytes int64 `json:"bytes"` // of memory that they take, pinned
}

// Interface is one listed network interface.
type Interface struct {
	Name      string         `json:"name"`
	Role      string         `json:"role"` // inside, outside, both
	Up        bool           `json:"up"`
	Driver    string         `json:"driver"`
	MAC       string         `json:"mac"`
	MTU       int            `json:"mtu"`
	Addresses []netip.Prefix `json:"addresses"`
	Notes     []string       `json:"notes"` // limits of the device that were found, in words
	Queues    []Queue        `json:"queues"`
}

// Queue is one AF_XDP socket: a receive queue of an interface and the transmit
// ring of the worker that serves it.
type Queue struct {
	Queue      int    `json:"queue"`
	Worker     int    `json:"worker"`
	Mode       string `json:"mode"` // zero-copy, copy, generic; "" where there is no socket
	ModeReason string `json:"mode_reason"`
	ZeroCopy   bool   `json:"zero_copy"`
	Up         bool   `json:"up"`

	FillRing       Ring `json:"fill_ring"`
	RXRing         Ring `json:"rx_ring"`
	TXRing         Ring `json:"tx_ring"`
	CompletionRing Ring `json:"completion_ring"`

	RXPackets uint64 `json:"rx_packets"`
	RXBytes   uint64 `json:"rx_bytes"`
	TXPackets uint64 `json:"tx_packets"`
	TXBytes   uint64 `json:"tx_bytes"`

	Drops QueueDrops `json:"drops"`
}

// Ring is how full a ring is, in descriptors.
type Ring struct {
	Size int `json:"size"`
	Used int `json:"used"`
}

// QueueDrops are the kernel's counters of an AF_XDP socket (struct
// xdp_statistics).
type QueueDrops struct {
	RXDropped       uint64 `json:"rx_dropped"`
	RXInvalid       uint64 `json:"rx_invalid_descriptors"`
	TXInvalid       uint64 `json:"tx_invalid_descriptors"`
	RXRingFull      uint64 `json:"rx_ring_full"`
	FillRingEmpty   uint64 `json:"fill_ring_empty"`
	TXRingEmpty     uint64 `json:"tx_ring_empty"`
	TXRingFullDrops uint64 `json:"tx_ring_full"` // frames the workers dropped because the ring had no room
}

// Lost is the number of frames that this queue lost, whoever lost them. An empty
// transmit ring loses nothing.
func (d *QueueDrops) Lost() uint64 {
	return d.RXDropped + d.RXInvalid + d.TXInvalid + d.RXRingFull + d.TXRingFullDrops
}

// Masquerade is the policy in force and the state of its addresses.
type Masquerade struct {
	Enabled    bool              `json:"enabled"`
	Sources    []netip.Prefix    `json:"sources"`
	Exclusions []Exclusion       `json:"exclusions"`
	PortRange  string            `json:"port_range"` // "1024-65535"
	Addresses  []ExternalAddress `json:"addresses"`
}

// Exclusion is a prefix that is not masqueraded. Rule is the key of the
// configuration that says so, which is also the word that `explain` prints.
type Exclusion struct {
	Rule   string       `json:"rule"` // no-nat-source, native-routing, node, link-local, ip-masq-agent
	Prefix netip.Prefix `json:"prefix"`
	Line   int          `json:"line"` // of the configuration file; 0 where another file or a default says it
}

// ExternalAddress is an address that sources are translated to.
type ExternalAddress struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"` // whose primary address it is; "" for a pool
	Shared    bool       `json:"shared"`    // the host owns it as well
	Use       AddressUse `json:"use"`
	Capacity  int        `json:"capacity"` // ports that NAT may choose from, per protocol; 0 where only port-forwards use it
	InUse     PortsInUse `json:"in_use"`
	Resting   PortsInUse `json:"resting"` // ports that were in use a moment ago and are not given out yet
	Refused   uint64     `json:"refused"` // new mappings that found no port
}

// ServiceUsage sums the services up; `sluice services list` has each.
type ServiceUsage struct {
	Count      int      `json:"count"`
	Modes      []string `json:"modes"`      // of one or more of them: snat, dsr, hybrid
	Dispatch   string   `json:"dispatch"`   // of those with mode dsr or hybrid: option, ipip or geneve; "" without such
	Algorithms []string `json:"algorithms"` // maglev, random, round-robin
	Backends   int      `json:"backends"`
	Selectable int      `json:"selectable"` // backends that get new flows
}

// AddressUse says whose source an external address becomes.
type AddressUse string

// What an external address is for; where it is for several, the first.
const (
	ForMasquerading AddressUse = "masquerade"   // of masqueraded sources
	ForServices     AddressUse = "services"     // of clients of services with mode snat
	ForForwards     AddressUse = "port-forward" // of the inside ends of port-forwards
)

// PortsInUse counts the external ports (for ICMP: identifiers) that mappings hold.
type PortsInUse struct {
	TCP  int `json:"tcp"`
	UDP  int `json:"udp"`
	ICMP int `json:"icmp"`
}

// Usage is how full a table is.
type Usage struct {
	Used     int `json:"used"`
	Capacity int `json:"capacity"`
}

// FlowUsage is how full the flow table is, and of what.
type FlowUsage struct {
	Usage
	Protocols map[string]int `json:"protocols"` // tcp, udp, icmp, ...
	States    map[string]int `json:"states"`
	ByState   []FlowState    `json:"by_state"`
}

// FlowState is how many flows of a protocol are in a state.
type FlowState struct {
	Protocol string `json:"protocol"`
	State    string `json:"state"`
	Flows    int    `json:"flows"`
}

// Timeouts are the idle times in force, in seconds, named as in the
// configuration.
type Timeouts struct {
	TCPEstablished float64 `json:"tcp-established"`
	TCPTransitory  float64 `json:"tcp-transitory"`
	TCPClosing     float64 `json:"tcp-closing"`
	TCPSyn         float64 `json:"tcp-syn"`
	TCPClose       float64 `json:"tcp-close"`
	TCPTimeWait    float64 `json:"tcp-time-wait"`
	UDP            float64 `json:"udp"`
	UDPUnreplied   float64 `json:"udp-unreplied"`
	ICMP           float64 `json:"icmp"`
	Other          float64 `json:"other"`

	UDPPorts map[string]float64 `json:"udp-ports,omitempty"` // by port or range of ports
}

// Steering is the state of the XDP program that brings packets to the workers.
type Steering struct {
	OnFailure string    `json:"on_failure"` // drop, pass
	Pinned    bool      `json:"pinned"`     // the program outlives the daemon
	Path      string    `json:"path"`       // where it is pinned, or why it is not
	Counters  []Counter `json:"counters"`   // one per decision of the program
}

// Punts are the packets that reached a worker and are the kernel's, for the
// gateway's own host or by an interface that is not listed.
type Punts struct {
	Problem        string `json:"problem"` // why they are dropped, or some of them; "" where all is well
	LimitPerSecond int    `json:"limit_per_second"`
	Reasons        []Punt `json:"reasons"` // those that occurred
}

// Punt counts packets for the kernel by the reason for which they are dropped
// where the kernel does not get them. Refused and Failed are among the drops.
type Punt struct {
	Reason  string `json:"reason"`
	Passed  uint64 `json:"passed"`  // the kernel has them
	Refused uint64 `json:"refused"` // beyond the limit, or longer than the kernel takes
	Failed  uint64 `json:"failed"`  // the kernel did not take them: the interface went away
}

// Counter is a named count of packets.
type Counter struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
}

// fill gives empty lists in place of absent ones, so that a reader of the JSON
// finds a list wherever the type says list.
func (s *Status) fill() {
	list(&s.Degraded)
	list(&s.Workers)
	list(&s.Interfaces)
	list(&s.Unsupported)
	list(&s.Netfilter)
	list(&s.HostPeers)
	list(&s.Looks)
	list(&s.Config.Warnings)
	list(&s.Masquerade.Sources)
	list(&s.Masquerade.Exclusions)
	list(&s.Masquerade.Addresses)
	list(&s.Services.Modes)
	list(&s.Services.Algorithms)
	list(&s.Steering.Counters)
	list(&s.Punts.Reasons)
	list(&s.Router.ICMPErrors)
	list(&s.Router.ServiceFlows)
	if a := s.DSRAgent; a != nil {
		list(&a.Interfaces)
		list(&a.ReplyInterfaces)
		list(&a.StrictFilter)
		list(&a.Counters)
	}
	list(&s.Flows.ByState)
	for i := range s.Interfaces {
		list(&s.Interfaces[i].Addresses)
		list(&s.Interfaces[i].Notes)
		list(&s.Interfaces[i].Queues)
	}
	if s.Flows.Protocols == nil {
		s.Flows.Protocols = map[string]int{}
	}
	if s.Flows.States == nil {
		s.Flows.States = map[string]int{}
	}
}

func list[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}
