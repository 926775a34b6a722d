package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// flowsOf is how many flows an inside address is counted for.
func flowsOf(w *Worker, addr uint32) int {
	s := w.FindSource(addr)
	if s == nil {
		return 0
	}
	defer w.ReleaseSource(s)
	return s.Flows()
}

// RFC 6888 REQ-4, REQ-5: the limit is one for all that a source has begun, with a
// mapping or without, and holds on to nothing when that has ended. What others begin,
// or nobody inside, is not counted.
func TestSourceLimitWithoutMapping(t *testing.T) {
	l := newLeft(t, 256, external)
	l.table.SetSourceLimit(4)
	begin := func(port uint16, inside bool) (*Flow, verdict.Reason) {
		nf := plain(udp(client, port, server, 53))
		nf.Inside = inside
		f, _, _, r := l.w.Create(nf, 1000)
		return f, r
	}
	var flows []*Flow
	for port := range uint16(3) {
		f, r := begin(port, true)
		if r != verdict.None {
			t.Fatal(r)
		}
		flows = append(flows, f)
	}
	flows = append(flows, l.masquerade(t, udp(client, 100, server, 53), external, 61000, 1000))
	if n := flowsOf(l.w, client); n != 4 {
		t.Errorf("%d flows are counted, want 4", n)
	}
	if _, r := begin(10, true); r != verdict.SourceLimit {
		t.Errorf("one more: %v", r)
	}
	m := l.mapping(t, udp(client, 100, server, 54), external, 61000, 1000)
	if _, _, _, r := l.w.Create(&NewFlow{Original: udp(client, 100, server, 54), Reply: udp(server, 54, external, 61000), Kind: Masquerade, Mapping: m}, 1000); r != verdict.SourceLimit {
		t.Errorf("one more by a mapping: %v", r)
	}
	l.w.Release(m)
	if f, r := begin(1, true); f != flows[1] || r != verdict.None {
		t.Errorf("one that it has: %v, %v", f, r)
	}
	if _, r := begin(11, false); r != verdict.None {
		t.Errorf("what did not begin inside: %v", r)
	}
	if err := l.table.Verify(); err != nil {
		t.Error(err)
	}
	// A restart counts the same.
	table, _ := l.adopted(t, l.copy(), 1000, external)
	if n := flowsOf(table.Worker(0), client); n != 4 {
		t.Errorf("%d flows are counted after a restart, want 4", n)
	}
	for i, f := range flows {
		l.w.Retire(f, verdict.Filtered)
		if n := flowsOf(l.w, client); n != len(flows)-1-i {
			t.Errorf("%d flows are counted, want %d", n, len(flows)-1-i)
		}
	}
	if c := l.table.Count(); c.Sources != 0 {
		t.Errorf("%d sources are left", c.Sources)
	}
	l.table.SetSourceLimit(0)
	if _, r := begin(12, true); r != verdict.None || l.table.Count().Sources != 0 {
		t.Errorf("without a limit: %v, %d sources", r, l.table.Count().Sources)
	}
	if err := l.table.Verify(); err != nil {
		t.Error(err)
	}
}

// What makes a TCP connection begin anew leaves the count as it is, and a limit that
// goes or comes does not confuse it.
func TestSourceLimitComesAndGoes(t *testing.T) {
	l := newLeft(t, 256)
	nf := plain(udp(client, 1, server, 80))
	nf.Original.Proto, nf.Reply.Proto = packet.ProtoTCP, packet.ProtoTCP
	nf.Inside, nf.TCPFlags = true, packet.TCPSyn
	before, _, _, _ := l.w.Create(nf, 1000) // not counted
	l.table.SetSourceLimit(2)
	counted := *nf
	counted.Original.SrcPort, counted.Reply.DstPort = 2, 2
	f, _, _, r := l.w.Create(&counted, 1000)
	if r != verdict.None || flowsOf(l.w, client) != 1 {
		t.Fatalf("%v, %d counted", r, flowsOf(l.w, client))
	}
	for _, flags := range []uint8{packet.TCPSyn, packet.TCPRst, packet.TCPSyn} {
		l.w.Update(f, Original, &packet.Packet{Proto: packet.ProtoTCP, TCPFlags: flags, Seq: 100, SegmentLength: 1})
	}
	l.table.SetSourceLimit(0)
	l.w.Retire(before, verdict.Filtered)
	if n := flowsOf(l.w, client); n != 1 {
		t.Errorf("%d are counted, want 1", n)
	}
	l.w.Retire(f, verdict.Filtered)
	if err := l.table.Verify(); err != nil || l.table.Count().Sources != 0 {
		t.Errorf("%v, %d sources", err, l.table.Count().Sources)
	}
}
