package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// portless is a flow of GRE, translated by address.
func portless(inside, peer uint32) *NewFlow {
	original := Tuple{Src: inside, Dst: peer, Proto: packet.ProtoGRE}
	return &NewFlow{Original: original, Reply: Tuple{Src: peer, Dst: external, Proto: packet.ProtoGRE}, Kind: Masquerade}
}

// TestPeers: a slot is counted from before a flow is live until it has ended, by
// whoever makes it; the reply's tuple is the claim.
func TestPeers(t *testing.T) {
	table := newTable(t, 100, 1)
	slots := make([]uint32, PeerSlots)
	table.SharePeers(slots, 7)
	w := table.Worker(0)
	sum := func() (n uint32) {
		for _, s := range slots {
			n += s
		}
		return n
	}
	if err := table.AddExternal(NewExternal(external, nil)); err != nil {
		t.Fatal(err)
	}
	f := mustCreate(t, w, portless(client, server), 100)
	if !table.Peered(external, server, packet.ProtoGRE) || sum() != 1 {
		t.Fatalf("%d slots are counted", sum())
	}
	if _, _, _, r := w.Create(portless(client+1, server), 100); r != verdict.ReplyTupleTaken || sum() != 1 {
		t.Fatalf("a second inside host got %v, %d counted", r, sum())
	}
	mustCreate(t, w, plain(Tuple{Src: client, Dst: server + 1, Proto: packet.ProtoGRE}), 100)
	mustCreate(t, w, plain(udp(client, 1, server, 2)), 100)
	if sum() != 1 {
		t.Errorf("flows that are not translated are counted: %d", sum())
	}
	if err := table.Verify(); err != nil {
		t.Error(err)
	}
	w.Retire(f, verdict.None)
	if sum() != 0 || table.Peered(external, server, packet.ProtoGRE) {
		t.Errorf("%d slots are counted when the flow has ended", sum())
	}
}

// TestStaticPorts: what a static forward has is held and never given out, and a
// mapping that had it keeps it, to and beyond the forward's end.
func TestStaticPorts(t *testing.T) {
	table := newTable(t, 100, 1)
	x := NewExternal(external, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	w := table.Worker(0)
	bit := func(port uint16) bool { return x.held[port/64]&(1<<(port%64)) != 0 }
	m, _, taken, r := w.NewMapping(packet.ProtoTCP, client, 80, x, 80, nil, 1)
	if taken || r != verdict.None {
		t.Fatal(taken, r)
	}
	var ports [portWords]uint64
	ports[80/64] |= 1 << (80 % 64)
	ports[81/64] |= 1 << (81 % 64)
	x.SetStatic(packet.ProtoTCP, &ports)
	if !bit(80) || !bit(81) {
		t.Fatal("static ports are not held")
	}
	if p, ok := x.NextFree(packet.ProtoTCP, 80, 80, 81); ok {
		t.Errorf("port %d is free", p)
	}
	if _, _, taken, _ := w.NewMapping(packet.ProtoTCP, client, 81, x, 81, nil, 1); !taken {
		t.Error("a static port was given to a mapping")
	}
	if err := table.verify(1); err != nil {
		t.Error(err)
	}
	w.Release(m)
	if !bit(80) {
		t.Error("the end of a mapping took a static port's bit")
	}
	m, _, _, _ = w.NewMapping(packet.ProtoTCP, client, 90, x, 90, nil, 1)
	ports[90/64] |= 1 << (90 % 64)
	x.SetStatic(packet.ProtoTCP, &ports)
	x.SetStatic(packet.ProtoTCP, &[portWords]uint64{})
	if bit(80) || bit(81) || !bit(90) {
		t.Errorf("without forwards, held: 80 %v, 81 %v, mapped 90 %v", bit(80), bit(81), bit(90))
	}
	w.Release(m)
	if err := table.Verify(); err != nil {
		t.Error(err)
	}
}
