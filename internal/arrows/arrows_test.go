package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport lists, for every package of the module, the others it may import.
// Arrows point down only. A new package takes its place here before it compiles
// into anything. Tests may reach further: see testsMayImport.
var mayImport = map[string][]string{
	"internal/verdict":  {},
	"internal/packet":   {"internal/verdict"},
	"conntrack":         {"internal/packet", "internal/verdict"},
	"nat":               {"conntrack", "internal/packet", "internal/verdict"},
	"dsr":               {"conntrack", "internal/packet", "internal/verdict"},
	"internal/fib":      {"internal/verdict"},
	"internal/fragment": {"conntrack", "internal/packet", "internal/verdict"},
	"internal/filter":   {"conntrack", "internal/packet", "internal/verdict"},
	"internal/gateway":  {"nat", "dsr", "internal/fragment", "internal/fib", "internal/filter", "conntrack", "internal/packet", "internal/verdict", "xdp"},

	"xdp":                     {},
	"xdp/asavie":              {"xdp"},
	"internal/flowmem":        {},
	"internal/netlinkrequest": {},
	"internal/route":          {"internal/fib", "internal/netlinkrequest"},
	"internal/bypass":         {},
	"internal/hostpeer":       {"nat", "internal/packet", "internal/netlinkrequest"},
	"internal/pcapng":         {},
	"internal/health":         {},
	"internal/agent":          {"xdp"},
	"internal/config":         {},
	"internal/control":        {"internal/packet"},

	"internal/explain": {
		"internal/gateway", "internal/control", "internal/config", "internal/filter", "xdp", "nat", "dsr", "conntrack", "internal/fib", "internal/packet", "internal/verdict",
	},
	"internal/metrics": {"internal/control"},
	"internal/migrate": {"internal/config"},
	"internal/daemon": {
		"internal/explain", "internal/filter", "internal/pcapng", "internal/bypass", "internal/hostpeer", "internal/metrics", "internal/agent",
		"internal/gateway", "internal/fragment", "internal/route", "internal/health", "internal/control", "internal/config", "internal/flowmem",
		"xdp", "xdp/asavie", "nat", "dsr", "conntrack", "internal/fib", "internal/packet", "internal/verdict",
	},

	"bench": {
		"internal/lab", "internal/control", "internal/flowmem", "internal/gateway", "xdp", "nat", "dsr", "conntrack", "internal/fib", "internal/packet", "internal/verdict",
	},
	"internal/lab":    {},
	"internal/demo":   {"internal/lab", "internal/control"},
	"internal/faults": {"internal/lab", "internal/control"},
	"internal/attack": {"internal/lab", "internal/control"},
	"internal/arrows": {},

	"internal/ebpfobject": {},

	"internal/plant":              {},
	"internal/packaging":          {},
	"internal/packaging/licences": {},

	"internal/docs": {"conntrack", "nat", "internal/explain", "internal/gateway", "internal/verdict"},
	"cmd/sluice":    {"bench", "internal/daemon", "internal/control", "internal/config", "internal/migrate", "internal/demo", "internal/filter", "internal/pcapng", "internal/verdict", "nat"},
}

// testsMayImport is what the tests of any package may import besides.
var testsMayImport = []string{"internal/lab", "internal/ebpfobject", "internal/packet", "internal/verdict"}

// pure are the packages whose time, memory and frames are passed in. They run
// the same under a test, a fuzzer and the gateway.
var pure = []string{"internal/verdict", "internal/packet", "conntrack", "nat", "dsr", "internal/fib", "internal/filter", "internal/fragment"}

// impure is what no pure package imports: sockets, files, clocks, logs, and the
// libraries that bring them. A path stands for what is below it, too.
var impure = []string{
	"net", "os", "time", "log", "syscall", "io/fs", "runtime/debug",
	"golang.org/x/sys", "github.com/vishvananda", "github.com/cilium", "github.com/google/gopacket",
}

// exempt are packages below an impure tree that are pure themselves.
var exempt = []string{"net/netip"}

// pureLibraries are the modules that pure packages may depend on.
var pureLibraries = []string{"github.com/gaissmai/bart"}

// mayUseUnsafe are the packages that share memory or system calls with the
// kernel, and the one that lays its records over bytes. Only they import unsafe
// or x/sys.
var mayUseUnsafe = []string{"xdp", "xdp/asavie", "internal/flowmem", "internal/agent", "conntrack"}

const module = "sluice"

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath, Dir       string
	Standard              bool
	GoFiles, CgoFiles     []string
	IgnoredGoFiles        []string
	TestGoFiles           []string
	XTestGoFiles          []string
	Deps                  []string
	source, test, ignored map[string][]string // import path -> files that have it
}

// name is the package's path inside the module.
func (p *listed) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func list(t *testing.T) []*listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", module+"/...")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.Bytes())
	}
	var packages []*listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &listed{}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.source = imports(t, p.Dir, slices.Concat(p.GoFiles, p.CgoFiles))
		p.test = imports(t, p.Dir, slices.Concat(p.TestGoFiles, p.XTestGoFiles))
		p.ignored = imports(t, p.Dir, p.IgnoredGoFiles)
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	return packages
}

// imports reads files rather than ask go list, so that those for another
// architecture or build tag obey as well.
func imports(t *testing.T, dir string, files []string) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range f.Imports {
			path, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[path] = append(found[path], name)
		}
	}
	return found
}

// below reports whether path is, or lies below, one of the trees.
func below(path string, trees []string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool {
		return path == tree || strings.HasPrefix(path, tree+"/")
	})
}

func TestArrowsPointDown(t *testing.T) {
	for _, p := range list(t) {
		allowed, known := mayImport[p.name()]
		if !known {
			t.Errorf("%s has no place in mayImport: decide whom it may import", p.name())
			continue
		}
		for path, files := range both(p.source, p.ignored) {
			if ours, ok := strings.CutPrefix(path, module+"/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s (%s); it may import %v", p.name(), ours, files, allowed)
			}
		}
		for path, files := range p.test {
			ours, ok := strings.CutPrefix(path, module+"/")
			if ok && ours != p.name() && !slices.Contains(allowed, ours) && !slices.Contains(testsMayImport, ours) {
				t.Errorf("the tests of %s import %s (%s); they may import %v and %v", p.name(), ours, files, allowed, testsMayImport)
			}
		}
	}
}

// TestPurePackages looks at the imports of the pure packages, and at the
// modules that they depend on by whatever way. (The standard library's own
// imports are not ours to judge: fmt has files in it.)
func TestPurePackages(t *testing.T) {
	found := 0
	for _, p := range list(t) {
		if !slices.Contains(pure, p.name()) {
			continue
		}
		found++
		for path, files := range both(p.source, p.ignored) {
			if below(path, impure) && !slices.Contains(exempt, path) {
				t.Errorf("%s imports %s (%s): pass it in instead", p.name(), path, files)
			}
		}
		for _, dep := range p.Deps {
			foreign := strings.Contains(strings.Split(dep, "/")[0], ".")
			if foreign && !below(dep, pureLibraries) {
				t.Errorf("%s depends on %s; it may depend on %v", p.name(), dep, pureLibraries)
			}
		}
	}
	if found == 0 {
		t.Error("none of the pure packages exists")
	}
}

func TestUnsafeStaysWhereItBelongs(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(mayUseUnsafe, p.name()) {
			continue
		}
		for _, of := range []map[string][]string{p.source, p.test, p.ignored} {
			for path, files := range of {
				if path == "unsafe" || below(path, []string{"golang.org/x/sys"}) {
					t.Errorf("%s imports %s (%s); only %v may", p.name(), path, files, mayUseUnsafe)
				}
			}
		}
	}
}

// TestRulesAreSound checks the table itself: an arrow in both directions would
// forbid nothing.
func TestRulesAreSound(t *testing.T) {
	if !below("net/http", impure) || !below("os", impure) || below("network", impure) {
		t.Error("below confuses a path with its prefix")
	}
	for name, allowed := range mayImport {
		for _, a := range allowed {
			if _, ok := mayImport[a]; !ok {
				t.Errorf("%s may import %s, which has no place of its own", name, a)
			}
			if slices.Contains(mayImport[a], name) {
				t.Errorf("%s and %s may import each other", name, a)
			}
		}
	}
}

func both(a, b map[string][]string) map[string][]string {
	all := make(map[string][]string, len(a)+len(b))
	for _, m := range []map[string][]string{a, b} {
		for k, v := range m {
			all[k] = append(all[k], v...)
		}
	}
	return all
}
