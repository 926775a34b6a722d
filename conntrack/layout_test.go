package conntrack

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"unsafe"
)

// The layout is what another version of the program would read: a change here
// needs a new layoutVersion.
func TestLayout(t *testing.T) {
	var h header
	var f Flow
	var m Mapping
	var s Source
	var b bucket
	var tuple Tuple
	for _, c := range []struct {
		what      string
		got, want uintptr
	}{
		{"Tuple", unsafe.Sizeof(tuple), 16},
		{"Tuple.pad", unsafe.Offsetof(tuple.pad), 15},
		{"header", unsafe.Sizeof(h), 512},
		{"header.seed", unsafe.Offsetof(h.seed), 16},
		{"header.flows", unsafe.Offsetof(h.flows), 32},
		{"bucket", unsafe.Sizeof(b), 64},
		{"bucket.slot", unsafe.Offsetof(b.slot), 8},
		{"Flow", unsafe.Sizeof(f), 128},
		{"Flow.tuple", unsafe.Offsetof(f.tuple), 0},
		{"Flow.mapping", unsafe.Offsetof(f.mapping), 32},
		{"Flow.backend", unsafe.Offsetof(f.backend), 36},
		{"Flow.service", unsafe.Offsetof(f.service), 40},
		{"Flow.in", unsafe.Offsetof(f.in), 42},
		{"Flow.out", unsafe.Offsetof(f.out), 43},
		{"Flow.created", unsafe.Offsetof(f.created), 44},
		{"Flow.generation", unsafe.Offsetof(f.generation), 48},
		{"Flow.seal", unsafe.Offsetof(f.seal), 52},
		{"Flow.nextHop", unsafe.Offsetof(f.nextHop), 56},
		{"Flow.status, the second cache line", unsafe.Offsetof(f.status), 64},
		{"Flow.seen", unsafe.Offsetof(f.seen), 68},
		{"Flow.packets", unsafe.Offsetof(f.packets), 72},
		{"Flow.bytes", unsafe.Offsetof(f.bytes), 88},
		{"Flow.sent", unsafe.Offsetof(f.sent), 104},
		{"Flow.acked", unsafe.Offsetof(f.acked), 112},
		{"Flow.windows", unsafe.Offsetof(f.windows), 120},
		{"Flow.link", unsafe.Offsetof(f.link), 124},
		{"Mapping", unsafe.Sizeof(m), 64},
		{"Mapping.source", unsafe.Offsetof(m.source), 16},
		{"Mapping.refs", unsafe.Offsetof(m.refs), 32},
		{"Source", unsafe.Sizeof(s), 32},
		{"Source.refs", unsafe.Offsetof(s.refs), 16},
	} {
		if c.got != c.want {
			t.Errorf("%s is at, or has, %d bytes; want %d", c.what, c.got, c.want)
		}
	}
	const want = 0xe8aa3873
	if got := layoutHash(); got != want {
		t.Errorf("layout hash %#x, want %#x: the layout changed; so must layoutVersion", got, want)
	}
}

// At most 192 bytes a flow, index included, mappings and sources apart.
func TestBytesPerFlow(t *testing.T) {
	for _, flows := range []int{1 << 16, 1 << 20, 4 << 20} {
		c := Config{MaxFlows: flows, Workers: 8}
		s := c.shape()
		perFlow := float64(s.mappingsAt) / float64(flows) // header, index and flows
		if perFlow > 192 {
			t.Errorf("%d flows: %.1f bytes each", flows, perFlow)
		}
		all := float64(Size(c)) / float64(flows)
		if all > 256 {
			t.Errorf("%d flows: %.1f bytes each with a mapping for every flow", flows, all)
		}
		t.Logf("%d flows: %.1f bytes each, %.1f with mappings and sources", flows, perFlow, all)
	}
}

func TestShapeAligned(t *testing.T) {
	for _, flows := range []int{1, 2, 3, 7, 100, 1000, 65536, 1048576} {
		c := Config{MaxFlows: flows, Workers: 1}
		s := c.shape()
		for _, at := range []uintptr{s.bucketsAt, s.flowsAt, s.mappingsAt, s.sourcesAt} {
			if at%cacheLine != 0 {
				t.Errorf("%d flows: a part begins at %d", flows, at)
			}
		}
		for d := 2; d*d <= s.buckets; d++ {
			if s.buckets%d == 0 {
				t.Errorf("%d flows: %d buckets is not prime", flows, s.buckets)
			}
		}
		if s.buckets < maxChain {
			t.Errorf("%d flows: %d buckets are fewer than a chain has", flows, s.buckets)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{MaxFlows: 100, Workers: 1, Timeouts: DefaultTimeouts()}
	size := Size(good)
	for _, c := range []struct {
		name, want string
		mem        []byte
		cfg        Config
	}{
		{"no flows", "max-flows", aligned(size), Config{Workers: 1}},
		{"too many flows", "max-flows", aligned(size), Config{MaxFlows: maxFlows + 1, Workers: 1}},
		{"no workers", "workers", aligned(size), Config{MaxFlows: 100}},
		{"too little memory", "are needed", aligned(size - 1), good},
		{"no memory", "are needed", nil, good},
		{"not aligned", "aligned", aligned(size + 8)[8:], good},
	} {
		if _, err := New(c.mem, c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	mem := aligned(size)
	if _, err := New(mem, good); err != nil {
		t.Fatal(err)
	}
	if _, err := New(mem, good); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("memory in use: %v", err)
	}
}

// What runs once a packet must be inlined into the worker's loops.
func TestHotAccessorsInline(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package")
	}
	out, err := exec.Command("go", "build", "-gcflags=-m", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inlined := map[string]bool{}
	for _, m := range regexp.MustCompile(`can inline (\S+)`).FindAllSubmatch(out, -1) {
		inlined[string(m[1])] = true
	}
	for _, f := range []string{
		"(*Flow).Tuple", "(*Flow).Translated", "(*Flow).Touch", "(*Flow).NextHop", "(*Flow).SetNextHop",
		"(*Flow).Kind", "(*Flow).InPort", "(*Flow).OutPort", "(*Flow).lastSeen", "(*Worker).Update",
		"Tuple.Reverse", "(*Tuple).key", "(*seed).hash", "reduce", "(*limits).idle",
	} {
		if !inlined[f] {
			t.Errorf("%s is not inlined", f)
		}
	}
}
