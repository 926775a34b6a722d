package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Duration is a time.Duration written as in 2h4m.
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d without the zero parts that time.Duration prints.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (t *Duration) decode(d *decoder, n *yaml.Node, key string) {
	text, ok := d.text(n, key)
	if !ok {
		return
	}
	v, err := time.ParseDuration(text)
	switch {
	case err == nil && v < 0:
		d.mistake(n.Line, key, "%s is negative; a duration is not", quote(text))
	case err == nil && v == 0 && text != "0" && !strings.ContainsAny(text, "smh"):
		d.mistake(n.Line, key, "%s is not a duration; write it as 30s, 5m or 2h4m", quote(text))
	case err == nil:
		*t = Duration(v)
	default:
		d.mistake(n.Line, key, "%s is not a duration; write it as %s", quote(text), durationHint(text))
	}
}

func durationHint(text string) string {
	if _, err := strconv.ParseUint(text, 10, 32); err == nil {
		return text + "s (a number needs a unit)"
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return fmt.Sprintf("%dh (the largest unit is the hour)", n*24)
		}
	}
	return "30s, 5m or 2h4m"
}

// PortRange is the external ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Size is the number of ports.
func (r PortRange) Size() int { return int(r.Last) - int(r.First) + 1 }

func (r *PortRange) decode(d *decoder, n *yaml.Node, key string) {
	text, ok := d.text(n, key)
	if !ok {
		return
	}
	lo, hi, ok := strings.Cut(text, "-")
	if !ok {
		if _, err := strconv.ParseUint(text, 10, 16); err == nil {
			d.mistake(n.Line, key, "%s is one port; write a range such as %s-%s", quote(text), text, text)
			return
		}
	}
	first, err1 := strconv.ParseUint(strings.TrimSpace(lo), 10, 16)
	last, err2 := strconv.ParseUint(strings.TrimSpace(hi), 10, 16)
	switch {
	case err1 != nil || err2 != nil || first == 0:
		d.mistake(n.Line, key, "%s is not a range of ports; write FIRST-LAST within 1-65535", quote(text))
	case first > last:
		d.mistake(n.Line, key, "%s runs backwards; write %d-%d", quote(text), last, first)
	default:
		*r = PortRange{uint16(first), uint16(last)}
	}
}

// Queues is a number of RX queues; 0 is all of them.
type Queues int

func (q Queues) String() string {
	if q == 0 {
		return "all"
	}
	return strconv.Itoa(int(q))
}

func (q *Queues) decode(d *decoder, n *yaml.Node, key string) {
	text, ok := d.text(n, key)
	if !ok {
		return
	}
	if text == "all" {
		*q = 0
		return
	}
	const most = 1024
	i, err := strconv.Atoi(text)
	if err != nil || isQuoted(n) {
		d.mistake(n.Line, key, "%s is neither all nor a number of queues", quote(text))
	} else if i < 1 || i > most {
		d.mistake(n.Line, key, "%d queues are not possible; write all, or the NIC's number of RX queues", i)
	} else {
		*q = Queues(i)
	}
}

// MSSClamp is what TCP's maximum segment size is lowered to: ClampAuto (the
// path's MTU), ClampOff, or a number of bytes.
type MSSClamp int

// The clamps that are not numbers.
const (
	ClampAuto MSSClamp = 0
	ClampOff  MSSClamp = -1
)

func (c MSSClamp) String() string {
	switch c {
	case ClampAuto:
		return "auto"
	case ClampOff:
		return "off"
	}
	return strconv.Itoa(int(c))
}

func (c *MSSClamp) decode(d *decoder, n *yaml.Node, key string) {
	text, ok := d.text(n, key)
	if !ok {
		return
	}
	switch text {
	case "auto":
		*c = ClampAuto
		return
	case "off":
		*c = ClampOff
		return
	}
	i, err := strconv.Atoi(text)
	if err != nil || i < 64 || i > 65495 {
		d.mistake(n.Line, key, "%s is neither auto, off nor a size of 64 to 65495 bytes", quote(text))
		return
	}
	*c = MSSClamp(i)
}

// Reserved is a section that has no keys yet.
type Reserved struct{ Set bool }

func (r *Reserved) decode(_ *decoder, n *yaml.Node, _ string) {
	r.Set = !isNull(n) && (n.Kind != yaml.MappingNode || len(n.Content) > 0)
}

// ReplyInterfaces is where a DSR backend's replies can leave: Auto, or by name.
type ReplyInterfaces struct {
	Auto  bool
	Names []string
}

func (r *ReplyInterfaces) decode(d *decoder, n *yaml.Node, key string) {
	if n.Kind == yaml.ScalarNode && n.Value == "auto" {
		*r = ReplyInterfaces{Auto: true}
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.mistake(n.Line, key, "wants auto or a list of interfaces, not %s", describe(n))
		return
	}
	*r = ReplyInterfaces{}
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if text, ok := d.text(item, path); ok {
			r.Names = append(r.Names, text)
		}
	}
}

func (r *Rule) decode(d *decoder, n *yaml.Node, key string) {
	if p, ok := d.prefix(n, key); ok {
		*r = Rule{Prefix: p, Line: d.line(key)}
	}
}

func (a *Node) decode(d *decoder, n *yaml.Node, key string) {
	if addr, ok := d.address(n, key); ok {
		*a = Node{Address: addr, Line: d.line(key)}
	}
}

func (e *External) decode(d *decoder, n *yaml.Node, key string) {
	text, ok := d.text(n, key)
	if !ok {
		return
	}
	e.Line = d.line(key)
	if text == "auto" {
		e.Auto = true
		return
	}
	if !strings.Contains(text, "/") {
		if addr, ok := d.address(n, key); ok {
			e.Prefix = netip.PrefixFrom(addr, 32)
		}
		return
	}
	if p, ok := d.prefix(n, key); ok {
		e.Prefix = p
	}
}

// prefix reads an IPv4 prefix without host bits.
func (d *decoder) prefix(n *yaml.Node, key string) (netip.Prefix, bool) {
	text, ok := d.text(n, key)
	if !ok {
		return netip.Prefix{}, false
	}
	if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() {
		d.mistake(n.Line, key, "%s has no prefix length; write %s/32 for this one address", quote(text), text)
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case isIPv6(text):
		d.mistake(n.Line, key, "%s is IPv6, and only IPv4 is translated; remove it", quote(text))
	case err != nil:
		d.mistake(n.Line, key, "%s is not an IPv4 prefix; write ADDRESS/LENGTH such as 10.20.30.0/24", quote(text))
	case p != p.Masked():
		d.mistake(n.Line, key, "%s has host bits set; write %s for the network or %s/32 for the address", quote(text), p.Masked(), p.Addr())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// address reads an IPv4 address.
func (d *decoder) address(n *yaml.Node, key string) (netip.Addr, bool) {
	text, ok := d.text(n, key)
	if !ok {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(text)
	switch {
	case isIPv6(text):
		d.mistake(n.Line, key, "%s is IPv6, and only IPv4 is translated; remove it", quote(text))
	case err != nil && strings.Contains(text, "/"):
		d.mistake(n.Line, key, "%s is a prefix; single addresses are wanted here", quote(text))
	case err != nil:
		d.mistake(n.Line, key, "%s is not an IPv4 address", quote(text))
	default:
		return addr, true
	}
	return netip.Addr{}, false
}

// isIPv6 reports whether text is an IPv6 address or prefix.
func isIPv6(text string) bool {
	host, _, _ := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Is6()
}
