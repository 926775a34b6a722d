package gateway

import (
	"reflect"
	"testing"
)

// TestEveryCounterIsPublished gives each word of a Counters a number of its own:
// all of them come out as they went in.
func TestEveryCounterIsPublished(t *testing.T) {
	var in Counters
	n := uint64(0)
	var number func(reflect.Value)
	number = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				number(v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				number(v.Index(i))
			}
		default:
			n++
			v.SetUint(n)
		}
	}
	number(reflect.ValueOf(&in).Elem())
	var p published
	p.store(&in)
	if out := p.load(); out != in {
		t.Errorf("stored %+v\nloaded %+v", in, out)
	}
	if n != uint64(len(p)) {
		t.Errorf("%d words are published, Counters has %d", len(p), n)
	}
}
