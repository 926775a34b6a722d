package gateway

import "sluice/xdp"

// Port is one worker's end of a network interface. Its methods are called once
// a burst, never once a packet.
type Port interface {
	// Receive fills descs with received frames and returns how many. The
	// frames belong to the caller until it transmits or frees them. In front of
	// each, packet.ICMPErrorOverhead bytes of memory are its own, too.
	Receive(descs []xdp.Desc) int

	// Transmit queues frames for sending and returns how many it took; the
	// rest stay the caller's. Frames taken come back to Memory by themselves.
	Transmit(descs []xdp.Desc) int

	// Flush makes the kernel send what is queued, takes back completed
	// frames and refills the receive side.
	Flush()

	// SetUp tells the port that its link came up or went down.
	SetUp(up bool)

	// Up reports whether the port can send, as far as it knows.
	Up() bool

	// Wasted is how many of the frames that Transmit took were not sent after
	// all. It never decreases.
	Wasted() uint64
}

// Memory is the UMEM that all ports of one worker share: a frame received on
// one port is transmitted on another without moving.
type Memory interface {
	Bytes() []byte

	// Allocate takes free frames, as many as there are, and returns how many.
	// Each has length 0 and room for what a received frame has room for.
	Allocate(descs []xdp.Desc) int

	Free(descs []xdp.Desc)
}

// MaxPorts is the most interfaces a gateway can have.
const MaxPorts = 64

// Role says on which side of the translation an interface stands.
type Role uint8

const (
	RoleNone    Role = iota // not an interface of the gateway
	RoleInside              // clients are here
	RoleOutside             // what leaves here is masqueraded
	RoleBoth                // one-armed: a destination in the policy's sources counts as inside
)

// outQueue gathers what one burst sends out of one port.
type outQueue struct {
	n     int
	descs [Burst]xdp.Desc
}
