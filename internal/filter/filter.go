package filter

import (
	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Filter is a parsed filter. The zero value is true of every packet.
type Filter struct {
	nodes []node // children before their parents: the last is the root
	late  bool
}

// View is what a filter is asked about: a packet as it arrives and as it leaves.
// A primitive is true of it that is true of either, so that a masqueraded
// connection is found by its inside and by its external address, and `not host A`
// leaves all of A's out. Where nothing leaves, Leaves is equal to Arrives.
type View struct {
	Arrives, Leaves conntrack.Tuple
	NotIPv4         bool // or broken: there are no tuples
	TCP             bool // it has a TCP header, with TCPFlags
	TCPFlags        uint8
	Reason          verdict.Reason
}

// Late reports whether the answer can depend on what became of the packet.
func (f *Filter) Late() bool { return f.late }

// Match evaluates the filter. It allocates nothing.
func (f *Filter) Match(v *View) bool {
	return len(f.nodes) == 0 || f.eval(len(f.nodes)-1, v)
}

type op uint8

const (
	opNot op = iota
	opAnd
	opOr
	opNet     // an address is in addr/mask
	opPort    // a port of TCP or UDP is in low to high
	opProto   // the protocol is low
	opDropped // the packet was dropped
	opReason  // for this reason

	opFlags       // of TCP's flags, those of low are high
	opFlagsDiffer // they are not
)

type side uint8

const (
	eitherSide side = iota
	sourceSide
	destinationSide
)

// node is one word of a filter. left and right are indices of nodes.
type node struct {
	op          op
	side        side
	left, right uint16
	low, high   uint16
	addr, mask  uint32
}

func (f *Filter) eval(i int, v *View) bool {
	n := &f.nodes[i]
	switch n.op {
	case opNot:
		return !f.eval(int(n.left), v)
	case opAnd:
		return f.eval(int(n.left), v) && f.eval(int(n.right), v)
	case opOr:
		return f.eval(int(n.left), v) || f.eval(int(n.right), v)
	case opDropped:
		return v.Reason != verdict.None
	case opReason:
		return v.Reason == verdict.Reason(n.low)
	case opFlags:
		return v.TCP && uint16(v.TCPFlags)&n.low == n.high
	case opFlagsDiffer:
		return v.TCP && uint16(v.TCPFlags)&n.low != n.high
	}
	return !v.NotIPv4 && (n.holds(&v.Arrives) || n.holds(&v.Leaves))
}

// holds reports whether a primitive about tuples is true of one.
func (n *node) holds(t *conntrack.Tuple) bool {
	source, destination := n.side != destinationSide, n.side != sourceSide
	switch n.op {
	case opNet:
		return source && t.Src&n.mask == n.addr || destination && t.Dst&n.mask == n.addr
	case opPort:
		if t.Proto != packet.ProtoTCP && t.Proto != packet.ProtoUDP {
			return false
		}
		return source && n.low <= t.SrcPort && t.SrcPort <= n.high ||
			destination && n.low <= t.DstPort && t.DstPort <= n.high
	}
	return t.Proto == uint8(n.low)
}
