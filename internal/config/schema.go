package config

import (
	"net/netip"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Patterns of the schema. They are looser than the reader where a pattern that
// is not would be unreadable: no schema takes the place of `sluice check`.
const (
	patternAddress  = `^[0-9]{1,3}(\.[0-9]{1,3}){3}$`
	patternPrefix   = `^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$`
	patternRange    = `^[0-9]{1,5} *- *[0-9]{1,5}$`
	patternDuration = `^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|µs|ns))+$|^0$`
)

// object is a JSON object.
type object = map[string]any

// Schema is the JSON Schema (2020-12) of the configuration file, made from the
// types that the reader follows. Descriptions are the words of the example.
func Schema() map[string]any {
	s := schemaOf(reflect.ValueOf(Default()).Elem(), "", descriptions())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "The configuration of Sluice"
	return s
}

// schemaOf describes what may stand where v, the default, is.
func schemaOf(v reflect.Value, key string, words map[string]string) object {
	s := leafSchema(v)
	switch t := v.Type(); {
	case s != nil:
	case t.Kind() == reflect.Struct:
		s = sectionSchema(v, key, words)
	case t.Kind() == reflect.Slice:
		s = object{"type": []string{"array", "null"}, "items": schemaOf(newEntry(t.Elem()), key+"[]", words)}
	case t.Kind() == reflect.Bool:
		s = object{"type": "boolean"}
	case t.Kind() == reflect.Int:
		s = object{"type": "integer", "minimum": 0}
	case t.Kind() == reflect.Uint16:
		s = object{"type": "integer", "minimum": 1, "maximum": 65535}
	case t.Kind() == reflect.String:
		s = object{"type": "string"}
		if e, ok := v.Interface().(enumeration); ok {
			s["enum"] = e.words()
		}
	default:
		panic("config: no schema for " + t.String())
	}
	if text := words[key]; text != "" {
		s["description"] = text
	}
	if !Supported(key) {
		s["$comment"] = "not in this version: leave it at its default"
	}
	return s
}

// sectionSchema describes a section of keys. A section of which every line is
// commented out is nothing.
func sectionSchema(v reflect.Value, key string, words map[string]string) object {
	properties := object{}
	for name, i := range fieldsOf(v.Type()) {
		path := name
		if key != "" {
			path = key + "." + name
		}
		p := schemaOf(v.Field(i), path, words)
		if f := v.Field(i); f.Kind() != reflect.Struct || isLeaf(f.Type()) {
			if value, ok := defaultOf(f); ok {
				p["default"] = value
			}
		}
		properties[name] = p
	}
	s := object{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	if v.Type() == reflect.TypeFor[Interface]() {
		s["required"] = []string{"name", "role"}
	}
	return s
}

// leafSchema describes the types that read their own node, nil for others.
func leafSchema(v reflect.Value) object {
	text := func(pattern string) object { return object{"type": "string", "pattern": pattern} }
	number := func(least, most int) object { return object{"type": "integer", "minimum": least, "maximum": most} }
	word := func(words ...string) object { return object{"enum": words} }
	either := func(of ...object) object { return object{"anyOf": of} }
	switch v.Interface().(type) {
	case Duration:
		return either(text(patternDuration), number(0, 0))
	case PortTimeouts:
		return portTimeoutsSchema(text(patternDuration))
	case PortRange:
		return text(patternRange)
	case Queues:
		return either(word("all"), number(1, 1024))
	case MSSClamp:
		return either(word("auto", "off"), number(64, 65495))
	case Rule:
		return text(patternPrefix)
	case Node, netip.Addr:
		return text(patternAddress)
	case External:
		return either(word("auto"), text(patternAddress), text(patternPrefix))
	case Reserved:
		return object{"type": []string{"object", "null"}, "maxProperties": 0}
	case ReplyInterfaces:
		return either(word("auto"), object{"type": "array", "items": object{"type": "string"}})
	}
	return nil
}

// defaultOf is the default as JSON has it; false where a key has none.
func defaultOf(v reflect.Value) (value any, ok bool) {
	switch x := v.Interface().(type) {
	case netip.Addr:
		return nil, false
	case enumeration:
		if v.Len() == 0 {
			return nil, false // must be given
		}
	case uint16:
		if x == 0 {
			return nil, false
		}
	}
	return value, node(v).Decode(&value) == nil
}

// descriptions are the comments of the example behind each key, by its path
// without list indices.
func descriptions() map[string]string {
	words := map[string]string{}
	var root yaml.Node
	if yaml.Unmarshal(example, &root) != nil {
		panic("config: the example is not YAML")
	}
	describeNode(&root, "", words)
	return words
}

func describeNode(n *yaml.Node, key string, words map[string]string) {
	switch n.Kind {
	case yaml.DocumentNode:
		describeNode(n.Content[0], key, words)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			describeNode(item, key+"[]", words)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			path := join(key, name.Value)
			for _, comment := range []string{name.LineComment, value.LineComment} {
				if text := strings.TrimSpace(strings.TrimPrefix(comment, "#")); text != "" && words[path] == "" {
					words[path] = text
				}
			}
			describeNode(value, path, words)
		}
	}
}
