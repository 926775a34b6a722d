package config

import (
	"math"
	"net/netip"
	"time"
)

// Config is one configuration file, with its defaults filled in.
type Config struct {
	Path string `yaml:"-"` // the file it came from

	// Lines has the line of every key and list entry that the file has, by its
	// path, such as masquerade.hairpin or interfaces[0].role: see Line.
	Lines map[string]int `yaml:"-"`

	Interfaces   []Interface   `yaml:"interfaces"`
	Masquerade   Masquerade    `yaml:"masquerade"`
	PortForwards []PortForward `yaml:"port-forwards"`
	Services     []Service     `yaml:"services"`
	DSR          DSR           `yaml:"dsr"`
	DSRAgent     DSRAgent      `yaml:"dsr-agent"`
	Conntrack    Conntrack     `yaml:"conntrack"`
	NATLog       NATLog        `yaml:"nat-log"`
	Filter       Reserved      `yaml:"filter"`
	OnFailure    Failure       `yaml:"on-failure"`
	StateFile    string        `yaml:"state-file"` // "auto", "" or a path
	Driver       Driver        `yaml:"driver"`
	CPUs         []int         `yaml:"cpus"` // empty: all allowed
	Control      Control       `yaml:"control"`
}

// Line is the line that a key or list entry stands on, 0 where the file does not
// have it and it is a default.
func (c *Config) Line(key string) int { return c.Lines[key] }

// Interface is one network interface that Sluice routes for.
type Interface struct {
	Line int `yaml:"-"`

	Name   string `yaml:"name"`
	Role   Role   `yaml:"role"`
	Mode   Mode   `yaml:"mode"`
	Queues Queues `yaml:"queues"`
	VLAN   int    `yaml:"vlan"`
}

// Masquerade says whose source is translated, towards where, and to what.
type Masquerade struct {
	Enabled            bool       `yaml:"enabled"`
	Sources            []Rule     `yaml:"sources"`
	NoNATSources       []Rule     `yaml:"no-nat-sources"`
	NativeRoutingCIDRs []Rule     `yaml:"native-routing-cidrs"`
	Nodes              []Node     `yaml:"nodes"`
	IPMasqAgentConfig  string     `yaml:"ip-masq-agent-config"` // "": none
	LinkLocal          bool       `yaml:"masquerade-link-local"`
	Addresses          []External `yaml:"addresses"`
	PortRange          PortRange  `yaml:"port-range"`
	PortAssignment     Assignment `yaml:"port-assignment"`
	Mapping            Mapping    `yaml:"mapping"`
	Filtering          Mapping    `yaml:"filtering"`
	Overload           bool       `yaml:"overload-when-exhausted"`
	InboundRefresh     bool       `yaml:"inbound-refresh"`
	Hairpin            bool       `yaml:"hairpin"`
	MaxFlowsPerSource  int        `yaml:"max-flows-per-source"` // 0: unlimited
	MSSClamp           MSSClamp   `yaml:"mss-clamp"`
	TCPPickup          Pickup     `yaml:"tcp-pickup"`
	IPOptions          Options    `yaml:"ip-options"`
	ForeignSources     Foreign    `yaml:"foreign-sources"`
	OtherProtocols     OtherProto `yaml:"other-protocols"`
}

// Rule is a prefix of a list and the line it stands on, which `explain` prints.
type Rule struct {
	Prefix netip.Prefix
	Line   int
}

// Node is the address of a cluster node and the line it stands on.
type Node struct {
	Address netip.Addr
	Line    int
}

// External is an entry of masquerade.addresses: Auto, or a prefix of pool
// addresses.
type External struct {
	Auto   bool
	Prefix netip.Prefix
	Line   int
}

// Conntrack sizes the flow table and says how long an idle flow lives.
type Conntrack struct {
	MaxFlows int      `yaml:"max-flows"`
	Timeouts Timeouts `yaml:"timeouts"`
}

// Timeouts are idle times by state.
type Timeouts struct {
	TCPEstablished Duration `yaml:"tcp-established"`
	TCPTransitory  Duration `yaml:"tcp-transitory"` // opening, half closed or closing
	TCPClosing     Duration `yaml:"tcp-closing"`    // half closed or closing; 0: as TCPTransitory
	TCPSyn         Duration `yaml:"tcp-syn"`        // no answer yet
	TCPClose       Duration `yaml:"tcp-close"`      // after an exact RST
	TCPTimeWait    Duration `yaml:"tcp-time-wait"`  // both FINs acknowledged
	UDP            Duration `yaml:"udp"`            // both directions seen
	UDPUnreplied   Duration `yaml:"udp-unreplied"`
	ICMP           Duration `yaml:"icmp"`
	Other          Duration `yaml:"other"`

	UDPPorts PortTimeouts `yaml:"udp-ports"` // by destination port, instead of UDP
}

// Closing is the idle time of connections that are half closed or closing.
func (t *Timeouts) Closing() Duration {
	if t.TCPClosing == 0 {
		return t.TCPTransitory
	}
	return t.TCPClosing
}

// Control is where the daemon answers.
type Control struct {
	Socket  string `yaml:"socket"`
	Metrics string `yaml:"metrics"` // "": none
}

// PortForward publishes an inside endpoint on an external one.
type PortForward struct {
	Line int `yaml:"-"`

	External  string     `yaml:"external"`
	Protocols []Protocol `yaml:"protocols"`
	To        string     `yaml:"to"`
}

// Service is an address and port balanced over backends.
type Service struct {
	Line int `yaml:"-"`

	Name            string      `yaml:"name"`
	Address         netip.Addr  `yaml:"address"`
	Announce        Announce    `yaml:"announce"`
	Port            uint16      `yaml:"port"`
	Protocols       []Protocol  `yaml:"protocols"`
	Mode            ServiceMode `yaml:"mode"`
	Algorithm       Algorithm   `yaml:"algorithm"`
	SessionAffinity Duration    `yaml:"session-affinity"`
	SourceRanges    []Rule      `yaml:"source-ranges"`
	NoBackend       NoBackend   `yaml:"no-backend"`
	DeadBackend     DeadBackend `yaml:"dead-backend"`
	Backends        []Backend   `yaml:"backends"`
	HealthCheck     HealthCheck `yaml:"health-check"`
}

// Backend is one server of a service.
type Backend struct {
	Line int `yaml:"-"`

	Address netip.Addr `yaml:"address"`
	Port    uint16     `yaml:"port"`
	Weight  int        `yaml:"weight"`
	Agent   bool       `yaml:"agent"`
}

// HealthCheck is how the backends of a service are probed.
type HealthCheck struct {
	Type     Probe    `yaml:"type"`
	Interval Duration `yaml:"interval"`
	Timeout  Duration `yaml:"timeout"`
	Rise     int      `yaml:"rise"`
	Fall     int      `yaml:"fall"`
	Path     string   `yaml:"path"`
	Host     string   `yaml:"host"`
	Status   int      `yaml:"status"`
}

// DSR is how the service address travels to a backend.
type DSR struct {
	Dispatch  Dispatch  `yaml:"dispatch"`
	ByteOrder ByteOrder `yaml:"byte-order"`
}

// DSRAgent is this node's part as a backend.
type DSRAgent struct {
	Interfaces      []string        `yaml:"interfaces"`
	ReplyInterfaces ReplyInterfaces `yaml:"reply-interfaces"`
	TrustedGateways []string        `yaml:"trusted-gateways"`
	Services        []string        `yaml:"services"`
	StripOption     bool            `yaml:"strip-option"`
}

// NATLog is where translations are reported to.
type NATLog struct {
	IPFIX      []string `yaml:"ipfix"`
	Syslog     []string `yaml:"syslog"`
	BlocksOnly bool     `yaml:"blocks-only"`
}

// Default returns the configuration of an empty file.
func Default() *Config {
	return &Config{
		Masquerade: Masquerade{
			Enabled:        true,
			Addresses:      []External{{Auto: true}},
			PortRange:      PortRange{First: 1024, Last: math.MaxUint16},
			PortAssignment: PortPreserve,
			Mapping:        EndpointIndependent,
			Filtering:      AddressAndPortDependent,
			InboundRefresh: true,
			Hairpin:        true,
			TCPPickup:      PickupOff,
			IPOptions:      OptionsPass,
			ForeignSources: ForeignRoute,
			OtherProtocols: OtherAddressOnly,
		},
		DSR:      DSR{Dispatch: "option", ByteOrder: "cilium"},
		DSRAgent: DSRAgent{ReplyInterfaces: ReplyInterfaces{Auto: true}, StripOption: true},
		Conntrack: Conntrack{
			MaxFlows: 1 << 20,
			Timeouts: Timeouts{
				TCPEstablished: Duration(2*time.Hour + 4*time.Minute), // RFC 5382 REQ-5
				TCPTransitory:  Duration(4 * time.Minute),             // RFC 5382 REQ-5
				TCPSyn:         Duration(4 * time.Minute),
				TCPClose:       Duration(4 * time.Minute),
				TCPTimeWait:    Duration(2 * time.Minute),
				UDP:            Duration(5 * time.Minute), // RFC 4787 REQ-5
				UDPUnreplied:   Duration(2 * time.Minute),
				ICMP:           Duration(60 * time.Second), // RFC 5508 REQ-2
				Other:          Duration(10 * time.Minute),
			},
		},
		OnFailure: FailDrop,
		StateFile: "auto",
		Driver:    DriverNative,
		Control:   Control{Socket: DefaultSocket},
	}
}

// Where things are unless something else is said.
const (
	DefaultPath   = "/etc/sluice/sluice.yaml"
	DefaultSocket = "/run/sluice/control.sock"
)

// Limits of this version.
const (
	MaxInterfaces = 64      // ports of the gateway
	MaxExternals  = 256     // pool addresses: each costs the port tables of three protocols
	MaxForwards   = 1024    // entries of port-forwards
	MaxFlows      = 1 << 26 // flows: 12 GiB
	MaxServices   = 4096    // entries of services, each with one or two protocols
)

// defaults give a new list entry its values before the file's are put in.
func (i *Interface) defaults() { i.Mode = ModeAuto }

func (p *PortForward) defaults() { p.Protocols = []Protocol{"tcp"} }

func (s *Service) defaults() {
	*s = Service{
		Announce: "arp", Protocols: []Protocol{"tcp"}, Mode: "snat", Algorithm: "maglev",
		NoBackend: "reject", DeadBackend: "reset",
		HealthCheck: HealthCheck{
			Type: "none", Interval: Duration(5 * time.Second), Timeout: Duration(2 * time.Second),
			Rise: 2, Fall: 3, Path: "/", Status: 200,
		},
	}
}

func (b *Backend) defaults() { *b = Backend{Weight: 1, Agent: true} }
