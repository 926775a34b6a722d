package fragment

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// model says of a datagram's pieces what pieces says, byte by byte.
type model struct {
	owner [1 << 16]int // which piece has the byte, counted from 1
	all   [][3]int     // from, to, 1 where more follow
	end   int          // -1 while unknown
}

func (m *model) add(from, to int, more bool) (duplicate bool, r verdict.Reason) {
	this := [3]int{from, to, 0}
	if more {
		this[2] = 1
	}
	for _, p := range m.all {
		if p == this {
			return true, verdict.None
		}
		if p[2] == 0 && (to > p[1] || !more) || !more && p[1] > to {
			return false, verdict.FragmentOverlap
		}
	}
	for i := from; i < to; i++ {
		if m.owner[i] != 0 {
			return false, verdict.FragmentOverlap
		}
	}
	if len(m.all) == MaxPieces {
		return false, verdict.TooManyFragments
	}
	m.all = append(m.all, this)
	for i := from; i < to; i++ {
		m.owner[i] = len(m.all)
	}
	if !more {
		m.end = to
	}
	return false, verdict.None
}

func (m *model) complete() bool {
	for i := range m.end {
		if m.owner[i] == 0 {
			return false
		}
	}
	return m.end >= 0
}

// TestPieces: RFC 5722: duplicates, overlaps and completeness as the slow model
// has them.
func TestPieces(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, s := &model{end: -1}, &pieces{}
		unit := rapid.SampledFrom([]int{8, 64, 480}).Draw(rt, "unit")
		for range rapid.IntRange(1, 200).Draw(rt, "fragments") {
			from := unit * rapid.IntRange(0, 131).Draw(rt, "from")
			to := from + unit*rapid.SampledFrom([]int{1, 1, 1, 1, 2, 5}).Draw(rt, "length")
			more := rapid.IntRange(0, 40).Draw(rt, "last") != 0
			if !more && rapid.Bool().Draw(rt, "odd") {
				to -= 3
			}
			wantDuplicate, want := m.add(from, to, more)
			duplicate, got := s.add(uint16(from), uint16(to), more)
			if duplicate != wantDuplicate || got != want || s.complete() != m.complete() {
				rt.Fatalf("%d to %d, more %v: duplicate %v, %v, complete %v; the model says %v, %v, %v",
					from, to, more, duplicate, got, s.complete(), wantDuplicate, want, m.complete())
			}
		}
	})
}

// FuzzPieces: any sequence of fragments leaves the list in order and without an
// overlap.
func FuzzPieces(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 1, 0, 8, 0, 16, 0})
	f.Add([]byte{0, 8, 0, 16, 0, 0, 0, 0, 8, 1, 0, 4, 0, 12, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s pieces
		for ; len(b) >= 5; b = b[5:] {
			from, to := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
			if from >= to {
				continue
			}
			s.add(from, to, b[4]&1 != 0)
			sum := 0
			for i, p := range s.list[:s.n] {
				if p.from >= p.to || i > 0 && s.list[i-1].to > p.from || s.ended && p.to > s.total {
					t.Fatalf("%v", s.list[:s.n])
				}
				sum += int(p.to - p.from)
			}
			if sum != int(s.sum) || s.complete() && s.list[0].from != 0 {
				t.Fatalf("%d bytes, counted as %d: %v", sum, s.sum, s.list[:s.n])
			}
		}
	})
}

// TestStore: datagrams come, wait, move and go; whatever happens, the lists, the
// index and the references agree, and no bound is passed.
func TestStore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := NewExchange(1, [2]uint64{1, 2})
		s := NewStore(x)
		now := conntrack.Tick(100)
		giveUp := func(d *Datagram) {
			for s.Next(d) != nil {
				s.Drop(d)
			}
			s.Remove(d)
		}
		refs := func() (n uint32) {
			for i := range x.slots {
				n += x.slots[i].Load() & refMask
			}
			return n
		}
		events := rapid.IntRange(1, 1500).Draw(rt, "events")
		for event := range events {
			k := Key{Src: rapid.Uint32Range(0, 5).Draw(rt, "src"), ID: rapid.Uint16Range(0, 300).Draw(rt, "id"), Proto: 17}
			hash := x.Hash(k)
			d := s.Find(k, hash)
			switch rapid.IntRange(0, 5).Draw(rt, "event") {
			case 0:
				if d != nil {
					giveUp(d)
				}
			case 1:
				to := Stage(rapid.IntRange(0, int(stages)-1).Draw(rt, "stage"))
				if d == nil || d.Stage == to || d.held > 0 {
					continue
				}
				if old := s.Full(to, k.Src); old != nil {
					giveUp(old)
				}
				s.Move(d, to, now)
			case 2:
				now += conntrack.Tick(rapid.IntRange(0, 3).Draw(rt, "ticks"))
				for d := s.Old(now); d != nil; d = s.Old(now) {
					giveUp(d)
				}
			default:
				x.Acquire(hash, 0)
				if d == nil {
					if old := s.Full(Waiting, k.Src); old != nil {
						giveUp(old)
					}
					d = s.New(k, hash, now)
				}
				if d.Stage == Waiting {
					if v := s.Crowded(d); v != nil && v != d {
						giveUp(v)
					}
					if s.Crowded(d) == nil && !s.Hold(d, 1, []byte{byte(k.ID)}) {
						rt.Fatalf("no room to hold, and nobody to go")
					}
				}
				x.Release(hash)
			}
			if event%64 != 0 {
				continue
			}
			s.audit(rt)
			if n := int(refs()); n != s.count() {
				rt.Fatalf("%d references for %d datagrams", n, s.count())
			}
		}
		s.audit(rt)
	})
}

func (s *Store) count() (n int) {
	for i := range s.lists {
		n += int(s.lists[i].all.n)
	}
	return n
}

// audit holds the lists against each other.
func (s *Store) audit(t *rapid.T) {
	held := 0
	for stage := range s.lists {
		l := &s.lists[stage]
		if l.all.n > stageRoom[stage] {
			t.Fatalf("%d datagrams in stage %d", l.all.n, stage)
		}
		n, of, since := 0, [sources]int{}, conntrack.Tick(0)
		for d := s.at(l.all.oldest); d != nil; d = s.at(d.links[ofStage].newer) {
			if n++; d.Stage != Stage(stage) || d.since < since || s.Find(d.Key, d.hash) != d {
				t.Fatalf("stage %d: %+v", stage, d.Key)
			}
			of[d.source]++
			since = d.since
			held += int(d.held)
			for f, id := d.held, d.heldFirst; f > 0; f, id = f-1, s.hold.frames[id-1].next {
				if b := s.hold.frames[id-1].Bytes(); !bytes.Equal(b, []byte{byte(d.Key.ID)}) {
					t.Fatalf("a held frame became %x", b)
				}
			}
		}
		if n != int(l.all.n) {
			t.Fatalf("stage %d: %d datagrams, counted as %d", stage, n, l.all.n)
		}
		for i, n := range of {
			if n != int(l.sources[i].n) || n > int(stageRoom[stage]/share) {
				t.Fatalf("stage %d, source %d: %d datagrams, counted as %d", stage, i, n, l.sources[i].n)
			}
		}
	}
	free := holdSize - int(s.hold.used)
	for id := s.hold.free; id != 0; id = s.hold.frames[id-1].next {
		free++
	}
	if held != s.Held() || held+free != holdSize {
		t.Fatalf("%d frames held, counted as %d, %d free", held, s.Held(), free)
	}
}

// TestOwners: at every moment one worker has a datagram, and what is handed to it
// finds it the owner: workers race for few datagrams, and nothing is lost.
func TestOwners(t *testing.T) {
	const workers, rounds = 4, 20000
	x := NewExchange(workers, [2]uint64{5, 6})
	var busy [ownerSlots]int32 // who is dealing with a slot; the race detector sees two
	var left, dealt [workers]int
	var wg, producing sync.WaitGroup
	producing.Add(workers)
	done := make(chan struct{})
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			deal := func(hash uint64) {
				busy[hash%ownerSlots] = int32(w)
				if busy[hash%ownerSlots] != int32(w) {
					t.Error("two workers have one datagram")
				}
				dealt[w]++
				x.Release(hash)
			}
			inbox := func() {
				for f := x.Inbox(w).First(); f != nil; f = x.Inbox(w).First() {
					hash := f.Hash()
					if binary.BigEndian.Uint64(f.Bytes()) != hash {
						t.Error("a frame came damaged")
					}
					x.Inbox(w).Done()
					deal(hash)
				}
			}
			var b [8]byte
			for i := range rounds {
				hash := x.Hash(Key{ID: uint16(i % 3)})
				if owner := x.Acquire(hash, w); owner == w {
					deal(hash)
				} else {
					binary.BigEndian.PutUint64(b[:], hash)
					for !x.Inbox(owner).Put(1, hash, b[:]) {
						inbox() // he may wait for room in ours
						runtime.Gosched()
					}
					left[w]++
				}
				inbox()
			}
			producing.Done()
			for {
				inbox()
				select {
				case <-done:
					inbox()
					return
				default:
					runtime.Gosched()
				}
			}
		}()
	}
	producing.Wait()
	close(done)
	wg.Wait()
	total, over := 0, 0
	for w := range workers {
		total += dealt[w]
		over += left[w]
	}
	if total != workers*rounds {
		t.Errorf("%d fragments were dealt with, want %d", total, workers*rounds)
	}
	for i := range x.slots {
		if n := x.slots[i].Load() & refMask; n != 0 {
			t.Errorf("slot %d: %d references are left", i, n)
		}
	}
	if over == 0 {
		t.Log("nothing was handed over: the workers never met")
	}
}

func TestInboxFull(t *testing.T) {
	x := NewExchange(2, [2]uint64{})
	b := x.Inbox(1)
	for round := range 3 {
		for i := range inboxSize {
			if !b.Put(2, uint64(i), []byte{byte(i)}) {
				t.Fatalf("round %d: no room for frame %d", round, i)
			}
		}
		if b.Put(2, 0, nil) || b.Put(2, 0, make([]byte, MaxFrame+1)) {
			t.Fatal("room where there is none")
		}
		for i := range inboxSize {
			f := b.First()
			if f == nil || f.Hash() != uint64(i) || f.In != 2 || !bytes.Equal(f.Bytes(), []byte{byte(i)}) {
				t.Fatalf("round %d, frame %d: %+v", round, i, f)
			}
			b.Done()
		}
		if b.First() != nil {
			t.Fatal("a frame that nobody put in")
		}
	}
	if NewExchange(1, [2]uint64{}).Inbox(0) != nil {
		t.Error("a worker that is alone has an inbox")
	}
}

// TestLend: a later fragment gets what the first one told.
func TestLend(t *testing.T) {
	var d Datagram
	first := packet.Packet{SrcPort: 1, DstPort: 2, ICMPType: 8}
	d.Learn(&first)
	var p packet.Packet
	d.Lend(&p)
	if p != first || !d.SamePorts(&p) {
		t.Errorf("lent %+v", p)
	}
	if p.SrcPort++; d.SamePorts(&p) {
		t.Error("other ports are the same")
	}
}
