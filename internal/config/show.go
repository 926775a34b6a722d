package config

import (
	_ "embed"
	"fmt"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v4"
)

//go:embed example.yaml
var example []byte

// Example returns a configuration file with every key, its default and a word on
// what it does. It is valid as it stands.
func Example() []byte { return append([]byte(nil), example...) }

// Show writes c as a configuration file with every key. Parse reads it back to
// the same.
func Show(c *Config) (string, error) {
	text, err := yaml.Dump(node(reflect.ValueOf(c).Elem()), yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return "", fmt.Errorf("%s: cannot be written as YAML: %w", c.Path, err)
	}
	return string(text), nil
}

// Document returns c as what JSON is made of, under the keys of the file.
func Document(c *Config) map[string]any {
	var m map[string]any
	if node(reflect.ValueOf(c).Elem()).Decode(&m) != nil {
		panic("config: the tree of a configuration is not a mapping")
	}
	return m
}

// node turns a value of the configuration into the YAML that says it.
func node(v reflect.Value) *yaml.Node {
	switch x := v.Interface().(type) {
	case Rule:
		return scalarNode(x.Prefix.String(), "!!str")
	case Node:
		return scalarNode(x.Address.String(), "!!str")
	case External:
		return scalarNode(x.String(), "!!str")
	case Queues:
		return scalarNode(x.String(), tagOf(x > 0))
	case MSSClamp:
		return scalarNode(x.String(), tagOf(x > 0))
	case PortTimeouts:
		return x.node()
	case Reserved:
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle}
	case ReplyInterfaces:
		if x.Auto {
			return scalarNode("auto", "!!str")
		}
		return node(reflect.ValueOf(x.Names))
	case fmt.Stringer: // durations, ranges, addresses
		return scalarNode(x.String(), "!!str")
	}
	switch v.Kind() {
	case reflect.Struct:
		return sectionNode(v)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		if e := v.Type().Elem(); e.Kind() != reflect.Struct || isLeaf(e) {
			n.Style = yaml.FlowStyle
		}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, node(v.Index(i)))
		}
		return n
	case reflect.Bool:
		return scalarNode(strconv.FormatBool(v.Bool()), "!!bool")
	case reflect.Int:
		return scalarNode(strconv.FormatInt(v.Int(), 10), "!!int")
	case reflect.Uint16:
		return scalarNode(strconv.FormatUint(v.Uint(), 10), "!!int")
	case reflect.String:
		return scalarNode(v.String(), "!!str")
	}
	panic("config: no writer for " + v.Type().String())
}

func sectionNode(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		n.Content = append(n.Content, scalarNode(key, "!!str"), node(v.Field(i)))
	}
	return n
}

// tagOf is the tag of a value that is a number or a word.
func tagOf(number bool) string {
	if number {
		return "!!int"
	}
	return "!!str"
}

func scalarNode(text, tag string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

func (e External) String() string {
	switch {
	case e.Auto:
		return "auto"
	case e.Prefix.IsSingleIP():
		return e.Prefix.Addr().String()
	}
	return e.Prefix.String()
}

// Brief writes c as a configuration file without the keys that have their
// default. Parse reads it back to the same.
func Brief(c *Config) (string, error) {
	n := briefNode(reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()).Elem())
	text, err := yaml.Dump(n, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return "", fmt.Errorf("%s: cannot be written as YAML: %w", c.Path, err)
	}
	return string(text), nil
}

func briefNode(v, def reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		f, d := v.Field(i), def.Field(i)
		if key == "" || key == "-" || same(f, d) {
			continue
		}
		var value *yaml.Node
		switch t := f.Type(); {
		case t.Kind() == reflect.Struct && !isLeaf(t):
			value = briefNode(f, d)
		case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isLeaf(t.Elem()):
			value = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			for j := range f.Len() {
				entry := briefNode(f.Index(j), newEntry(t.Elem()))
				value.Content = append(value.Content, entry)
			}
		default:
			value = node(f)
		}
		n.Content = append(n.Content, scalarNode(key, "!!str"), value)
	}
	return n
}
