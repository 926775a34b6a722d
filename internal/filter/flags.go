package filter

import (
	"strconv"

	"sluice/internal/packet"
)

// flagNames are libpcap's names of TCP's flags.
var flagNames = map[string]uint8{
	"tcp-fin": packet.TCPFin, "tcp-syn": packet.TCPSyn, "tcp-rst": packet.TCPRst, "tcp-push": packet.TCPPsh,
	"tcp-ack": packet.TCPAck, "tcp-urg": packet.TCPUrg, "tcp-ece": 0x40, "tcp-cwr": 0x80,
}

// flags reads what follows `tcp[tcpflags]`: a mask, and what the masked flags are
// compared with.
func (p *parser) flags() (uint16, error) {
	n := node{op: opFlags, low: 0xff}
	if p.accept("&") != "" {
		mask, err := p.flagSet()
		if err != nil {
			return 0, err
		}
		n.low = mask
	}
	switch p.accept("==", "=", "!=") {
	case "":
		return 0, p.expected("&, == or !=")
	case "!=":
		n.op = opFlagsDiffer
	}
	var err error
	if n.high, err = p.flagSet(); err != nil {
		return 0, err
	}
	return p.emit(n), nil
}

// flagSet reads a flag, a number, or several with | between them in parentheses.
func (p *parser) flagSet() (uint16, error) {
	if p.accept("(") == "" {
		return p.flag()
	}
	set, err := p.flag()
	for err == nil && p.accept("|") != "" {
		var more uint16
		more, err = p.flag()
		set |= more
	}
	if err == nil && p.accept(")") == "" {
		err = p.expected("| or )")
	}
	return set, err
}

func (p *parser) flag() (uint16, error) {
	if bit, ok := flagNames[p.peek()]; ok {
		p.next()
		return uint16(bit), nil
	}
	v, err := strconv.ParseUint(p.peek(), 0, 8)
	if err != nil {
		return 0, p.expected("tcp-syn, tcp-ack, tcp-fin, tcp-rst, tcp-push, tcp-urg, tcp-ece, tcp-cwr, or a number up to 255")
	}
	p.next()
	return uint16(v), nil
}
