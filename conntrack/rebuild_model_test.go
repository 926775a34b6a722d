package conntrack

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// history drives a table at random through everything that it can do, and what a
// process can be killed in the middle of.
type history struct {
	*left
	now Tick
}

func (h *history) tuple(t *rapid.T) Tuple {
	port := rapid.Uint16Range(4000, 4003)
	o := Tuple{
		Src: client + rapid.Uint32Range(0, 3).Draw(t, "client"), Dst: server + rapid.Uint32Range(0, 2).Draw(t, "server"),
		SrcPort: port.Draw(t, "sport"), DstPort: port.Draw(t, "dport"),
		Proto: rapid.SampledFrom([]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP}).Draw(t, "proto"),
	}
	if o.Proto == packet.ProtoICMP {
		o.DstPort = 0
	}
	return o
}

func (h *history) ext(t *rapid.T) uint32 {
	return rapid.SampledFrom([]uint32{external, external2}).Draw(t, "external")
}

// forward begins a flow that is not translated.
func (h *history) forward(t *rapid.T) {
	nf := plain(h.tuple(t))
	nf.TCPFlags, nf.OutPort = packet.TCPSyn, 1
	nf.Inside = rapid.Bool().Draw(t, "inside") // and so counted to a source
	h.w.Create(nf, h.now)
}

// translate begins a masqueraded flow, or a mapping that never gets one.
func (h *history) translate(t *rapid.T) {
	o := h.tuple(t)
	m := h.mapping(t, o, h.ext(t), rapid.Uint16Range(61000, 61015).Draw(t, "port"), h.now)
	if m == nil || rapid.IntRange(0, 7).Draw(t, "then") == 0 {
		return // the port was taken; or the process ends before the flow is there
	}
	target := o
	if rapid.IntRange(0, 3).Draw(t, "hairpin") == 0 {
		o.Dst, o.DstPort = h.ext(t), 61000
	}
	nf := &NewFlow{Original: o, Reply: target.Reverse(), Kind: Masquerade, Mapping: m, TCPFlags: packet.TCPSyn, OutPort: 1}
	nf.Reply.Dst, nf.Reply.DstPort = m.External()
	if _, _, existed, r := h.w.Create(nf, h.now); existed || r != verdict.None {
		h.w.Release(m)
	}
}

// half leaves a flow without its reply entry.
func (h *history) half(t *rapid.T) {
	nf := plain(h.tuple(t))
	id := h.w.flows.take()
	if id == 0 {
		return
	}
	h.w.fill(id, nf, h.now)
	if f, _ := h.w.Find(nf.Original, h.now); f != nil || h.w.table.find(nf.Original.key(), h.w.table.seed.hash(nf.Original.key()), kindOriginal) != 0 {
		h.w.discard(id) // one that we would wait for: ourselves
		return
	}
	if _, out := h.w.attachOriginal(id, nf); out != inserted {
		t.Fatal(out)
	}
}

// use sends packets over a flow, or ends it.
func (h *history) use(t *rapid.T) {
	all := snapshots(h.table)
	if len(all) == 0 {
		return
	}
	var ids []uint32
	for id := range uint32(len(h.table.flows)) {
		if _, ok := all[id]; ok {
			ids = append(ids, id)
		}
	}
	f := &h.table.flows[rapid.SampledFrom(ids).Draw(t, "flow")]
	if rapid.IntRange(0, 4).Draw(t, "end") == 0 {
		h.w.Retire(f, verdict.Filtered)
		return
	}
	flags := []uint8{packet.TCPSyn, packet.TCPAck, packet.TCPSyn | packet.TCPAck, packet.TCPFin | packet.TCPAck, packet.TCPRst}
	d := Direction(rapid.IntRange(0, 1).Draw(t, "direction"))
	h.w.Update(f, d, &packet.Packet{Proto: f.tuple[0].Proto, TCPFlags: rapid.SampledFrom(flags).Draw(t, "flags")})
	f.Touch(d, 100, h.now)
	f.SetNextHop(d, 77)
}

func (h *history) pass(t *rapid.T) {
	h.now += Tick(rapid.IntRange(1, 200).Draw(t, "time"))
	h.w.Sweep(16, h.now)
	h.w.Quiesce()
}

// Whatever the table went through, and whatever was half done when the process
// was killed: every flow that was complete, whose addresses are still there and
// that was heard of lately is adopted as it was, nothing else is, and everything
// fits together, then and when all of it has ended.
func TestAdoptModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{left: newLeft(t, 64, external, external2), now: 1000}
		h.table.SetSourceLimit(rapid.SampledFrom([]int{0, 5, 1000}).Draw(t, "limit"))
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 19).Draw(t, "step") {
			case 0, 1, 2, 3:
				h.forward(t)
			case 4, 5, 6, 7, 8, 9:
				h.translate(t)
			case 10:
				h.half(t)
			case 11, 12:
				h.pass(t)
			default:
				h.use(t)
			}
		}
		externals := []uint32{external, external2}[:rapid.IntRange(0, 2).Draw(t, "externals")]
		later := h.now + Tick(rapid.SampledFrom([]int{0, 1, 700, 2000}).Draw(t, "later"))
		want, lost := map[uint32]Snapshot{}, [losses]int{}
		for i := range h.table.flows { // those that nobody aborted meanwhile
			if status(h.table.flows[i].status.Load()).phase() == phaseBuilding {
				lost[LostIncomplete]++
			}
		}
		for id, s := range snapshots(h.table) {
			switch {
			case later-s.LastSeen > s.Timeout:
				lost[LostExpired]++
			case !there(&s, externals):
				lost[LostAddress]++
			default:
				want[id] = s
			}
		}
		table, report := h.adopted(t, h.copy(), later, externals...)
		if diff := cmp.Diff(want, snapshots(table), cmp.AllowUnexported(Tuple{})); diff != "" {
			t.Fatalf("flows (-want +got):\n%s", diff)
		}
		if report.Adopted != len(want) || report.Lost != lost || report.Mended != 0 {
			t.Fatalf("report %+v, want %d adopted, lost %v", report, len(want), lost)
		}
		w := table.Worker(0)
		for id := range want {
			w.Retire(&table.flows[id], verdict.Filtered)
		}
		if err := table.Verify(); err != nil {
			t.Fatal(err)
		}
		if c := table.Count(); c.Flows+c.Mappings+c.Sources != 0 {
			t.Fatalf("all flows ended; counts %+v", c)
		}
	})
}

// there reports whether the external addresses that a flow needs are among those
// given: the one that it is masqueraded to, and that of its peer.
func there(s *Snapshot, externals []uint32) bool {
	has := func(addr uint32) bool {
		for _, x := range externals {
			if x == addr {
				return true
			}
		}
		return addr != external && addr != external2
	}
	return has(s.Reply.Dst) && has(s.Original.Dst)
}
