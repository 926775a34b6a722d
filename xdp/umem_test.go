package xdp

import (
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// fataler is what testing.TB and rapid.T have in common here.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// audit checks the account of a UMEM against the place of every frame.
func audit(tb fataler, u *UMEM) Accounting {
	tb.Helper()
	var want Accounting
	for _, p := range u.place {
		switch {
		case p == placeFree:
			want.Free++
		case p == placeHeld:
			want.Held++
		case p == placeReceived:
			want.RX++
		case (p-placeSockets)%2 == 0:
			want.Fill++
		default:
			want.TX++
		}
	}
	want.Total, want.Strays = len(u.place), u.strays
	got := u.Accounting()
	if got != want {
		tb.Fatalf("account %+v, but the frames are %+v", got, want)
	}
	if !got.Balanced() {
		tb.Fatalf("unbalanced: %+v", got)
	}
	seen := make(map[uint32]bool)
	for _, f := range u.free {
		if seen[f] || u.place[f] != placeFree {
			tb.Fatalf("frame %d is in the free list twice, or while elsewhere", f)
		}
		seen[f] = true
	}
	return got
}

// heapUMEM is a UMEM over ordinary memory.
func heapUMEM(frames int) *UMEM {
	return newUMEM(make([]byte, frames*smallFrame), smallFrame, PagesNormal)
}

// heapSocket is a socket of u whose kernel side the test plays.
func heapSocket(u *UMEM, size int) (s *Socket, rx, tx *heapRing[Desc], fill, completion *heapRing[uint64]) {
	return heapSocketWith(u, size, size)
}

// heapSocketWith is heapSocket with room for a backlog.
func heapSocketWith(u *UMEM, size, backlog int) (s *Socket, rx, tx *heapRing[Desc], fill, completion *heapRing[uint64]) {
	rx, tx = newHeapRing[Desc](backlog, 0), newHeapRing[Desc](size, 0)
	fill, completion = newHeapRing[uint64](size, 0), newHeapRing[uint64](size, 0)
	s = &Socket{
		umem: u, nic: &NIC{Name: "heap0"}, fd: -1, budget: txBatch,
		rx: rx.end(), tx: tx.end(), fill: fill.end(), completion: completion.end(),
		fillLevel: size, fillMost: backlog, fillBatch: 1,
	}
	u.adopt(s)
	return s, rx, tx, fill, completion
}

// TestFrameLifeAgainstModel plays caller and kernel at random, right and wrong,
// over two sockets of one UMEM: whatever they do, every frame stays in exactly
// one place, and what nobody had a right to give is refused.
func TestFrameLifeAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := heapUMEM(rapid.IntRange(1, 40).Draw(t, "frames"))
		type kernel struct {
			s                *Socket
			rx, tx           ring[Desc]
			fill, completion ring[uint64]
		}
		var sockets []*kernel
		for i := range 2 {
			s, rx, tx, fill, completion := heapSocketWith(u, 8, 8<<i)
			sockets = append(sockets, &kernel{s, rx.end(), tx.end(), fill.end(), completion.end()})
		}
		one := func(t *rapid.T) *kernel { return sockets[rapid.IntRange(0, 1).Draw(t, "socket")] }

		var mine []Desc // what the caller has a right to
		var buf [16]Desc
		var refused uint64 // what ought to have been refused
		take := func(t *rapid.T) (d Desc, ok bool) {
			if len(mine) == 0 {
				return Desc{}, false
			}
			i := rapid.IntRange(0, len(mine)-1).Draw(t, "which")
			d = mine[i]
			mine = append(mine[:i], mine[i+1:]...)
			d.Addr = d.Addr&^u.mask + rapid.Uint64Range(0, u.mask).Draw(t, "offset")
			return d, true
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				n := u.Allocate(buf[:rapid.IntRange(0, 8).Draw(t, "n")])
				mine = append(mine, buf[:n]...)
			},
			"free": func(t *rapid.T) {
				if d, ok := take(t); ok {
					u.Free([]Desc{d, d}) // the second time is one too many
					refused++
				}
			},
			"free nonsense": func(t *rapid.T) {
				u.Free([]Desc{{Addr: rapid.Uint64Min(uint64(len(u.area))).Draw(t, "address")}})
				refused++
			},
			"transmit": func(t *rapid.T) {
				k := one(t)
				d, ok := take(t)
				if !ok {
					return
				}
				d.Len = rapid.Uint32Range(0, smallFrame).Draw(t, "length")
				if !u.whole(d) {
					refused++
				}
				before := u.strays
				if k.s.Transmit([]Desc{d}) == 0 {
					if u.strays != before {
						t.Fatal("counted what it did not take")
					}
					if !u.whole(d) {
						refused--
					}
					mine = append(mine, d)
				}
			},
			"kernel sends": func(t *rapid.T) {
				k := one(t)
				if k.tx.ready(1) == 1 && k.completion.room(1) == 1 {
					k.completion.put(0, k.tx.get(0).Addr)
					k.completion.submit(1)
					k.tx.release(1)
				}
			},
			"kernel completes nonsense": func(t *rapid.T) {
				k := one(t)
				if k.s.sending > 0 && k.completion.room(1) == 1 {
					k.completion.put(0, rapid.Uint64Min(uint64(len(u.area))).Draw(t, "address"))
					k.completion.submit(1)
					k.s.Reap()
					refused++
				}
			},
			"reap":   func(t *rapid.T) { one(t).s.Reap() },
			"refill": func(t *rapid.T) { one(t).s.Refill() },
			"kernel receives": func(t *rapid.T) {
				k := one(t)
				if k.fill.ready(1) == 1 && k.rx.room(1) == 1 {
					k.rx.put(0, Desc{Addr: k.fill.get(0) + kernelHeadroom, Len: 60})
					k.rx.submit(1)
					k.fill.release(1)
				}
			},
			"kernel receives nonsense": func(t *rapid.T) {
				k := one(t)
				if k.rx.room(1) == 1 {
					k.rx.put(0, Desc{Addr: rapid.Uint64Min(uint64(len(u.area))).Draw(t, "address"), Len: 60})
					k.rx.submit(1)
					refused++
				}
			},
			"receive": func(t *rapid.T) {
				n := one(t).s.Receive(buf[:])
				mine = append(mine, buf[:n]...)
			},
			"": func(t *rapid.T) {
				a := audit(t, u)
				for _, k := range sockets {
					if k.s.filled > k.s.fillMost {
						t.Fatalf("%d frames to receive into, more than %d", k.s.filled, k.s.fillMost)
					}
				}
				if a.RX+a.Held != len(mine) {
					t.Fatalf("the caller has %d frames, the account says %d", len(mine), a.RX+a.Held)
				}
			},
		})
		for _, k := range sockets {
			mine = append(mine, buf[:k.s.Receive(buf[:])]...)
			k.s.Reap()
		}
		if u.strays != refused {
			t.Fatalf("%d strays counted, want %d", u.strays, refused)
		}
	})
}

// TestReceiveRefusesBadLength: a frame whose bytes leave its chunk comes back to
// the free list instead of reaching anybody.
func TestReceiveRefusesBadLength(t *testing.T) {
	for _, d := range []Desc{
		{Addr: 100, Len: smallFrame},
		{Addr: smallFrame - 1, Len: 2},
		{Addr: 0, Len: 1<<32 - 1},
		{Addr: 5, Len: 0},
	} {
		u := heapUMEM(1)
		s, rx, _, _, _ := heapSocket(u, 4)
		if s.Refill() != 1 {
			t.Fatal("no frame on the fill ring")
		}
		kernel := rx.end()
		kernel.room(1)
		kernel.put(0, d)
		kernel.submit(1)
		var buf [4]Desc
		if n := s.Receive(buf[:]); n != 0 {
			t.Errorf("%+v was received", d)
		}
		if a := audit(t, u); a.Free != 1 || a.Strays != 1 {
			t.Errorf("%+v: %+v", d, a)
		}
	}
}

func TestNewUMEM(t *testing.T) {
	for _, huge := range []bool{false, true} {
		u, err := NewUMEM(UMEMConfig{Frames: 1000, FrameSize: smallFrame, HugePages: huge})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("huge pages %v: %v", huge, u.Pages())
		if got := u.Accounting(); got.Total < 1000 || got.Free != got.Total || len(u.Bytes()) != got.Total*smallFrame {
			t.Errorf("%+v with %d bytes", got, len(u.Bytes()))
		}
		if !huge && u.Pages() != PagesNormal {
			t.Errorf("not asked for, but got %v", u.Pages())
		}
		if a := uintptr(unsafe.Pointer(&u.Bytes()[0])); a%hugePage != 0 {
			t.Errorf("area at %#x is not aligned to a huge page", a)
		}
		var d [1]Desc
		if u.Allocate(d[:]) != 1 || d[0].Addr != kernelHeadroom {
			t.Errorf("first frame %+v", d[0])
		}
		d[0].Len = 100
		if f := u.Frame(d[0]); len(f) != 100 || cap(f) != smallFrame-kernelHeadroom {
			t.Errorf("frame of %d bytes, capacity %d", len(f), cap(f))
		}
		u.Free(d[:])
		audit(t, u)
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNewUMEMRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  UMEMConfig
		want string
	}{
		{UMEMConfig{Frames: 1024, FrameSize: 1024}, "frame size 1024"},
		{UMEMConfig{Frames: 1024, FrameSize: 8192}, "frame size 8192"},
		{UMEMConfig{Frames: 0, FrameSize: 2048}, "0 frames"},
		{UMEMConfig{Frames: maxFrames + 1, FrameSize: 2048}, "it must be 1 to"},
	} {
		if _, err := NewUMEM(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.cfg, err, c.want)
		}
	}
}
