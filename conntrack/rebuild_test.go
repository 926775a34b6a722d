package conntrack

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// adoptionConfig is a table that can be adopted.
func adoptionConfig(flows, workers int) Config {
	return Config{
		MaxFlows: flows, Workers: workers, Timeouts: DefaultTimeouts(), Seed: [2]uint64{0x0123456789abcdef, 0xfedcba9876543210},
		Boot: [16]byte{1, 2, 3}, Namespace: 4026531840, Ports: []string{"eth1", "eth0"},
	}
}

const external2 = external + 1

// left is a table and the memory that it leaves.
type left struct {
	cfg   Config
	mem   []byte
	table *Table
	w     *Worker
}

func newLeft(t rapid.TB, flows int, externals ...uint32) *left {
	t.Helper()
	l := &left{cfg: adoptionConfig(flows, 1)}
	l.mem = aligned(Size(l.cfg))
	var err error
	if l.table, err = New(l.mem, l.cfg); err != nil {
		t.Fatal(err)
	}
	for _, addr := range externals {
		if err := l.table.AddExternal(NewExternal(addr, nil)); err != nil {
			t.Fatal(err)
		}
	}
	l.w = l.table.Worker(0)
	return l
}

// masquerade makes a flow whose source is mapped to port of addr.
func (l *left) masquerade(t rapid.TB, original Tuple, addr uint32, port uint16, now Tick) *Flow {
	t.Helper()
	m := l.mapping(t, original, addr, port, now)
	reply := original.Reverse()
	reply.Dst, reply.DstPort = m.External()
	f, _, existed, r := l.w.Create(&NewFlow{Original: original, Reply: reply, Kind: Masquerade, Mapping: m, OutPort: 1}, now)
	if r != verdict.None || existed {
		t.Fatalf("%v: existed %v, %v", original, existed, r)
	}
	return f
}

// mapping returns a reference to the mapping of a tuple's source, or nil where
// the port is another's.
func (l *left) mapping(t rapid.TB, original Tuple, addr uint32, port uint16, now Tick) *Mapping {
	t.Helper()
	x := l.table.External(addr)
	if m := l.w.FindMapping(original.Proto, original.Src, original.SrcPort, x); m != nil {
		return m
	}
	src, r := l.w.Source(original.Src)
	if r != verdict.None {
		t.Fatal(r)
	}
	m, _, taken, r := l.w.NewMapping(original.Proto, original.Src, original.SrcPort, x, port, src, now)
	if m == nil {
		l.w.ReleaseSource(src)
		if !taken {
			t.Fatal(r)
		}
		return nil
	}
	src.Pair(addr)
	return m
}

// copy is what another process finds: the bytes alone.
func (l *left) copy() []byte {
	mem := aligned(len(l.mem))
	copy(mem, l.mem)
	return mem
}

// adopted takes a copy of the memory over, with fresh external addresses.
func (l *left) adopted(t rapid.TB, mem []byte, now Tick, externals ...uint32) (*Table, Report) {
	t.Helper()
	r, err := Adopt(mem, len(mem), l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range externals {
		if err := r.Table().AddExternal(NewExternal(addr, nil)); err != nil {
			t.Fatal(err)
		}
	}
	report := r.Rebuild(now)
	if err := r.Table().Verify(); err != nil {
		t.Fatal(err)
	}
	return r.Table(), report
}

// snapshots lists a table's flows by id.
func snapshots(t *Table) map[uint32]Snapshot {
	all := map[uint32]Snapshot{}
	var c Cursor
	t.Each(&c, func(s Snapshot) bool {
		all[s.ID] = s
		return true
	})
	return all
}

func TestAdoptedAsItWas(t *testing.T) {
	l := newLeft(t, 100, external)
	inside := udp(client, 4000, server, 53)
	f := l.masquerade(t, inside, external, 61000, 100)
	g := l.masquerade(t, udp(client, 4000, server+1, 53), external, 61000, 101)
	plainFlow := mustCreate(t, l.w, &NewFlow{Original: Tuple{Src: client, Dst: server, SrcPort: 1, DstPort: 2, Proto: packet.ProtoTCP},
		Reply: Tuple{Src: server, Dst: client, SrcPort: 2, DstPort: 1, Proto: packet.ProtoTCP}, Kind: Forward, TCPFlags: packet.TCPSyn, OutPort: 1}, 102)
	l.w.Update(f, Reply, &packet.Packet{Proto: packet.ProtoUDP})
	f.Touch(Reply, 1000, 105)
	f.SetNextHop(Original, 7)
	before := snapshots(l.table)
	ids := [3]uint32{l.table.ID(f), l.table.ID(g), l.table.ID(plainFlow)}
	l.table.MarkClean()

	table, report := l.adopted(t, l.mem, 110, external)
	if diff := cmp.Diff(before, snapshots(table), cmp.AllowUnexported(Tuple{})); diff != "" {
		t.Errorf("flows changed (-before +after):\n%s", diff)
	}
	if want := (Report{Clean: true, Adopted: 3, Mappings: 1, Sources: 1}); report != want {
		t.Errorf("report %+v, want %+v", report, want)
	}
	w := table.Worker(0)
	for i, key := range []Tuple{f.Tuple(Reply), g.Tuple(Original), plainFlow.Tuple(Reply)} {
		got, _ := w.Find(key, 110)
		if got == nil || table.ID(got) != ids[i] {
			t.Errorf("%v finds %p, want flow %d", key, got, ids[i])
		}
	}
	got, _ := w.Find(inside, 110)
	if got.NextHop(Original) != 0 {
		t.Error("a next hop of another process's routes is still cached")
	}
	x := table.External(external)
	if !x.Holds(packet.ProtoUDP, 61000) || x.Claimed() != 1 || x.held[portWords+61000/64] != 1<<(61000%64) {
		t.Error("the port is not held, or its bit is not set")
	}
	m := w.FindMapping(packet.ProtoUDP, client, 4000, x)
	if m == nil {
		t.Fatal("the mapping is not found")
	}
	if _, port := m.External(); port != 61000 || table.sources[m.source].Flows() != 2 || table.sources[m.source].External() != external {
		t.Errorf("mapping to port %d, source %+v", port, &table.sources[m.source])
	}
	w.Release(m)
	// It counts as a crash from here on until it is marked again.
	if _, report := l.adopted(t, l.copy(), 111, external); report.Clean {
		t.Error("the mark outlived the end that it was for")
	}
}

// Each way in which a memory is not to be had.
func TestAdoptRefuses(t *testing.T) {
	l := newLeft(t, 100, external)
	l.masquerade(t, udp(client, 4000, server, 53), external, 61000, 100)
	for _, c := range []struct {
		name, want string
		change     func(mem []byte, cfg *Config) (found int)
	}{
		{"nothing", ErrNoTable.Error(), func(mem []byte, _ *Config) int { clear(mem); return len(mem) }},
		{"never finished", ErrNoTable.Error(), func(mem []byte, _ *Config) int { headerOf(mem).magic = 0; return len(mem) }},
		{"new file", "truncated", func(mem []byte, _ *Config) int { clear(mem); return 0 }},
		{"something else", "not a flow table", func(mem []byte, _ *Config) int { mem[0]++; return len(mem) }},
		{"another version", fmt.Sprintf("version %d", layoutVersion+1), func(mem []byte, _ *Config) int { headerOf(mem).version++; return len(mem) }},
		{"another layout", "another layout", func(mem []byte, _ *Config) int {
			h := headerOf(mem)
			h.layout++
			h.sum = h.checkSum()
			return len(mem)
		}},
		{"corrupted header", "corrupted", func(mem []byte, _ *Config) int { headerOf(mem).seed[0]++; return len(mem) }},
		{"another boot", "another boot", func(mem []byte, cfg *Config) int { cfg.Boot[15]++; return len(mem) }},
		{"another namespace", "another network namespace", func(mem []byte, cfg *Config) int { cfg.Namespace++; return len(mem) }},
		{"another size", "is for 100 flows, and conntrack.max-flows is 99", func(mem []byte, cfg *Config) int { cfg.MaxFlows--; return len(mem) }},
		{"truncated", "truncated", func(mem []byte, _ *Config) int { return len(mem) - 1 }},
		{"truncated header", "truncated", func(mem []byte, _ *Config) int { return 100 }},
	} {
		mem, cfg := l.copy(), l.cfg
		found := c.change(mem, &cfg)
		before := slices.Clone(mem)
		_, err := Adopt(mem, found, cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(before, mem) {
			t.Errorf("%s: the memory was changed", c.name)
		}
		Erase(mem)
		if _, err := New(mem, cfg); err != nil {
			t.Errorf("%s: the memory cannot be used afterwards: %v", c.name, err)
		}
	}
}

// A table keeps its flows when it is made larger, and has the room then.
func TestAdoptGrows(t *testing.T) {
	for _, flows := range []int{101, 128, 1000, 5000} {
		l := newLeft(t, 100, external)
		for i := range uint16(99) {
			l.masquerade(t, udp(client+uint32(i%7), 4000+i%50, server, 53+i), external, 60000+(i%7)*50+i%50, 100)
		}
		before := snapshots(l.table)
		l.table.MarkClean()
		l.cfg.MaxFlows = flows
		mem := aligned(Size(l.cfg))
		for i := range mem[len(l.mem):] {
			mem[len(l.mem)+i] = 0xa5 // what a table may leave behind itself
		}
		n := copy(mem, l.mem)
		r, err := Adopt(mem, n, l.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.report; !got.Clean || got.Grown != 100 {
			t.Errorf("to %d: %+v", flows, got)
		}
		table, report := l.adopted(t, mem, 101, external)
		if diff := cmp.Diff(before, snapshots(table), cmp.AllowUnexported(Tuple{})); diff != "" {
			t.Fatalf("to %d (-before +after):\n%s", flows, diff)
		}
		if report.Adopted != 99 || report.Dropped() > 0 || report.Mended > 0 || table.Count().FlowCapacity != flows {
			t.Errorf("to %d: %v, %+v", flows, report, table.Count())
		}
		w := table.Worker(0)
		for i := range flows - 99 {
			mustCreate(t, w, plain(udp(client+200, uint16(i), server, 53)), 101)
		}
		if err := table.Verify(); err != nil {
			t.Errorf("to %d, full: %v", flows, err)
		}
	}
}

// Each way in which a single flow is not to be had. The one beside it stays.
func TestFlowsThatCannotStay(t *testing.T) {
	reseal := func(f *Flow) { f.seal = f.seal & 0xff; f.seal |= f.sum() << 8 }
	for _, c := range []struct {
		name   string
		want   Loss
		change func(f, other *Flow)
	}{
		{"torn tuple", LostTorn, func(f, _ *Flow) { f.tuple[1].Src++ }},
		{"torn translation", LostTorn, func(f, _ *Flow) { f.tuple[1].DstPort++ }},
		{"torn seal", LostTorn, func(f, _ *Flow) { f.seal ^= 1 << 31 }},
		{"half created", LostIncomplete, func(f, _ *Flow) {
			f.status.Store(uint32(status(f.status.Load()).withPhase(phaseBuilding)))
		}},
		{"unknown kind", LostImplausible, func(f, _ *Flow) { f.seal = uint32(kinds); reseal(f) }},
		{"two protocols", LostImplausible, func(f, _ *Flow) { f.tuple[1].Proto = packet.ProtoTCP; reseal(f) }},
		{"two zones", LostImplausible, func(f, _ *Flow) { f.tuple[1].Zone = 1; reseal(f) }},
		{"state of another protocol", LostImplausible, func(f, _ *Flow) {
			f.status.Store(uint32(status(f.status.Load()).withState(TCPEstablished)))
		}},
		{"no state", LostImplausible, func(f, _ *Flow) { f.status.Store(uint32(phaseLive)) }},
		{"from the future", LostImplausible, func(f, _ *Flow) { f.created = 1 << 30; reseal(f) }},
		{"mapping beyond the end", LostImplausible, func(f, _ *Flow) { f.mapping = 101; reseal(f) }},
		{"masqueraded by nothing", LostImplausible, func(f, _ *Flow) { f.mapping = 0; reseal(f) }},
		{"translated, but to be forwarded as it is", LostImplausible, func(f, _ *Flow) { f.seal, f.mapping = uint32(Forward), 0; reseal(f) }},
		{"another's tuple", LostDuplicate, func(f, other *Flow) {
			f.tuple[0], f.tuple[1].SrcPort = other.tuple[0], other.tuple[1].SrcPort
			reseal(f)
		}},
		{"another's reply tuple", LostDuplicate, func(f, other *Flow) {
			f.tuple[1], f.tuple[0].DstPort = other.tuple[1], other.tuple[0].DstPort
			reseal(f)
		}},
		{"another's mapping", LostDuplicate, func(f, other *Flow) { f.mapping = other.mapping; reseal(f) }},
		{"another's port", LostDuplicate, func(f, other *Flow) { f.tuple[1].DstPort = other.tuple[1].DstPort; reseal(f) }},
		{"silent for too long", LostExpired, func(f, _ *Flow) { f.seen -= 121 * TicksPerSecond }},
		{"expiring", LostExpired, func(f, _ *Flow) { f.seen = expiring }},
		{"address gone", LostAddress, func(f, _ *Flow) { f.tuple[1].Dst = external2; reseal(f) }},
		{"hairpin by an address gone", LostAddress, func(f, _ *Flow) { f.tuple[0].Dst, f.tuple[1].Src = external2, client+9; reseal(f) }},
		{"interface gone", LostInterface, func(f, _ *Flow) { f.out = 2; reseal(f) }},
		{"no interface", LostInterface, func(f, _ *Flow) { f.in = 255; reseal(f) }},
	} {
		l := newLeft(t, 100, external)
		const now = 121 * TicksPerSecond
		f := l.masquerade(t, udp(client+1, 4000, server, 54), external, 61001, now)
		other := l.masquerade(t, udp(client, 4000, server, 53), external, 61000, now)
		if l.table.ID(other) > l.table.ID(f) {
			f, other = other, f // of two that exclude each other the lower id stays
		}
		c.change(f, other)
		table, report := l.adopted(t, l.copy(), now, external)
		want := Report{Adopted: 1, Mappings: 1, Sources: 1}
		want.Lost[c.want] = 1
		if report != want {
			t.Errorf("%s: %v, want %v", c.name, report, want)
		}
		if all := snapshots(table); len(all) != 1 || all[l.table.ID(other)].Original != other.Tuple(Original) {
			t.Errorf("%s: left %v", c.name, all)
		}
	}
}

// What the flows vouch for is put right.
func TestMended(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(l *left, m *Mapping, f *Flow)
	}{
		{"mapping of another endpoint", func(_ *left, m *Mapping, _ *Flow) { m.inside++ }},
		{"mapping to another port", func(_ *left, m *Mapping, _ *Flow) { m.externalPort++ }},
		{"mapping empty", func(_ *left, m *Mapping, _ *Flow) { *m = Mapping{} }},
		{"source of another", func(l *left, m *Mapping, _ *Flow) { l.table.sources[m.source].addr++ }},
		{"source beyond the end", func(l *left, m *Mapping, _ *Flow) { m.source = 1 << 31 }},
		{"no source", func(l *left, m *Mapping, _ *Flow) { m.source = 0 }},
		{"last packet in the future", func(_ *left, _ *Mapping, f *Flow) { f.seen = 1 << 30 }},
	} {
		l := newLeft(t, 100, external)
		f := l.masquerade(t, udp(client, 4000, server, 53), external, 61000, 100)
		l.masquerade(t, udp(client, 4000, server+1, 53), external, 61000, 100)
		c.change(l, &l.table.mappings[f.mapping], f)
		table, report := l.adopted(t, l.copy(), 100, external)
		if report.Adopted != 2 || report.Mappings != 1 || report.Sources != 1 || report.Dropped() != 0 || report.Mended == 0 {
			t.Errorf("%s: %v", c.name, report)
		}
		w, x := table.Worker(0), table.External(external)
		m := w.FindMapping(packet.ProtoUDP, client, 4000, x)
		if m == nil || m.externalPort != 61000 {
			t.Fatalf("%s: mapping %+v", c.name, m)
		}
		s := &table.sources[m.source]
		if s.addr != client || s.Flows() != 2 || s.External() != external {
			t.Errorf("%s: source %+v", c.name, s)
		}
		if got, _ := w.Find(f.Tuple(Original), 100); got == nil || got.lastSeen() != 100 {
			t.Errorf("%s: flow %+v", c.name, got)
		}
	}
}

// Flows keep their interfaces where those are listed in the same places, and end
// where they are not.
func TestInterfacesListedOtherwise(t *testing.T) {
	for _, c := range []struct {
		ports []string
		stays bool
	}{
		{[]string{"eth1", "eth0", "eth2"}, true},
		{[]string{"eth0", "eth1"}, false},
		{[]string{"eth1"}, false},
		{[]string{"eth1", "eth3"}, false},
	} {
		l := newLeft(t, 100, external)
		l.masquerade(t, udp(client, 4000, server, 53), external, 61000, 100)
		l.cfg.Ports = c.ports
		_, report := l.adopted(t, l.mem, 101, external)
		if (report.Adopted == 1) != c.stays || (report.Lost[LostInterface] == 0) != c.stays {
			t.Errorf("%v: %v", c.ports, report)
		}
		// The new list is what counts from here on.
		r, err := Adopt(l.copy(), len(l.mem), l.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.ports {
			if !r.ports[i] {
				t.Errorf("%v: interface %d was not written down", c.ports, i)
			}
		}
	}
}

// Rebuild can itself be killed at any record: what it leaves is adopted the same.
func TestRebuildInterrupted(t *testing.T) {
	l := newLeft(t, 200, external)
	for i := range uint16(150) {
		l.masquerade(t, udp(client+uint32(i%7), 4000+i%50, server, 53+i), external, 60000+(i%7)*50+i%50, 100)
	}
	before := snapshots(l.table)
	for stop := 0; stop <= 200; stop += 20 {
		mem := l.copy()
		r, err := Adopt(mem, len(mem), l.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Table().AddExternal(NewExternal(external, nil)); err != nil {
			t.Fatal(err)
		}
		r.begin(101)
		for id := 1; id <= stop; id++ {
			r.look(uint32(id))
		}
		table, _ := l.adopted(t, mem, 101, external)
		if diff := cmp.Diff(before, snapshots(table), cmp.AllowUnexported(Tuple{})); diff != "" {
			t.Fatalf("interrupted at %d (-before +after):\n%s", stop, diff)
		}
	}
}

// The line that the log and `status` show.
func TestReportIsOneLine(t *testing.T) {
	r := Report{Adopted: 998, Mappings: 500, Mended: 1}
	r.Lost[LostTorn], r.Lost[LostIncomplete] = 1, 2
	const want = "998 flows with 500 mappings adopted after a crash; ended: 2 half created, 1 torn; 1 records mended"
	if got := r.String(); got != want || r.Dropped() != 3 {
		t.Errorf("%q, %d dropped", got, r.Dropped())
	}
}
