package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// PortTimeouts are idle times by port, in the order of the ports: as a file has
// them, {53: 17s, 3478-3481: 10m}.
type PortTimeouts struct{ List []PortTimeout }

// PortTimeout is the idle time of the ports from First to Last, both included.
type PortTimeout struct {
	First, Last uint16
	Timeout     Duration
}

func (p PortTimeout) ports() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return PortRange{p.First, p.Last}.String()
}

func (t *PortTimeouts) decode(d *decoder, n *yaml.Node, key string) {
	if isNull(n) {
		return // every line of it is commented out
	}
	if n.Kind != yaml.MappingNode {
		d.mistake(n.Line, key, "wants ports and their time-outs, not %s; write {53: 17s, 3478-3481: 10m}", describe(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, item := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if k.Kind != yaml.ScalarNode {
			d.mistake(n.Content[i].Line, key, "a port must be a number, not %s", describe(k))
			continue
		}
		path := join(key, k.Value)
		if _, again := d.lines[path]; !again {
			d.lines[path] = n.Content[i].Line
		}
		var p PortTimeout
		if p.First, p.Last = d.ports(n.Content[i].Line, path, k.Value); p.First == 0 {
			continue
		}
		d.lines[join(key, p.ports())] = d.lines[path] // where it is written with blanks
		if p.Timeout.decode(d, item, path); !d.failed(path) {
			t.add(d, n.Content[i].Line, path, p)
		}
	}
	slices.SortFunc(t.List, func(a, b PortTimeout) int { return cmp.Compare(a.First, b.First) })
}

// add appends an entry, unless one of its ports has one already.
func (t *PortTimeouts) add(d *decoder, line int, key string, p PortTimeout) {
	for _, other := range t.List {
		if p.First <= other.Last && other.First <= p.Last {
			d.mistake(line, key, "has a port of %s, which has a time-out already; give each port one", other.ports())
			return
		}
	}
	t.List = append(t.List, p)
}

// ports reads a port or a range of ports; 0 is none.
func (d *decoder) ports(line int, key, text string) (first, last uint16) {
	lo, hi, many := strings.Cut(text, "-")
	if !many {
		hi = lo
	}
	a, err1 := strconv.ParseUint(strings.TrimSpace(lo), 10, 16)
	b, err2 := strconv.ParseUint(strings.TrimSpace(hi), 10, 16)
	switch {
	case err1 != nil || err2 != nil || a == 0:
		d.mistake(line, key, "%s is neither a port nor a range of ports; write one such as 53 or 3478-3481, within 1-65535", quote(text))
	case a > b:
		d.mistake(line, key, "%s runs backwards; write %d-%d", quote(text), b, a)
	default:
		return uint16(a), uint16(b)
	}
	return 0, 0
}

// check holds the idle times to the bounds of all of them. The RFC lets those of
// well-known ports be shorter than two minutes.
func (t *PortTimeouts) check(d *decoder, key string, least, most time.Duration) {
	const wellKnown, asked = 1023, 2 * time.Minute // RFC 4787 REQ-5a
	for _, p := range t.List {
		path := join(key, p.ports())
		switch v := p.Timeout.Std(); {
		case v < least || v > most:
			d.mistake(d.line(path), path, "%s is out of range; use %s to %s", p.Timeout, Duration(least), Duration(most))
		case v < asked && p.Last > wellKnown:
			d.warn(d.line(path), path, "%s is under the %s that RFC 4787 REQ-5 asks for of ports from %d on; idle connections will be cut", p.Timeout, Duration(asked), wellKnown+1)
		}
	}
}

// node is the YAML that says the idle times.
func (t PortTimeouts) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle}
	for _, p := range t.List {
		n.Content = append(n.Content, scalarNode(p.ports(), "!!str"), scalarNode(p.Timeout.String(), "!!str"))
	}
	return n
}

// Map has the idle times by their ports, as the file writes them.
func (t PortTimeouts) Map() map[string]time.Duration {
	m := make(map[string]time.Duration, len(t.List))
	for _, p := range t.List {
		m[p.ports()] = p.Timeout.Std()
	}
	return m
}

// portTimeoutsSchema is the JSON Schema of PortTimeouts.
func portTimeoutsSchema(duration object) object {
	return object{
		"type":                 []string{"object", "null"},
		"propertyNames":        object{"pattern": fmt.Sprintf(`^%s( *- *%[1]s)?$`, "[0-9]{1,5}")},
		"additionalProperties": duration,
	}
}
