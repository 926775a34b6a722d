package config

// A type of this file is one word of a fixed list. The first word of a list is
// the default where the key has one.
type enumeration interface{ words() []string }

// Role says on which side of the translation an interface stands.
type Role string

// The roles. Both is one-armed: a destination in masquerade.sources counts as
// inside.
const (
	RoleInside  Role = "inside"
	RoleOutside Role = "outside"
	RoleBoth    Role = "both"
)

func (Role) words() []string { return []string{"inside", "outside", "both"} }

// Mode says how the AF_XDP sockets of an interface are bound.
type Mode string

// The modes. Auto is zero-copy where the driver can, else copy.
const (
	ModeAuto     Mode = "auto"
	ModeZeroCopy Mode = "zero-copy"
	ModeCopy     Mode = "copy"
	ModeGeneric  Mode = "generic"
)

func (Mode) words() []string { return []string{"auto", "zero-copy", "copy", "generic"} }

// Failure says what becomes of steered packets while no worker runs.
type Failure string

// The failure verdicts.
const (
	FailDrop Failure = "drop"
	FailPass Failure = "pass"
)

func (Failure) words() []string { return []string{"drop", "pass"} }

// Mapping is one of the behaviours of RFC 4787 sections 4.1 and 5.
type Mapping string

// The mapping and filtering behaviours.
const (
	EndpointIndependent     Mapping = "endpoint-independent"
	AddressDependent        Mapping = "address-dependent"
	AddressAndPortDependent Mapping = "address-and-port-dependent"
)

func (Mapping) words() []string {
	return []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}
}

// Assignment says how the external port of a mapping is chosen.
type Assignment string

// The assignments.
const (
	PortPreserve Assignment = "preserve"
	PortRandom   Assignment = "random"
)

func (Assignment) words() []string { return []string{"preserve", "random"} }

// Pickup says whether connections are adopted that began before the gateway did.
type Pickup string

// The pickup choices.
const (
	PickupOff      Pickup = "off"
	PickupOutbound Pickup = "outbound"
)

func (Pickup) words() []string { return []string{"off", "outbound"} }

// Options says what becomes of packets with IPv4 options.
type Options string

// The choices for IPv4 options. Source routing is always dropped.
const (
	OptionsPass Options = "pass"
	OptionsDrop Options = "drop"
)

func (Options) words() []string { return []string{"pass", "drop"} }

// Foreign says what becomes of packets from inside whose source is not reached there.
type Foreign string

// The choices for foreign sources.
const (
	ForeignRoute Foreign = "route"
	ForeignDrop  Foreign = "drop"
)

func (Foreign) words() []string { return []string{"route", "drop"} }

// OtherProto says what becomes of protocols without ports.
type OtherProto string

// The choices for protocols without ports.
const (
	OtherAddressOnly OtherProto = "address-only"
	OtherDrop        OtherProto = "drop"
	OtherPass        OtherProto = "pass"
)

func (OtherProto) words() []string { return []string{"address-only", "drop", "pass"} }

// Driver is the implementation of the AF_XDP sockets.
type Driver string

// The drivers.
const (
	DriverNative Driver = "native"
	DriverAsavie Driver = "asavie"
)

func (Driver) words() []string { return []string{"native", "asavie"} }

// The words of services and DSR.
type (
	Protocol    string
	Announce    string
	ServiceMode string
	Algorithm   string
	NoBackend   string
	DeadBackend string
	Probe       string
	Dispatch    string
	ByteOrder   string
)

func (Protocol) words() []string    { return []string{"tcp", "udp"} }
func (Announce) words() []string    { return []string{"arp", "none"} }
func (ServiceMode) words() []string { return []string{"snat", "dsr", "hybrid"} }
func (Algorithm) words() []string   { return []string{"maglev", "random", "round-robin"} }
func (NoBackend) words() []string   { return []string{"reject", "drop"} }
func (DeadBackend) words() []string { return []string{"reset", "drop"} }
func (Probe) words() []string       { return []string{"none", "tcp", "http"} }
func (Dispatch) words() []string    { return []string{"option", "ipip", "geneve"} }
func (ByteOrder) words() []string   { return []string{"cilium", "network"} }
