package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// namedKey is a key below a section, as documents write it.
var namedKey = regexp.MustCompile("`((?:interfaces|masquerade|port-forwards|services|dsr|dsr-agent|conntrack|nat-log|control)(?:\\[\\])?\\.[a-z][a-z.\\[\\]-]*[a-z])[`:]")

// TestDocumentsNameRealKeys: every key that a document names is one, or a
// section.
func TestDocumentsNameRealKeys(t *testing.T) {
	var keys []string
	eachKey(reflect.ValueOf(Default()).Elem(), "", func(key string, _ reflect.Value) { keys = append(keys, key) })
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range append(files, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range namedKey.FindAllStringSubmatch(string(text), -1) {
			n++
			found := false
			for _, key := range keys {
				plain := strings.ReplaceAll(key, "[]", "")
				found = found || covers(m[1], key) || covers(m[1], plain)
			}
			if !found {
				t.Errorf("%s: there is no key %s", path, m[1])
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d keys found", n)
	}
}
