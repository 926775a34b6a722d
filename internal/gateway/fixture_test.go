package gateway

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/verdict"
	"sluice/nat"
)

// fixture is one case of testdata/fixtures.
type fixture struct {
	name  string
	line  int
	steps []step
}

type step struct {
	line       int
	what, text string
}

// fixtureWords are what a line of a fixture can begin with.
var fixtureWords = []string{"with", "in", "out", "whole", "drop", "punt", "wait"}

func readFixtures(t *testing.T, path string) (list []fixture) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		what, text, _ := strings.Cut(line, " ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case what == "case":
			list = append(list, fixture{name: text, line: n})
		case len(list) == 0 || !slices.Contains(fixtureWords, what):
			t.Fatalf("%s:%d: %q is no line of a fixture", path, n, what)
		default:
			c := &list[len(list)-1]
			c.steps = append(c.steps, step{n, what, strings.TrimSpace(text)})
		}
	}
	return list
}

// TestFixtures: packets in, packets out, for each requirement that can be said in
// packets. gopacket says what came out.
func TestFixtures(t *testing.T) {
	files, err := filepath.Glob("testdata/fixtures/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, file := range files {
		for _, c := range readFixtures(t, file) {
			total++
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+c.name, func(t *testing.T) { c.run(t, file) })
		}
	}
	if total < 80 {
		t.Errorf("%d fixtures", total)
	}
}

// playing is a fixture at work.
type playing struct {
	*rig
	file   string
	kernel *puntMemory
	before [verdict.Count]uint64
	left   []string // what left since the last packet came in, and was not expected yet
	wholes [2]*reassembler
}

func (c *fixture) run(t *testing.T, file string) {
	var options []rigOption
	steps := c.steps
	options = append(options, everything(t), func(_ *rig, s *Snapshot) { s.Static = nil })
	for ; len(steps) > 0 && steps[0].what == "with"; steps = steps[1:] {
		for _, word := range strings.Fields(steps[0].text) {
			options = append(options, fixtureOption(t, word))
		}
	}
	r := newRig(t, options...)
	if err := r.table.AddExternal(r.pointer.Load().Balance.Sources[insidePort]); err != nil {
		t.Fatal(err)
	}
	if r.ext.Address() != pooled {
		r.addPooled()
	}
	r.settleDown()
	p := &playing{rig: r, file: file, kernel: withPunts(r), wholes: [2]*reassembler{newReassembler(t), newReassembler(t)}}
	p.before = r.worker.counters.Drops
	for _, s := range steps {
		p.play(s)
	}
	p.nothingElse(c.line)
	if raceDetector {
		return // what follows takes long then, and is one goroutine's
	}
	if err := r.table.Verify(); err != nil {
		t.Error(err)
	}
}

// settleDown lets what the start announces leave.
func (r *rig) settleDown() {
	for range announceTimes {
		r.now += announceEvery
		r.step()
	}
	for i := range r.ports {
		r.ports[i].sent()
	}
}

func (p *playing) play(s step) {
	p.t.Helper()
	at := fmt.Sprintf("%s:%d", p.file, s.line)
	switch s.what {
	case "in":
		p.nothingElse(s.line)
		side, text, _ := strings.Cut(s.text, " ")
		on, ok := map[string]fib.PortID{"inside": insidePort, "outside": outsidePort}[side]
		recipe, err := parseRecipe(strings.TrimSpace(text))
		if err != nil || !ok {
			p.t.Fatalf("%s: %v", at, err)
		}
		p.send(on, recipe.frame(on))
		p.collect()
	case "wait":
		p.nothingElse(s.line)
		seconds, err := strconv.Atoi(s.text)
		if err != nil {
			p.t.Fatalf("%s: %v", at, err)
		}
		p.now += conntrack.Tick(seconds) * conntrack.TicksPerSecond
		p.step()
		p.worker.Idle(p.now, 4*p.maxFlows)
		p.collect()
	case "out":
		want := expand(strings.Join(strings.Fields(s.text), " "))
		if i := slices.Index(p.left, want); i >= 0 {
			p.left = slices.Delete(p.left, i, i+1)
		} else {
			p.t.Errorf("%s: did not leave:\n\t%s\nbut\n\t%s\ndrops %v", at, want, strings.Join(p.left, "\n\t"), p.allDrops())
		}
	case "whole":
		if want := expand(strings.Join(strings.Fields(s.text), " ")); !slices.Contains(p.whole(), want) {
			p.t.Errorf("%s: the fragments make\n\t%s\nand not\n\t%s", at, strings.Join(p.whole(), "\n\t"), want)
		}
	case "drop":
		reason, ok := verdict.Parse(s.text)
		if !ok || p.worker.counters.Drops[reason] != p.before[reason]+1 {
			p.t.Errorf("%s: not dropped as %s; drops %v", at, s.text, p.allDrops())
		}
		p.before[reason]++
	case "punt":
		if n := len(p.kernel.got); n != 1 || p.kernel.got[0].reason.String() != s.text {
			p.t.Errorf("%s: the kernel was not given it as %s: %v", at, s.text, p.kernel.got)
		}
		p.kernel.got = nil
	}
}

// collect takes what left the two ports, in a fixture's words.
func (p *playing) collect() {
	for i, side := range []string{"inside", "outside"} {
		for _, frame := range p.ports[i].sent() {
			if wrong := judge(frame, fib.PortID(i) == outsidePort); wrong != "" {
				p.t.Errorf("left by port %d with %s: %x", i, wrong, frame)
			}
			if binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
				continue
			}
			p.left = append(p.left, side+" "+show(frame))
			if binary.BigEndian.Uint16(frame[20:])&0x3fff != 0 {
				p.wholes[i].take(frame)
			}
		}
	}
}

// whole says which datagrams have left in fragments.
func (p *playing) whole() (list []string) {
	for i, side := range []string{"inside", "outside"} {
		for _, d := range p.wholes[i].whole {
			frame := append(binary.BigEndian.AppendUint16(make([]byte, 12), 0x0800), d...)
			binary.BigEndian.PutUint16(frame[16:], uint16(len(d))) // the header was a fragment's
			binary.BigEndian.PutUint16(frame[20:], 0)
			mend(frame)
			list = append(list, side+" "+show(frame))
		}
	}
	return list
}

// nothingElse holds that what happened was said: before another packet comes.
func (p *playing) nothingElse(line int) {
	p.t.Helper()
	at := fmt.Sprintf("%s:%d", p.file, line)
	for _, said := range p.left {
		p.t.Errorf("%s: before this there left, too: %s", at, said)
	}
	p.left = nil
	if p.worker.counters.Drops != p.before {
		p.t.Errorf("%s: before this there were drops that are not said: %v", at, p.allDrops())
	}
	p.before = p.worker.counters.Drops
	if len(p.kernel.got) > 0 {
		p.t.Errorf("%s: before this the kernel was given %v", at, p.kernel.got)
	}
	p.kernel.got = nil
}

var hostName = regexp.MustCompile(`[a-z]+2?(:| |$)`)

// expand puts addresses for the names of hosts.
func expand(line string) string {
	return hostName.ReplaceAllStringFunc(line, func(s string) string {
		name := strings.TrimRight(s, ": ")
		if addr, ok := names[name]; ok {
			return fib.Addr(addr).String() + strings.TrimPrefix(s, name)
		}
		return s
	})
}

// fixtureOption is what a word after `with` does to the rig.
func fixtureOption(t *testing.T, word string) rigOption {
	key, value, _ := strings.Cut(word, "=")
	n, _ := strconv.Atoi(value)
	return func(r *rig, s *Snapshot) {
		switch key {
		case "forwards":
			s.Static = someForwards()
		case "filtering":
			s.Behaviour.Filtering = map[string]nat.FilteringBehaviour{"endpoint-independent": nat.FilterEndpoint, "address-dependent": nat.FilterAddress}[value]
		case "mapping":
			s.Behaviour.Mapping = map[string]nat.MappingBehaviour{"address-dependent": nat.MapAddress, "address-and-port-dependent": nat.MapAddressAndPort}[value]
		case "overload-when-exhausted":
			s.Behaviour.Overload = true
		case "mtu":
			r.outMTU = uint16(n)
			r.interfaces(true)
			s.Routes = r.builder.Build()
		case "one-port":
			s.Ports = nat.PortRange{Low: uint16(n), High: uint16(n)}
		case "no-hairpin":
			s.Hairpin = false
		case "drop-options":
			s.DropOptions = true
		case "tcp-pickup":
			s.PickUp = true
		case "mss":
			s.MSS = uint16(n)
		case "other-protocols":
			s.Other = map[string]OtherProtocols{"drop": OtherDrop, "pass": OtherPass}[value]
		case "pool":
			withPool(r, s)
		default:
			t.Fatalf("no fixture has %q", word)
		}
	}
}
