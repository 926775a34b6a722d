package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// needsRestart are the keys that a running gateway cannot change: sockets,
// memory and threads are made from them. A section stands for all keys under it.
var needsRestart = []string{"interfaces", "conntrack.max-flows", "state-file", "driver", "cpus", "control.socket"}

// Change is one difference between two configurations.
type Change struct {
	Key     string // masquerade.hairpin; interfaces[eth1].mode, where the entries of a list have names
	Old     string // as a file has it; "" where there is nothing: an entry that is added
	New     string // likewise: an entry that is removed
	Restart bool   // a running gateway cannot change it
}

// Diff lists what changes from a to b, in the order of the keys. Files that say
// the same in other words, or on other lines, have no difference.
func Diff(a, b *Config) []Change {
	var d differ
	d.section(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem(), "")
	for i := range d.changes {
		c := &d.changes[i]
		c.Restart = slices.ContainsFunc(needsRestart, func(key string) bool { return covers(key, c.Key) })
	}
	return d.changes
}

type differ struct{ changes []Change }

func (d *differ) add(key, old, new string) {
	d.changes = append(d.changes, Change{Key: key, Old: old, New: new})
}

func (d *differ) section(a, b reflect.Value, under string) {
	for i := range a.NumField() {
		key := a.Type().Field(i).Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		if under != "" {
			key = under + "." + key
		}
		d.value(a.Field(i), b.Field(i), key)
	}
}

func (d *differ) value(a, b reflect.Value, key string) {
	t := a.Type()
	switch {
	case t.Kind() == reflect.Struct && !isLeaf(t):
		d.section(a, b, key)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isLeaf(t.Elem()):
		d.entries(a, b, key)
	case t.Kind() == reflect.Slice:
		d.list(a, b, key)
	default:
		if old, new := inline(a), inline(b); old != new {
			d.add(key, old, new)
		}
	}
}

// list compares lists of single values. Only that of the CPUs has an order: the
// first is the first worker's.
func (d *differ) list(a, b reflect.Value, key string) {
	old, new := texts(a), texts(b)
	if key == "cpus" {
		if !slices.Equal(old, new) {
			d.add(key, inline(a), inline(b))
		}
		return
	}
	for _, x := range old {
		if !slices.Contains(new, x) {
			d.add(key, x, "")
		}
	}
	for _, x := range new {
		if !slices.Contains(old, x) {
			d.add(key, "", x)
		}
	}
}

// entries compares lists of sections, by the names of the entries.
func (d *differ) entries(a, b reflect.Value, key string) {
	old, new := names(a), names(b)
	for i, name := range old {
		path := fmt.Sprintf("%s[%s]", key, name)
		if j := slices.Index(new, name); j >= 0 {
			d.section(a.Index(i), b.Index(j), path)
		} else {
			d.add(path, inline(a.Index(i)), "")
		}
	}
	for j, name := range new {
		if !slices.Contains(old, name) {
			d.add(fmt.Sprintf("%s[%s]", key, name), "", inline(b.Index(j)))
		}
	}
	if key != "interfaces" {
		return
	}
	// The place of an interface is its number in the data path.
	stay := func(from, other []string) []string {
		return slices.DeleteFunc(slices.Clone(from), func(s string) bool { return !slices.Contains(other, s) })
	}
	if before, after := stay(old, new), stay(new, old); !slices.Equal(before, after) {
		d.add(key, strings.Join(before, ", "), strings.Join(after, ", "))
	}
}

// names are what the entries of a list are told apart by: their name, else what
// they say.
func names(list reflect.Value) (all []string) {
	for i := range list.Len() {
		name := inline(list.Index(i))
		for _, field := range []string{"Name", "External"} {
			if f := list.Index(i).FieldByName(field); f.IsValid() && f.Kind() == reflect.String {
				name = f.String()
			}
		}
		if a := list.Index(i).FieldByName("Address"); a.IsValid() && list.Type() == reflect.TypeFor[[]Backend]() {
			name = fmt.Sprintf("%v:%d", a.Interface(), list.Index(i).FieldByName("Port").Uint())
		}
		all = append(all, name)
	}
	return all
}

func texts(list reflect.Value) (all []string) {
	for i := range list.Len() {
		all = append(all, inline(list.Index(i)))
	}
	return all
}

// inline is a value as a file has it, on one line.
func inline(v reflect.Value) string {
	n := node(v)
	if n.Kind == yaml.ScalarNode {
		if n.Value == "" {
			return `""`
		}
		return n.Value
	}
	flow(n)
	text, err := yaml.Dump(n, yaml.WithLineWidth(-1))
	if err != nil {
		panic("config: a value cannot be written: " + err.Error())
	}
	return strings.TrimSpace(string(text))
}

func flow(n *yaml.Node) {
	n.Style |= yaml.FlowStyle
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode {
			flow(c)
		}
	}
}
