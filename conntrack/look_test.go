package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestLook: the control plane finds what a worker made, takes and gives back
// references to it, and does not hold the epoch back once it is done.
func TestLook(t *testing.T) {
	cfg := Config{MaxFlows: 64, Workers: 1, Timeouts: DefaultTimeouts()}
	table, err := New(make([]byte, Size(cfg)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	x := NewExternal(0xcb007101, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	w := table.Worker(0)
	source, _ := w.Source(0x0a000005)
	m, _, _, r := w.NewMapping(packet.ProtoUDP, 0x0a000005, 4000, x, 4000, source, 1)
	if r != verdict.None {
		t.Fatal(r)
	}
	w.Quiesce()
	table.Look(func(c *Worker) {
		if c == w || c.Table() != table {
			t.Error("not the control plane's worker")
		}
		if c.FindSource(0x0a000006) != nil {
			t.Error("a source that nobody made")
		}
		s := c.FindSource(0x0a000005)
		if s != source {
			t.Fatalf("source %p, want %p", s, source)
		}
		c.ReleaseSource(s)
		found := c.FindMapping(packet.ProtoUDP, 0x0a000005, 4000, x)
		if found != m {
			t.Fatalf("mapping %p, want %p", found, m)
		}
		c.Release(found)
	})
	if n := table.Count(); n.Mappings != 1 || n.Sources != 1 {
		t.Errorf("after the look: %+v", n)
	}
	w.Release(m)
	for range 4 {
		w.Quiesce()
	}
	table.Look(func(c *Worker) {
		if c.FindSource(0x0a000005) != nil || c.FindMapping(packet.ProtoUDP, 0x0a000005, 4000, x) != nil {
			t.Error("found after its end")
		}
	})
	if n := table.Count(); n.Mappings != 0 || n.Sources != 0 {
		t.Errorf("at the end: %+v", n)
	}
}

func TestReserved(t *testing.T) {
	x := NewExternal(1, nil)
	var ports [portWords]uint64
	ports[5000/64] = 1 << (5000 % 64)
	x.Reserve(ByHost, packet.ProtoTCP, &ports)
	if !x.Reserved(packet.ProtoTCP, 5000) || x.Reserved(packet.ProtoTCP, 5001) || x.Reserved(packet.ProtoUDP, 5000) || x.Reserved(47, 5000) {
		t.Error("not what was reserved")
	}
}
