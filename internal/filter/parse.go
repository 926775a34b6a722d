package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// MaxLength is the longest filter in bytes: it bounds the work for one packet,
// and the depth of the parser.
const MaxLength = 1024

// Error says where a filter is wrong, and what was expected there.
type Error struct {
	Position int    // of the first wrong byte, from 1; one past the end where something is missing
	Found    string // the word there; "" at the end
	Expected string
}

func (e *Error) Error() string {
	found := strconv.Quote(e.Found)
	if e.Found == "" {
		found = "the end"
	}
	return fmt.Sprintf("filter, position %d: found %s, expected %s", e.Position, found, e.Expected)
}

// Parse reads a filter. An error is an *Error.
func Parse(text string) (*Filter, error) {
	if len(text) > MaxLength {
		return nil, &Error{MaxLength + 1, text[MaxLength : MaxLength+1], fmt.Sprintf("the end: a filter has at most %d bytes", MaxLength)}
	}
	p := parser{filter: &Filter{}, words: split(text), end: len(text) + 1}
	if len(p.words) == 0 {
		return p.filter, nil
	}
	if _, err := p.expression(); err != nil {
		return nil, err
	}
	if w := p.peek(); w != "" {
		return nil, p.expected("and, or, or the end")
	}
	return p.filter, nil
}

// word is a word of the text, and its position from 1.
type word struct {
	text string
	at   int
}

// split cuts a text into words. Parentheses and the signs for and, or and not
// are words of their own, wherever they stand.
func split(text string) (words []word) {
	for i := 0; i < len(text); {
		n := 1
		switch rest := text[i:]; {
		case strings.ContainsRune(" \t\r\n", rune(text[i])):
			i++
			continue
		case slices.Contains([]string{"&&", "||", "==", "!="}, rest[:min(2, len(rest))]):
			n = 2
		case !strings.ContainsRune("()!&|=", rune(text[i])):
			if n = strings.IndexAny(rest, " \t\r\n()!&|="); n < 0 {
				n = len(rest)
			}
		}
		words = append(words, word{text[i : i+n], i + 1})
		i += n
	}
	return words
}

type parser struct {
	filter *Filter
	words  []word // those not read yet
	last   node   // the address or port that was read last; opNot where something else was
	of     uint16 // the protocol that stood before it, 0 for none
	end    int    // position of the end
}

// peek is the next word, "" at the end.
func (p *parser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0].text
}

func (p *parser) next() string {
	w := p.peek()
	if w != "" {
		p.words = p.words[1:]
	}
	return w
}

// accept reads the next word if it is one of list, and returns it; otherwise "".
func (p *parser) accept(list ...string) string {
	if w := p.peek(); slices.Contains(list, w) {
		return p.next()
	}
	return ""
}

// expected is the error that something else stands where p is.
func (p *parser) expected(what string) error {
	if len(p.words) == 0 {
		return &Error{p.end, "", what}
	}
	return &Error{p.words[0].at, p.words[0].text, what}
}

// emit adds a node and returns its index.
func (p *parser) emit(n node) uint16 {
	p.filter.nodes = append(p.filter.nodes, n)
	return uint16(len(p.filter.nodes) - 1)
}

// expression reads terms. and and or bind alike, from the left, as in tcpdump.
func (p *parser) expression() (uint16, error) {
	left, err := p.term()
	for err == nil {
		n := node{left: left}
		switch p.accept("and", "&&", "or", "||") {
		case "and", "&&":
			n.op = opAnd
		case "or", "||":
			n.op = opOr
		default:
			return left, nil
		}
		if n.right, err = p.term(); err == nil {
			left = p.emit(n)
		}
	}
	return 0, err
}

func (p *parser) term() (uint16, error) {
	if p.accept("not", "!") != "" {
		inner, err := p.term()
		if err != nil {
			return 0, err
		}
		return p.emit(node{op: opNot, left: inner}), nil
	}
	if p.accept("(") == "" {
		return p.primitive()
	}
	inner, err := p.expression()
	if err == nil && p.accept(")") == "" {
		err = p.expected("and, or, or )")
	}
	return inner, err
}

var protocols = map[string]uint16{"tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "icmp": packet.ProtoICMP}

func (p *parser) primitive() (uint16, error) {
	if w := p.peek(); w != "" && w[0] > '9' {
		p.last = node{} // nothing is inherited over another word
	}
	switch w := p.accept("tcp", "udp", "icmp", "proto", "tcp[tcpflags]", "tcp[13]", "dropped", "reason"); w {
	case "":
		if i, ok := p.inherit(); ok {
			return i, nil
		}
		p.of = 0
		return p.qualified("an address, host, net, port, portrange, src, dst, tcp, udp, icmp, proto, tcp[tcpflags], dropped, reason, not or (", true)
	case "dropped":
		p.filter.late = true
		return p.emit(node{op: opDropped}), nil
	case "reason":
		return p.reason()
	case "tcp[tcpflags]", "tcp[13]":
		return p.flags()
	case "proto":
		n, err := strconv.ParseUint(p.peek(), 10, 8)
		if err != nil {
			return 0, p.expected("the number of an IP protocol, 0 to 255")
		}
		p.next()
		return p.emit(node{op: opProto, low: uint16(n)}), nil
	default:
		left := p.emit(node{op: opProto, low: protocols[w]})
		p.of = protocols[w]
		if w == "icmp" || !slices.Contains([]string{"src", "dst", "port", "portrange"}, p.peek()) {
			return left, nil
		}
		right, err := p.qualified("", false)
		if err != nil {
			return 0, err
		}
		return p.emit(node{op: opAnd, left: left, right: right}), nil
	}
}

func (p *parser) reason() (uint16, error) {
	r, ok := verdict.Parse(p.peek())
	if !ok || r == verdict.None {
		return 0, p.expected("a drop reason, such as " + verdict.NoMapping.String() + "; `sluice drops --all` lists them")
	}
	p.next()
	p.filter.late = true
	return p.emit(node{op: opReason, low: uint16(r)}), nil
}

// qualified reads a primitive with sides. start is what can stand in its place,
// where no side was read; addresses says whether it may be about one.
func (p *parser) qualified(start string, addresses bool) (uint16, error) {
	n := node{op: opNet}
	what := start
	switch p.accept("src", "dst") {
	case "src":
		n.side, what = sourceSide, "an address, host, net, port or portrange"
	case "dst":
		n.side, what = destinationSide, "an address, host, net, port or portrange"
	}
	if !addresses {
		what = "port or portrange"
	}
	var err error
	switch p.accept("port", "portrange") {
	case "port":
		err = p.ports(&n, false)
	case "portrange":
		err = p.ports(&n, true)
	default:
		if !addresses {
			return 0, p.expected(what)
		}
		err = p.addresses(&n, what)
	}
	if err != nil {
		return 0, err
	}
	if p.last = n; n.op == opPort && n.low != n.high || n.op == opNet && n.mask != ^uint32(0) {
		p.last = node{} // of a single one only
	}
	return p.emit(n), nil
}

// inherit reads a port or an address without words before it: they are those of the
// one before it, as in tcpdump: `tcp dst port 80 or 443`.
func (p *parser) inherit() (i uint16, ok bool) {
	n := p.last
	switch n.op {
	case opPort:
		port, err := strconv.ParseUint(p.peek(), 10, 16)
		if err != nil {
			return 0, false
		}
		n.low, n.high = uint16(port), uint16(port)
	case opNet:
		addr, err := netip.ParseAddr(p.peek())
		if err != nil || !addr.Is4() {
			return 0, false
		}
		n.addr = number(addr)
	default:
		return 0, false
	}
	p.next()
	if i = p.emit(n); p.of != 0 {
		i = p.emit(node{op: opAnd, left: p.emit(node{op: opProto, low: p.of}), right: i})
	}
	return i, true
}

func (p *parser) ports(n *node, span bool) error {
	n.op = opPort
	low, high, cut := strings.Cut(p.peek(), "-")
	if !cut {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	switch bad := err1 != nil || err2 != nil || first > last || span != cut; {
	case bad && span:
		return p.expected("two ports, the lower one first, such as 1024-2047")
	case bad:
		return p.expected("a port, 0 to 65535")
	}
	p.next()
	n.low, n.high = uint16(first), uint16(last)
	return nil
}

func (p *parser) addresses(n *node, what string) error {
	if p.accept("net") != "" {
		prefix, err := netip.ParsePrefix(p.peek())
		switch {
		case err != nil || !prefix.Addr().Is4():
			return p.expected("an IPv4 prefix, such as 10.0.0.0/8")
		case prefix != prefix.Masked():
			return p.expected("a prefix without host bits: " + prefix.Masked().String())
		}
		p.next()
		n.addr, n.mask = number(prefix.Addr()), ^uint32(0)<<(32-prefix.Bits())
		return nil
	}
	if p.accept("host") != "" {
		what = "an IPv4 address"
	}
	addr, err := netip.ParseAddr(p.peek())
	if err != nil || !addr.Is4() {
		return p.expected(what)
	}
	p.next()
	n.addr, n.mask = number(addr), ^uint32(0)
	return nil
}

// number is an IPv4 address in host byte order.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
