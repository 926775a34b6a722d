package config

import (
	"fmt"
	"reflect"
	"strings"
)

// notYet lists the keys, as paths without list indices, whose feature is not in
// this version, what the feature is, and what does for it meanwhile. Set to anything but its default, such a
// key is a mistake: an operator must not believe in what is not there. A section
// stands for all keys under it. A release that brings a feature removes its line.
var notYet = []struct{ key, feature, meanwhile string }{
	{"interfaces[].vlan", "VLAN sub-interfaces", ""},
	{"nat-log", "NAT logging", "keep the output of `sluice flows watch -o json` instead"},
	{"filter", "packet filtering", ""},
}

// Supported reports whether key (a path without list indices, such as
// interfaces[].vlan) can be set to more than its default in this version.
func Supported(key string) bool {
	for _, k := range notYet {
		if covers(k.key, key) {
			return false
		}
	}
	return true
}

// covers reports whether key is above or what stands under it.
func covers(above, key string) bool {
	rest, ok := strings.CutPrefix(key, above)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// unsupported reports every key under path whose value differs from its default
// and whose feature is not there. key is path without list indices.
func (d *decoder) unsupported(v, def reflect.Value, path, key string) {
	t := v.Type()
	section := t.Kind() == reflect.Struct && !isLeaf(t)
	switch {
	case section:
		for name, i := range fieldsOf(t) {
			d.unsupported(v.Field(i), def.Field(i), join(path, name), join(key, name))
		}
	case t.Kind() == reflect.Slice && !isLeaf(t.Elem()) && t.Elem().Kind() == reflect.Struct && Supported(key):
		for i := range v.Len() {
			d.unsupported(v.Index(i), newEntry(t.Elem()), fmt.Sprintf("%s[%d]", path, i), key+"[]")
		}
	case Supported(key) || same(v, def):
	default:
		feature, meanwhile := featureOf(key)
		if meanwhile != "" {
			meanwhile = "; " + meanwhile
		}
		d.mistake(d.line(path), path, "needs %s, which this version does not have; %s%s", feature, back(def), meanwhile)
	}
}

// same reports whether v is its default; an empty list is no list.
func same(v, def reflect.Value) bool {
	if v.Kind() == reflect.Slice && v.Len() == 0 && def.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(v.Interface(), def.Interface())
}

func featureOf(key string) (feature, meanwhile string) {
	for _, k := range notYet {
		if covers(k.key, key) {
			return k.feature, k.meanwhile
		}
	}
	return "a feature", ""
}

// back says how to return to the default.
func back(def reflect.Value) string {
	_, worded := def.Interface().(fmt.Stringer)
	switch {
	case def.Kind() == reflect.Slice:
		return "remove the entries"
	case def.Kind() == reflect.Struct && !worded, def.Kind() == reflect.String && def.Len() == 0:
		return "remove the key"
	}
	return fmt.Sprintf("remove the key or write %v", def.Interface())
}
