package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxNodes bounds how many YAML nodes are visited, since aliases let a small
// file unfold into a huge one.
const maxNodes = 1 << 18

// decoder puts a tree of YAML nodes into Go values and gathers the mistakes.
type decoder struct {
	file     string
	mistakes []Mistake
	lines    map[string]int // of every key that the file has, by its path
	nodes    int
}

// leaf is a type that reads its own node. A leaf that meets a mistake reports it
// and keeps its value.
type leaf interface {
	decode(d *decoder, n *yaml.Node, key string)
}

// defaulter is a list entry that has defaults.
type defaulter interface{ defaults() }

func (d *decoder) mistake(line int, key, format string, args ...any) {
	d.report(line, key, false, format, args...)
}

func (d *decoder) warn(line int, key, format string, args ...any) {
	d.report(line, key, true, format, args...)
}

func (d *decoder) report(line int, key string, warning bool, format string, args ...any) {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	d.mistakes = append(d.mistakes, Mistake{File: d.file, Line: max(line, 1), Key: key, Text: text, Warning: warning})
}

// failed reports whether key, something under it, or the section it stands in
// was refused, so that rules between keys do not complain about what is only a
// consequence.
func (d *decoder) failed(key string) bool {
	for _, m := range d.mistakes {
		if !m.Warning && (covers(key, m.Key) || m.Key != "" && covers(m.Key, key)) {
			return true
		}
	}
	return false
}

// line returns the line of a key, or where the file does not have it, of the
// closest thing above it that the file has.
func (d *decoder) line(key string) int {
	for key != "" {
		if line, ok := d.lines[key]; ok {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 1
}

// value decodes n into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if d.nodes++; d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.mistake(n.Line, key, "the file unfolds into more than %d values; use fewer aliases", maxNodes)
		}
		return
	}
	line := n.Line
	if n.Kind == yaml.AliasNode {
		n = n.Alias // the parser gives every alias its node
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.mistake(line, key, "carries the YAML tag %s; remove the tag", quote(n.Tag))
		return
	}
	if l, ok := v.Addr().Interface().(leaf); ok {
		l.decode(d, n, key)
		return
	}
	if a, ok := v.Addr().Interface().(*netip.Addr); ok {
		*a, _ = d.address(n, key)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.sequence(n, v, key)
	default:
		d.scalar(n, v, key)
	}
}

// mapping decodes the keys of n into the fields of the struct v.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	if isNull(n) {
		return // a section of which every line is commented out
	}
	if n.Kind != yaml.MappingNode {
		if key == "masquerade" && n.Kind == yaml.ScalarNode {
			d.mistake(n.Line, key, "is a section here, not a switch (Cilium's masquerade became enable-ipv4-masquerade in 1.10); write masquerade: {enabled: %s, sources: [PREFIX]}", plainBool(n.Value))
			return
		}
		d.mistake(n.Line, key, "wants a section of keys, not %s", describe(n))
		return
	}
	if f := v.FieldByName("Line"); f.IsValid() {
		f.SetInt(int64(n.Line))
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, item := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			d.mistake(n.Content[i].Line, key, "a key must be text, not %s", describe(k))
			continue
		}
		name, line := k.Value, n.Content[i].Line
		path := join(key, name)
		if first, ok := seen[name]; ok {
			d.mistake(line, path, "is given twice, first on line %d; remove one", first)
			continue
		}
		seen[name] = line
		index, ok := fields[name]
		if !ok {
			d.mistake(line, path, "%s", explainUnknown(key, name, v.Type()))
			continue
		}
		d.lines[path] = line
		d.value(item, v.Field(index), path)
	}
}

// sequence decodes a list; it replaces the default.
func (d *decoder) sequence(n *yaml.Node, v reflect.Value, key string) {
	if isNull(n) {
		v.SetZero() // a list of which every entry is commented out
		return
	}
	if n.Kind != yaml.SequenceNode {
		hint := ""
		if n.Kind == yaml.ScalarNode {
			hint = fmt.Sprintf("; write [%s]", plain(n.Value))
		}
		d.mistake(n.Line, key, "wants a list, not %s%s", describe(n), hint)
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), maxNodes))
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		e := newEntry(v.Type().Elem())
		d.lines[path] = item.Line
		if isNull(item) || item.Kind == yaml.AliasNode && isNull(item.Alias) {
			d.mistake(item.Line, path, "is an entry without a value; write one, or remove it")
		} else {
			d.value(item, e, path)
		}
		if d.nodes > maxNodes {
			return
		}
		// An entry that was refused stays, as it is, so that the others
		// keep their place; check skips what has no value.
		out = reflect.Append(out, e)
	}
	v.Set(out)
}

// newEntry returns a list entry of type t with its defaults.
func newEntry(t reflect.Type) reflect.Value {
	e := reflect.New(t)
	if x, ok := e.Interface().(defaulter); ok {
		x.defaults()
	}
	return e.Elem()
}

// isLeaf reports whether values of type t read their own node.
func isLeaf(t reflect.Type) bool {
	return t == reflect.TypeFor[netip.Addr]() || reflect.PointerTo(t).Implements(reflect.TypeFor[leaf]())
}

// scalar decodes text, a truth value, a number or a word.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	text, ok := d.text(n, key)
	if !ok {
		return
	}
	if e, ok := v.Interface().(enumeration); ok {
		d.word(n, v, key, text, e.words())
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		d.boolean(n, v, key, text)
	case reflect.Int:
		if i, ok := d.integer(n, key, text, 0); ok {
			v.SetInt(int64(i))
		}
	case reflect.Uint16:
		i, ok := d.integer(n, key, text, 0)
		if ok && (i < 1 || i > 65535) {
			d.mistake(n.Line, key, "%d is not a port; use 1 to 65535", i)
		} else if ok {
			v.SetUint(uint64(i))
		}
	default:
		panic("config: no reader for " + v.Type().String())
	}
}

// text returns the value of a scalar as it is written.
func (d *decoder) text(n *yaml.Node, key string) (string, bool) {
	if isNull(n) {
		d.mistake(n.Line, key, "has no value; write one, or remove the key to get the default")
		return "", false
	}
	if n.Kind != yaml.ScalarNode {
		d.mistake(n.Line, key, "wants a single value, not %s", describe(n))
		return "", false
	}
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		d.mistake(n.Line, key, "%s has control characters or line breaks; remove them", quote(n.Value))
		return "", false
	}
	return n.Value, true
}

func (d *decoder) word(n *yaml.Node, v reflect.Value, key, text string, words []string) {
	for _, w := range words {
		if text == w {
			v.SetString(w)
			return
		}
	}
	d.mistake(n.Line, key, "%s is not one of %s%s", quote(text), strings.Join(words, ", "), suggestion(text, words))
}

func (d *decoder) boolean(n *yaml.Node, v reflect.Value, key, text string) {
	switch {
	case isQuoted(n):
		d.mistake(n.Line, key, "%s is text; write true or false without quotes", quote(text))
	case text == "true" || text == "false":
		v.SetBool(text == "true")
	default:
		hint := ""
		if b := plainBool(text); b == "true" || b == "false" {
			hint = "; write " + b
		}
		d.mistake(n.Line, key, "%s is not true or false%s", quote(text), hint)
	}
}

// integer reads a whole number of at least least.
func (d *decoder) integer(n *yaml.Node, key, text string, least int) (int, bool) {
	i, err := strconv.Atoi(text)
	switch {
	case isQuoted(n):
		d.mistake(n.Line, key, "%s is text; write the number without quotes", quote(text))
	case err != nil:
		d.mistake(n.Line, key, "%s is not a whole number", quote(text))
	case i < least:
		d.mistake(n.Line, key, "%d is too small; at least %d", i, least)
	default:
		return i, true
	}
	return 0, false
}

// fieldsOf returns the index of each field of struct t by its key.
func fieldsOf(t reflect.Type) map[string]int {
	m := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			m[key] = i
		}
	}
	return m
}

func join(key, name string) string {
	if key == "" {
		return plain(name)
	}
	return key + "." + plain(name)
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" && !isQuoted(n)
}

func isQuoted(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
}

// plainBool turns the words that other tools take for truth values into ours.
func plainBool(s string) string {
	switch strings.ToLower(s) {
	case "yes", "on", "y", "true", "1", "enabled":
		return "true"
	case "no", "off", "n", "false", "0", "disabled":
		return "false"
	}
	return "BOOL"
}

// describe says what kind of node n is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section of keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "nothing"
		}
		return quote(n.Value)
	}
	return "an alias"
}
