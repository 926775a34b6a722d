package config

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// reference is the document that has a row for every key.
const reference = "../../docs/configuration.md"

// TestReference holds every row of the reference to the types, the defaults and
// the lists of what is not there yet and of what needs a restart. Only the words
// in the last column are written by hand: -update writes the others anew.
func TestReference(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	eachKey(reflect.ValueOf(Default()).Elem(), "", func(key string, v reflect.Value) {
		want[key] = fmt.Sprintf("| `%s` | %s | %s | %s | ", key, values(v), byDefault(v, key), change(key))
	})
	lines := strings.Split(string(text), "\n")
	seen := map[string]bool{}
	for i, line := range lines {
		rest, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		key, _, _ := strings.Cut(rest, "`")
		row := want[key]
		switch {
		case row == "":
			t.Errorf("%s:%d: there is no key %s", reference, i+1, key)
			continue
		case seen[key]:
			t.Errorf("%s:%d: %s has a row already", reference, i+1, key)
		}
		seen[key] = true
		meaning := line[strings.LastIndex(strings.TrimSuffix(line, " |"), " | ")+3:]
		if len(meaning) < len("a word |") {
			t.Errorf("%s:%d: no word on what %s means", reference, i+1, key)
		}
		if *update {
			lines[i] = row + meaning
		}
		if lines[i] != row+meaning {
			t.Errorf("%s:%d:\n got %s\nwant %s", reference, i+1, lines[i], row+meaning)
		}
	}
	for key := range want {
		if !seen[key] {
			t.Errorf("%s: no row for %s", reference, key)
		}
	}
	if *update {
		if err := os.WriteFile(reference, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// eachKey calls yield for every key that has a value of its own, with its
// default.
func eachKey(v reflect.Value, key string, yield func(string, reflect.Value)) {
	switch t := v.Type(); {
	case t.Kind() == reflect.Struct && !isLeaf(t):
		for name, i := range fieldsOf(t) {
			eachKey(v.Field(i), strings.TrimPrefix(key+"."+name, "."), yield)
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isLeaf(t.Elem()):
		eachKey(newEntry(t.Elem()), key+"[]", yield)
	default:
		yield(key, v)
	}
}

// values says what can be written where v is.
func values(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case enumeration:
		words := slices.Clone(x.words())
		for i, w := range words {
			words[i] = "`" + w + "`"
		}
		last := len(words) - 1
		return strings.Join(words[:last], ", ") + " or " + words[last]
	case Duration:
		return "duration"
	case PortRange:
		return "`FIRST-LAST`"
	case PortTimeouts:
		return "`{PORT: duration, FIRST-LAST: duration}`"
	case Queues:
		return "`all` or number"
	case MSSClamp:
		return "`auto`, `off` or number"
	case Rule:
		return "prefix"
	case Node, netip.Addr:
		return "address"
	case External:
		return "`auto`, address or prefix"
	case Reserved:
		return "nothing"
	case ReplyInterfaces:
		return "`auto` or list of: text"
	}
	switch v.Kind() {
	case reflect.Slice:
		return "list of: " + values(newEntry(v.Type().Elem()))
	case reflect.Bool:
		return "`true` or `false`"
	case reflect.Int:
		return "number"
	case reflect.Uint16:
		return "port"
	}
	return "text"
}

// byDefault is the default as a file has it.
func byDefault(v reflect.Value, key string) string {
	if _, ok := defaultOf(v); !ok || key == "interfaces[].name" {
		return "must be given"
	}
	return "`" + inline(v) + "`"
}

// change says when a change of the key comes into force.
func change(key string) string {
	switch {
	case !Supported(key):
		return "not yet"
	case slices.ContainsFunc(needsRestart, func(k string) bool { return covers(k, key) }):
		return "restart"
	}
	return "reload"
}

// TestReferenceLimits: the numbers that the words of the reference name.
func TestReferenceLimits(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []string{
		fmt.Sprintf("at most %d interfaces", MaxInterfaces),
		fmt.Sprintf("at most %d addresses", MaxExternals),
		fmt.Sprintf("1 to %d", MaxFlows),
		fmt.Sprintf("`%s`", DefaultPath),
	} {
		if !strings.Contains(string(text), limit) {
			t.Errorf("%s does not say %q", reference, limit)
		}
	}
}
