package conntrack

import (
	"encoding/binary"
	"errors"
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// damaged is the memory of a table with all kinds of flows, some of them ended,
// for the fuzzer to damage.
func damaged(t testing.TB) *left {
	l := newLeft(t, 64, external, external2)
	for i := range uint16(24) {
		inside := udp(client+uint32(i%3), 4000+i%5, server, 53+i)
		inside.Proto = [...]uint8{packet.ProtoUDP, packet.ProtoTCP, packet.ProtoICMP}[i%3]
		if i%4 == 0 {
			l.w.Create(plain(inside), 100)
			continue
		}
		f := l.masquerade(t, inside, external+uint32(i%2), 61000+i%3*5+i%5, 100)
		if i%5 == 0 {
			l.w.Retire(f, verdict.Filtered)
		}
	}
	return l
}

// FuzzAdopt changes the bytes of a table, cuts it, and adopts it: each record of
// three bytes in data moves on by the first two, as a 16-bit number, and changes
// the byte there. Never a panic; what is adopted fits together, is sealed, and
// can be used and ended like any other flow.
func FuzzAdopt(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, 0, 1}, uint16(0))                       // magic
	f.Add([]byte{0, 8, 1}, uint16(0))                       // version
	f.Add([]byte{0, 16, 1}, uint16(0))                      // seed
	f.Add([]byte{0, 72, 255}, uint16(0))                    // check sum
	f.Add([]byte{0, 88, 1, 0, 8, 1, 0, 1, 9}, uint16(0))    // clean mark, interfaces
	f.Add([]byte{}, uint16(1))                              // truncated
	f.Add([]byte{}, uint16(65535))                          // truncated to less than a header
	f.Add([]byte{16, 40, 1, 1, 0, 2, 1, 0, 4}, uint16(0))   // index and flows
	f.Add([]byte{20, 0, 0x10, 8, 0, 7, 8, 0, 3}, uint16(0)) // flows, mappings
	base := damaged(f)
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		mem, at := base.copy(), 0
		for ; len(data) >= 3; data = data[3:] {
			at = (at + int(binary.BigEndian.Uint16(data))) % len(mem)
			mem[at] ^= data[2]
		}
		r, err := Adopt(mem, max(0, len(mem)-int(cut)), base.cfg)
		if err != nil {
			if r != nil || errors.Is(err, ErrNoTable) != (headerOf(mem).magic == 0 && int(cut) <= len(mem)-512) {
				t.Fatalf("%v, %v", r, err)
			}
			return
		}
		for _, addr := range []uint32{external, external2} {
			if err := r.Table().AddExternal(NewExternal(addr, nil)); err != nil {
				t.Fatal(err)
			}
		}
		report := r.Rebuild(200)
		useAll(t, r.Table(), report)
	})
}

// useAll checks an adopted table, then lives on with it: every flow is found by
// both its tuples, the free records can be used, and nothing is left when all has
// ended.
func useAll(t *testing.T, table *Table, report Report) {
	t.Helper()
	if err := table.Verify(); err != nil {
		t.Fatalf("%v\n%v", report, err)
	}
	w := table.Worker(0)
	all := snapshots(table)
	if len(all) != report.Adopted {
		t.Fatalf("%d flows; %v", len(all), report)
	}
	for id, s := range all {
		for _, key := range []Tuple{s.Original, s.Reply} {
			if f, _ := w.Find(key, 200); f == nil || table.ID(f) != id {
				t.Fatalf("flow %d is not found by %v", id, key)
			}
		}
	}
	for i := range uint16(80) {
		f, _, _, r := w.Create(plain(udp(client+200, i, server, 53)), 200)
		if full := len(all)+int(i) >= 64; (r == verdict.FlowTableFull) != full {
			t.Fatalf("flow %d after %d adopted ones: %v %v", i, len(all), f, r)
		}
	}
	var c Cursor
	table.Each(&c, func(s Snapshot) bool {
		w.Retire(&table.flows[s.ID], verdict.Filtered)
		return true
	})
	if err := table.Verify(); err != nil {
		t.Fatal(err)
	}
	if c := table.Count(); c.Flows+c.Mappings+c.Sources != 0 {
		t.Fatalf("all flows ended; counts %+v", c)
	}
}
