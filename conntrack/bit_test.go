package conntrack

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"sluice/internal/packet"
)

// TestFreeClearsBitFirst: a port whose word says that it is free has no bit any more:
// were the bit cleared after, it could be that of whoever claims the port meanwhile.
// Somebody looks at both all the time while the port is freed.
func TestFreeClearsBitFirst(t *testing.T) {
	threads(t, 2)
	const port, id, rounds = 5000, 7, 1_000_000 / (1 + 9*raceFactor)
	x := NewExternal(external, nil)
	space, _ := portSpace(packet.ProtoUDP)
	var phase atomic.Uint32 // odd while the port is freed
	var done atomic.Bool
	var watching sync.WaitGroup
	var seen atomic.Uint32
	watching.Go(func() {
		for !done.Load() {
			began := phase.Load()
			free := x.ports[space][port].Load() == 0
			held := atomic.LoadUint64(&x.held[space*portWords+port/64])&(1<<(port%64)) != 0
			if began%2 == 0 || phase.Load() != began {
				continue
			}
			seen.Add(1)
			if free && held {
				t.Error("a port is free and has its bit")
				return
			}
		}
	})
	for n := 0; n < rounds || seen.Load() < 100_000 && n < 20*rounds; n++ { // however busy the machine is
		if !x.claim(space, port, id) {
			t.Fatal("the port is not to be had")
		}
		phase.Add(1)
		x.free(space, port, id)
		phase.Add(1)
	}
	done.Store(true)
	watching.Wait()
	if seen.Load() == 0 {
		t.Error("nobody looked")
	}
}

// TestBitGoesBeforePort is the same at one moment: the bits' memory cannot be
// touched, so that to free the port stops where its bit is cleared. The port must not
// be free by then.
func TestBitGoesBeforePort(t *testing.T) {
	const port, id = 5000, 7
	memory, err := syscall.Mmap(-1, 0, HeldWords*8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Munmap(memory); err != nil {
			t.Error(err)
		}
	}()
	// A mapping begins with a page, which is aligned for words.
	x := NewExternal(external, unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(memory))), HeldWords))
	space, _ := portSpace(packet.ProtoUDP)
	if !x.claim(space, port, id) {
		t.Fatal("the port is not to be had")
	}
	if err := syscall.Mprotect(memory, syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if recover() == nil {
				t.Error("the port was freed without its bit")
			}
		}()
		x.free(space, port, id)
	}()
	if got := x.ports[space][port].Load(); got != id {
		t.Errorf("the port has the mapping %d while its bit is not cleared yet, want %d", got, id)
	}
	if err := syscall.Mprotect(memory, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	x.free(space, port, id)
	if got := x.ports[space][port].Load(); got != 0 || x.held[space*portWords+port/64]&(1<<(port%64)) != 0 {
		t.Errorf("freed, and the port has the mapping %d", got)
	}
}
