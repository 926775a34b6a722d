package config

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// schemaJSON is the schema as another program reads it.
func schemaJSON(t *testing.T) map[string]any {
	t.Helper()
	text, err := json.Marshal(Schema())
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// violation is the first way in which a value breaks a schema, "" where it does
// not. It knows the keywords that Schema uses, and refuses any other.
func violation(t *testing.T, s map[string]any, v any, path string) string {
	t.Helper()
	if v == nil && !hasType(s, nil) {
		return path + ": null"
	}
	for keyword, rule := range s {
		switch keyword {
		case "$schema", "title", "description", "default", "$comment":
		case "type":
			if !hasType(s, v) {
				return fmt.Sprintf("%s: %T is no %v", path, v, rule)
			}
		case "enum":
			if !slices.Contains(rule.([]any), v) {
				return fmt.Sprintf("%s: %v is none of %v", path, v, rule)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(rule.(string)).MatchString(text) {
				return fmt.Sprintf("%s: %q does not match %v", path, v, rule)
			}
		case "minimum", "maximum":
			if n, ok := v.(float64); ok && (keyword == "minimum" && n < rule.(float64) || keyword == "maximum" && n > rule.(float64)) {
				return fmt.Sprintf("%s: %v is beyond the %s %v", path, v, keyword, rule)
			}
		case "maxProperties":
			if m, ok := v.(map[string]any); ok && len(m) > int(rule.(float64)) {
				return path + ": too many keys"
			}
		case "required":
			for _, name := range rule.([]any) {
				if m, ok := v.(map[string]any); ok && m[name.(string)] == nil {
					return fmt.Sprintf("%s: no %v", path, name)
				}
			}
		case "items":
			list, _ := v.([]any)
			for i, item := range list {
				if bad := violation(t, rule.(map[string]any), item, fmt.Sprintf("%s[%d]", path, i)); bad != "" {
					return bad
				}
			}
		case "properties":
			m, _ := v.(map[string]any)
			for name, value := range m {
				if of, ok := rule.(map[string]any)[name]; !ok {
					return path + "." + name + ": unknown" // additionalProperties is false throughout
				} else if bad := violation(t, of.(map[string]any), value, path+"."+name); bad != "" {
					return bad
				}
			}
		case "additionalProperties":
			of, open := rule.(map[string]any)
			if m, ok := v.(map[string]any); ok && open {
				for name, value := range m {
					if bad := violation(t, of, value, path+"."+name); bad != "" {
						return bad
					}
				}
			} else if rule != false && !open {
				t.Fatalf("%s: additionalProperties is %v", path, rule)
			}
		case "propertyNames":
			m, _ := v.(map[string]any)
			for name := range m {
				if bad := violation(t, rule.(map[string]any), name, path+"."+name); bad != "" {
					return bad
				}
			}
		case "anyOf":
			if !slices.ContainsFunc(rule.([]any), func(of any) bool { return violation(t, of.(map[string]any), v, path) == "" }) {
				return fmt.Sprintf("%s: %v fits none of %v", path, v, rule)
			}
		default:
			t.Fatalf("%s: the test does not know the keyword %s", path, keyword)
		}
	}
	return ""
}

func hasType(s map[string]any, v any) bool {
	types, ok := s["type"].([]any)
	if !ok {
		if s["type"] == nil {
			return v != nil
		}
		types = []any{s["type"]}
	}
	name := "null"
	switch x := v.(type) {
	case map[string]any:
		name = "object"
	case []any:
		name = "array"
	case string:
		name = "string"
	case bool:
		name = "boolean"
	case float64:
		name = "number"
		if x == math.Trunc(x) {
			name = "integer"
		}
	}
	return slices.Contains(types, any(name))
}

// named is v with text for keys, as JSON has them: YAML has numbers, too.
func named(v any) any {
	switch x := v.(type) {
	case map[any]any:
		m := map[string]any{}
		for k, value := range x {
			m[fmt.Sprint(k)] = named(value)
		}
		return m
	case map[string]any:
		for k, value := range x {
			x[k] = named(value)
		}
	}
	return v
}

// document reads a file as JSON does.
func document(t *testing.T, path string) (v any, ok bool) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if yaml.Unmarshal(text, &plain) != nil {
		return nil, false
	}
	asJSON, err := json.Marshal(named(plain))
	if err != nil {
		return nil, false
	}
	return v, json.Unmarshal(asJSON, &v) == nil
}

// TestSchemaTakesWhatIsGood: every file that the reader accepts, the example,
// and what config show writes of them.
func TestSchemaTakesWhatIsGood(t *testing.T) {
	schema := schemaJSON(t)
	files, _ := filepath.Glob("testdata/good/*.yaml")
	if len(files) < 5 {
		t.Fatal("no files")
	}
	for _, path := range append(files, "example.yaml") {
		v, ok := document(t, path)
		if !ok {
			t.Errorf("%s: not read", path)
			continue
		}
		if bad := violation(t, schema, v, ""); bad != "" {
			t.Errorf("%s: %s", path, bad)
		}
		c, _ := Load(path)
		shown, err := Show(c)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "shown.yaml")
		if err := os.WriteFile(copied, []byte(shown), 0o600); err != nil {
			t.Fatal(err)
		}
		v, _ = document(t, copied)
		if bad := violation(t, schema, v, ""); bad != "" {
			t.Errorf("%s, shown: %s", path, bad)
		}
	}
}

// TestSchemaRefuses: what a schema can see. Rules between keys it cannot.
func TestSchemaRefuses(t *testing.T) {
	schema := schemaJSON(t)
	for _, name := range []string{"unknown", "types", "prefixes", "durations", "cilium", "numbers", "not-a-mapping", "port-timeouts-list"} {
		v, ok := document(t, "testdata/bad/"+name+".yaml")
		if ok && violation(t, schema, v, "") == "" {
			t.Errorf("%s.yaml passes", name)
		}
	}
	for text, want := range map[string]string{
		`{"interfaces": [{"name": "eth0"}]}`:                "no role",
		`{"interfaces": [{"name": "eth0", "role": "up"}]}`:  "is none of",
		`{"masquerade": {"sources": ["10.0.0.0"]}}`:         "does not match",
		`{"masquerade": {"hairpin": "yes"}}`:                "is no boolean",
		`{"masquerade": {"mss-clamp": 63}}`:                 "fits none of",
		`{"conntrack": {"max-flows": -1}}`:                  "minimum",
		`{"services": [{"port": 70000}]}`:                   "maximum",
		`{"filter": {"a": 1}}`:                              "too many keys",
		`{"masquerade": {"native-routing-cidr": "10.0/8"}}`: "unknown",
		`{"conntrack": {"timeouts": {"udp": "5 minutes"}}}`: "fits none of",

		`{"conntrack": {"timeouts": {"udp-ports": {"dns": "17s"}}}}`: "does not match",
		`{"conntrack": {"timeouts": {"udp-ports": {"53": "soon"}}}}`: "does not match",
		`{"dsr-agent": {"reply-interfaces": {"auto": true}}}`:        "fits none of",
		`{"driver": null}`: "null",
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if bad := violation(t, schema, v, ""); !strings.Contains(bad, want) {
			t.Errorf("%s: %q, want %s", text, bad, want)
		}
	}
}

// TestSchemaHasEveryKey, with its default, and a word on what it does where the
// example has one.
func TestSchemaHasEveryKey(t *testing.T) {
	schema := schemaJSON(t)
	for path := range keysOf(reflect.TypeFor[Config](), "") {
		s := schema
		for part := range strings.SplitSeq(path, ".") {
			name, list := strings.CutSuffix(part, "[]")
			properties, _ := s["properties"].(map[string]any)
			if s, _ = properties[name].(map[string]any); s == nil {
				t.Errorf("%s is missing", path)
				break
			}
			if list {
				s, _ = s["items"].(map[string]any)
			}
		}
	}
	masquerade := schema["properties"].(map[string]any)["masquerade"].(map[string]any)["properties"].(map[string]any)
	native, ports := masquerade["native-routing-cidrs"].(map[string]any), masquerade["port-range"].(map[string]any)
	if native["description"] != "destinations that see the true source" || ports["default"] != "1024-65535" {
		t.Errorf("%v\n%v", native, ports)
	}
}
