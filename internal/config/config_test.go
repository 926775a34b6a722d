package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"net/netip"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what Parse says of every file under dir with the file of the
// same name that ends in .golden.
func golden(t *testing.T, dir string, accepted bool) (mistakes int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, found := Parse(filepath.Base(path), text)
			if (c != nil) != accepted {
				t.Errorf("accepted: %v, want %v", c != nil, accepted)
			}
			if Refused(found) == accepted {
				t.Errorf("Refused is %v", Refused(found))
			}
			var got strings.Builder
			for _, m := range found {
				got.WriteString(m.String() + "\n")
				if !m.Warning {
					mistakes++
				}
			}
			if !slices.IsSortedFunc(found, func(a, b Mistake) int { return a.Line - b.Line }) {
				t.Error("not in the order of the lines")
			}
			name := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(name, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
	return mistakes
}

func TestGood(t *testing.T) { golden(t, "good", true) }

func TestBad(t *testing.T) {
	if n := golden(t, "bad", false); n < 60 && !t.Failed() {
		t.Errorf("only %d kinds of mistakes are covered", n)
	}
}

// plainly compares configurations whatever the file and the lines.
var plainly = cmp.Options{
	cmpopts.IgnoreFields(Config{}, "Path", "Lines"),
	cmpopts.IgnoreFields(Interface{}, "Line"), cmpopts.IgnoreFields(Rule{}, "Line"),
	cmpopts.IgnoreFields(Node{}, "Line"), cmpopts.IgnoreFields(PortForward{}, "Line"), cmpopts.IgnoreFields(External{}, "Line"),
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// TestExampleIsTheDefaults: the example has every key, and says the default of
// each but of the two that need values.
func TestExampleIsTheDefaults(t *testing.T) {
	c, mistakes := Parse("example.yaml", Example())
	for _, m := range mistakes {
		t.Error(m)
	}
	if c == nil {
		t.FailNow()
	}
	want := Default()
	want.Interfaces = []Interface{{Name: "eth1", Role: RoleInside, Mode: ModeAuto}, {Name: "eth0", Role: RoleOutside, Mode: ModeAuto}}
	want.Masquerade.Sources = []Rule{{Prefix: netip.MustParsePrefix("10.20.30.0/24")}}
	if d := cmp.Diff(want, c, plainly); d != "" {
		t.Errorf("the example is not the defaults (-defaults +example):\n%s", d)
	}
	d := &decoder{file: "example.yaml", lines: map[string]int{}}
	d.value(d.document(Example()), reflect.ValueOf(Default()).Elem(), "")
	for path := range keysOf(reflect.TypeFor[Config](), "") {
		if strings.HasPrefix(path, "services[].") || strings.HasPrefix(path, "port-forwards[].") {
			continue // lists that are empty
		}
		if d.lines[strings.ReplaceAll(path, "[]", "[0]")] == 0 {
			t.Errorf("the example does not have the key %s", path)
		}
	}
}

// TestShowReadsBack: what Show writes is what Parse read.
func TestShowReadsBack(t *testing.T) {
	files, _ := filepath.Glob("testdata/good/*.yaml")
	for _, path := range append(files, "example.yaml") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := Parse(path, text)
		if c == nil {
			t.Fatalf("%s is refused", path)
		}
		readsBack(t, c)
	}
}

func readsBack(t *testing.T, c *Config) {
	t.Helper()
	text, err := Show(c)
	if err != nil {
		t.Fatal(err)
	}
	again, mistakes := Parse(c.Path, []byte(text))
	if again == nil {
		t.Fatalf("%v\n%s", mistakes, text)
	}
	if d := cmp.Diff(c, again, plainly); d != "" {
		t.Fatalf("changed on its way through\n%s\n(-was +is):\n%s", text, d)
	}
}

// TestRulesKeepTheirLines: explain and status print them.
func TestRulesKeepTheirLines(t *testing.T) {
	c, mistakes := Parse("f", []byte(`interfaces:
  - {name: eth1, role: inside}
  - name: eth0
    role: outside
masquerade:
  sources:
    - 10.20.30.0/24

    - 10.20.40.0/24
  nodes: [192.0.2.10,
          192.0.2.11]
  addresses: [203.0.113.4]
`))
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	m := &c.Masquerade
	got := []int{c.Interfaces[0].Line, c.Interfaces[1].Line, m.Sources[0].Line, m.Sources[1].Line, m.Nodes[0].Line, m.Nodes[1].Line, m.Addresses[0].Line}
	if want := []int{2, 3, 7, 9, 10, 11, 12}; !slices.Equal(got, want) {
		t.Errorf("lines %v, want %v", got, want)
	}
	for key, want := range map[string]int{"masquerade.nodes": 10, "masquerade.sources[1]": 9, "interfaces[1].role": 4, "masquerade.hairpin": 0} {
		if got := c.Line(key); got != want {
			t.Errorf("%s stands on line %d, want %d", key, got, want)
		}
	}
}

// TestNotYetKeysExist: a key that is renamed or gone must leave the list too.
func TestNotYetKeysExist(t *testing.T) {
	known := map[string]bool{}
	for path := range keysOf(reflect.TypeFor[Config](), "") {
		known[path] = true
	}
	for _, k := range notYet {
		if !known[k.key] {
			t.Errorf("%s is no key", k.key)
		}
	}
	for key, want := range map[string]bool{
		"masquerade.hairpin": true, "interfaces[].mode": true, "conntrack.timeouts.udp": true,
		"masquerade.mapping": true, "nat-log.ipfix": false, "services": true, "services[].name": true, "dsr.dispatch": true, "dsr-agent": true, "filter": false,
	} {
		if Supported(key) != want {
			t.Errorf("Supported(%s) is %v", key, !want)
		}
	}
}

// TestForeignKeys: a key of another tool is explained, at the top level and
// under masquerade, and is none of ours.
func TestForeignKeys(t *testing.T) {
	for key, text := range foreign {
		if key != fold(key) {
			t.Errorf("%s is not folded", key)
		}
		if strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
			t.Errorf("%s: %q is not one clause", key, text)
		}
		_, mistakes := Parse("f", []byte(key+": 1\nmasquerade: {"+key+": 1}\n"))
		n := 0
		for _, m := range mistakes {
			if strings.Contains(m.Text, text) {
				n++
			}
		}
		if want := map[bool]int{true: 1, false: 2}[key == "nativeroutingcidrs"]; n != want {
			t.Errorf("%s is explained %d times, want %d: %v", key, n, want, mistakes)
		}
	}
}

func TestSuggestion(t *testing.T) {
	keys := []string{"sources", "no-nat-sources", "nodes", "enabled", "port-range"}
	for word, want := range map[string]string{
		"sorces": "sources", "soruces": "sources", "enable": "enabled", "node": "nodes", "portrange": "port-range",
		"Nodes": "nodes", "frobnicate": "", "x": "", "": "",
	} {
		got := suggestion(word, keys)
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"abcd", "acbd", 1}, {"eth0", "eth1", 1},
	} {
		if got := distance(tc.a, tc.b, 100); got != tc.want {
			t.Errorf("%q to %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "no such file",
		dir:                             "cannot be read",
		big:                             "larger than",
		"/dev/zero":                     "larger than",
	} {
		c, mistakes := Load(path)
		if c != nil || len(mistakes) != 1 || !strings.HasPrefix(mistakes[0].String(), path+": ") || !strings.Contains(mistakes[0].Text, want) {
			t.Errorf("%s: %v", path, mistakes)
		}
	}
	c, mistakes := Load("example.yaml")
	if c == nil || c.Path != "example.yaml" {
		t.Errorf("the example is refused: %v", mistakes)
	}
}

// TestAliasBomb: a small file must not unfold into a huge one.
func TestAliasBomb(t *testing.T) {
	text := "masquerade: {sources: &a [" + strings.Repeat("10.0.0.0/8,", 20000) + "]}\nservices: &s\n" +
		strings.Repeat("- {source-ranges: *a}\n", 10000)
	c, mistakes := Parse("f", []byte(text))
	if c != nil || !slices.ContainsFunc(mistakes, func(m Mistake) bool { return strings.Contains(m.Text, "unfolds") }) {
		t.Errorf("got %d mistakes", len(mistakes))
	}
	if len(mistakes) > maxMistakes+1 {
		t.Errorf("%d mistakes are reported", len(mistakes))
	}
}

func TestManyMistakesAreCut(t *testing.T) {
	_, mistakes := Parse("f", []byte("masquerade:\n  sources:\n"+strings.Repeat("  - x\n", 5000)))
	if len(mistakes) != maxMistakes+1 || !strings.Contains(mistakes[maxMistakes].Text, "more") {
		t.Errorf("%d mistakes, last %v", len(mistakes), mistakes[len(mistakes)-1])
	}
}

func TestDurationString(t *testing.T) {
	for _, s := range []string{"0s", "1s", "90ms", "1m", "1m30s", "10m", "1h", "2h4m", "24h", "1h0m5s", "20s", "100h"} {
		d := &decoder{lines: map[string]int{}}
		var got Duration
		got.decode(d, scalarNode(s, "!!str"), "k")
		if got.String() != s || len(d.mistakes) > 0 {
			t.Errorf("%s became %s, %v", s, got, d.mistakes)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, dir := range []string{"good", "bad"} {
		files, _ := filepath.Glob("testdata/" + dir + "/*.yaml")
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Add(Example())
	f.Fuzz(func(t *testing.T, text []byte) {
		c, mistakes := Parse("f", text)
		if (c == nil) != Refused(mistakes) {
			t.Fatalf("configuration %v, mistakes %v", c != nil, mistakes)
		}
		lines := 2 + strings.Count(string(text), "\n") + strings.Count(string(text), "\r") +
			strings.Count(string(text), "\u0085") + strings.Count(string(text), "\u2028") + strings.Count(string(text), "\u2029")
		for _, m := range mistakes {
			if s := m.String(); m.Line < 1 || m.Line > lines || m.Text == "" || strings.ContainsAny(s, "\n\r\x00") {
				t.Fatalf("%q at line %d of %d", s, m.Line, lines)
			}
		}
		if c != nil {
			readsBack(t, c)
		}
	})
}

func FuzzParseIPMasq(f *testing.F) {
	f.Add([]byte("nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqLinkLocal: true\nresyncInterval: 60s\n"))
	f.Add([]byte(`{"nonMasqueradeCIDRs": ["10.1.2.3/8"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseIPMasq("f", text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("not one line: %q", err)
			}
			return
		}
		for _, p := range m.NonMasqueradeCIDRs {
			if !p.IsValid() || !p.Addr().Is4() || p != p.Masked() {
				t.Fatalf("prefix %v", p)
			}
		}
	})
}
