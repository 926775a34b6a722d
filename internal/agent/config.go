package agent

import (
	"net"
	"net/netip"
	"time"
)

// Dispatch is how a service address comes to this node.
type Dispatch uint8

const (
	Option Dispatch = iota
	IPIP
	Geneve
)

// Config is what an agent does.
type Config struct {
	Interfaces      []string // where requests arrive
	ReplyInterfaces []string // where replies leave; nil: every one that is up, but for loopback

	Gateways []Gateway // who may name a service; empty: anybody
	Services []Service // which ones; empty: any

	Dispatch     Dispatch
	NetworkOrder bool // of the option; else Cilium's, the least significant byte first
	StripOption  bool

	MaxFlows int
	Timeouts Timeouts

	// ClassicTC attaches by clsact filters even where the kernel has TCX.
	ClassicTC bool
}

// Gateway is a sender of frames: by MAC, or by the address of a neighbour, whose
// MAC is resolved and followed.
type Gateway struct {
	MAC     net.HardwareAddr // 6 bytes, or nil
	Address netip.Addr
}

// Service is what a request may name: the addresses of a prefix, or a port of one
// address.
type Service struct {
	Prefix netip.Prefix
	Port   uint16 // 0: any
}

// Timeouts say how long an idle flow lives.
type Timeouts struct {
	Opening     time.Duration // TCP, no answer yet
	Transitory  time.Duration // TCP, opening
	Closing     time.Duration // TCP, half closed
	Established time.Duration
	TimeWait    time.Duration // both FINs seen
	Closed      time.Duration // after an RST
	Unreplied   time.Duration // UDP, no answer yet
	UDP         time.Duration
}

// enum setting of the C source.
const (
	stripOption uint32 = 1 << iota
	anyGateway
	anyService
	networkOrder
	dispatchIPIP
	dispatchGeneve
	// What Config does not say.
	sourceRules
	handingOver
)

func (c *Config) settings() uint32 {
	var s uint32
	for _, f := range []struct {
		on  bool
		bit uint32
	}{
		{c.StripOption, stripOption},
		{len(c.Gateways) == 0, anyGateway},
		{len(c.Services) == 0, anyService},
		{c.NetworkOrder, networkOrder},
		{c.Dispatch == IPIP, dispatchIPIP},
		{c.Dispatch == Geneve, dispatchGeneve},
	} {
		if f.on {
			s |= f.bit
		}
	}
	return s
}
