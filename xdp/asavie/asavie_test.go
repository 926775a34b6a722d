package asavie

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/internal/lab"
	"sluice/xdp"
)

// TestForward passes frames of all lengths through, many times what the rings
// hold: each arrives once, in order and unchanged, and no staged frame is lost.
func TestForward(t *testing.T) {
	const total = 40_000
	c := newChain(t)
	for i, seq := range c.pass(0, total) {
		if seq != uint32(i) {
			t.Fatalf("frame %d came in place of %d", seq, i)
		}
	}
	c.balanced()
	s := c.ports[1].Sockets()[0]
	if mode, reason := s.Mode(); mode != xdp.ModeCopy || !strings.Contains(reason, "veth") {
		t.Errorf("mode %v (%s)", mode, reason)
	}
	if n := s.Traffic().TXPackets; n != total {
		t.Errorf("%d frames counted as sent", n)
	}
	if l := s.RingLevels(); l.Fill.Size != ringSize || l.Fill.Used == 0 || l.TX.Used != 0 || l.Completion.Used != 0 {
		t.Errorf("ring levels %+v", l)
	}
	if k, err := s.Statistics(); err != nil || k.TXInvalid != 0 || k.TXRingEmpty == 0 {
		t.Errorf("statistics %+v, %v", k, err)
	}
	if n := c.ports[1].Wasted(); n != 0 {
		t.Errorf("%d frames wasted", n)
	}
}

// TestReflect is the one-armed gateway: what comes in leaves by the same NIC.
func TestReflect(t *testing.T) {
	const total = 5000
	c := newChain(t)
	deadline := time.Now().Add(20 * time.Second)
	for sent, got := uint32(0), uint32(0); got < total; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d frames came back", got, total)
		}
		if sent-got < 128 {
			sent += uint32(c.a.send(sent, int(min(64, total-sent))))
		}
		c.forward(c.ports[0], c.ports[0])
		c.ports[0].Flush()
		c.a.receive(t, func(seq uint32) {
			if seq != got {
				t.Fatalf("frame %d came back in place of %d", seq, got)
			}
			got++
		})
	}
	c.balanced()
}

// TestTransmitManyAtOnce: all that was taken arrives, although one kick sends 32
// frames; a port whose link is down takes none.
func TestTransmitManyAtOnce(t *testing.T) {
	c := newChain(t)
	c.ports[1].SetUp(false)
	var d [200]xdp.Desc
	n := c.frames.Allocate(d[:])
	for i := range n {
		b := c.frames.Frame(d[i])[:length(uint32(i))]
		writeFrame(b, uint32(i))
		d[i].Len = uint32(len(b))
	}
	if sent := c.ports[1].Transmit(d[:n]); sent != 0 {
		t.Errorf("a port whose link is down took %d frames", sent)
	}
	c.ports[1].SetUp(true)
	if sent := c.ports[1].Transmit(d[:n]); sent != n {
		t.Errorf("took %d of %d frames", sent, n)
	}
	c.ports[1].Flush()
	if p := c.ports[1].Pending(); p != 0 {
		t.Errorf("%d frames are pending", p)
	}
	got := 0
	for deadline := time.Now().Add(5 * time.Second); got < n && time.Now().Before(deadline); {
		c.b.receive(t, func(uint32) { got++ })
	}
	if got != n {
		t.Errorf("%d of %d frames arrived", got, n)
	}
	c.balanced()
}

// reopen opens a port anew. The kernel lets go of a closed socket's queue in its own
// time, which on a busy machine is longer than Reopen waits: its caller tries again.
func (c *chain) reopen(port int) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := c.nsG.Do(func() error { return c.ports[port].Reopen(c.ports[port].NIC()) })
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "device or resource busy") || time.Now().After(deadline) {
			c.t.Fatal(err)
		}
	}
}

// TestLinkDownUnderTraffic: the library panics with ENETDOWN. That ends the
// socket with an error, harms no other, and the port goes on when it is opened
// anew, as often as it happens, with nothing left behind.
func TestLinkDownUnderTraffic(t *testing.T) {
	c := newChain(t)
	next := uint32(len(c.pass(0, 500)))
	mapped := len(rings(t))
	for range 5 {
		c.must(c.nsG.SetDown("g1"))
		deadline := time.Now().Add(5 * time.Second)
		for c.ports[1].Up() {
			if time.Now().After(deadline) {
				t.Fatal("the port sends on a link that is down")
			}
			c.a.send(next, 8) // lost, so the number is used again
			c.forward(c.ports[0], c.ports[1])
			c.ports[1].Flush()
		}
		if err := c.ports[1].Err(); err == nil || !strings.Contains(err.Error(), "g1 queue 0: driver asavie: ") || !strings.Contains(err.Error(), "errno=100") {
			t.Fatalf("the reason is %v", err)
		}
		select {
		case <-c.failed:
		default:
			t.Error("nobody was told")
		}
		if c.ports[1].Wasted() == 0 {
			t.Error("frames in the ring of a socket that failed are not counted as wasted")
		}
		if c.ports[0].Err() != nil {
			t.Errorf("the other port: %v", c.ports[0].Err())
		}
		c.must(c.ports[1].Close())
		c.drain()
		c.must(c.nsG.SetUp("g1"))
		c.reopen(1)
		c.connect(c.ports[1])
		if err := c.ports[1].Err(); err != nil || !c.ports[1].Up() {
			t.Errorf("a port opened anew: %v, up %v", err, c.ports[1].Up())
		}
		c.pass(next, 500)
		next += 500
	}
	c.balanced()
	if n := len(rings(t)); n != mapped {
		t.Errorf("rings of %d sockets are mapped, %d were", n, mapped)
	}
}

// drain takes the frames that are under way to nowhere.
func (c *chain) drain() {
	for c.forward(c.ports[0], c.ports[1]) > 0 || c.ports[0].Sockets()[0].RingLevels().RX.Used > 0 {
	}
	c.b.receive(c.t, func(uint32) {})
}

// rings are the sockets with rings mapped.
func rings(t *testing.T) map[uint64][]mapping {
	t.Helper()
	m, err := ringMappings()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestQueueIsFreeAfterClose: the library's Close alone would leave it taken.
func TestQueueIsFreeAfterClose(t *testing.T) {
	ns, far := namespace(t, "g"), namespace(t, "a")
	if err := lab.Veth(ns, "g0", far, "a0", lab.VethOptions{}); err != nil {
		t.Fatal(err)
	}
	nic := probe(t, ns, "g0")
	before := rings(t)
	for range 3 {
		_, ports := open(t, ns, xdp.WorkerPlan{{NIC: nic, RX: []int{0}}}, nil)
		if err := errors.Join(ports[0].Close(), ports[0].Close()); err != nil {
			t.Error(err)
		}
		if n := ports[0].Receive(make([]xdp.Desc, 4)); n != 0 || ports[0].Up() || ports[0].Pending() != 0 || len(ports[0].Descriptors()) != 0 {
			t.Error("a closed port is not")
		}
	}
	open(t, ns, xdp.WorkerPlan{{NIC: nic, RX: []int{0}}}, nil)
	err := ns.Do(func() error {
		_, _, err := OpenPorts(xdp.WorkerPlan{{NIC: nic, RX: []int{0}}}, xdp.PortsConfig{RingSize: 64}, nil)
		return err
	})
	var setup *xdp.SetupError
	if !errors.Is(err, unix.EBUSY) || !errors.As(err, &setup) || setup.Interface != "g0" || setup.Remedy == "" {
		t.Errorf("a queue that is taken: %v", err)
	}
	if n := len(rings(t)) - len(before); n != 1 {
		t.Errorf("rings of %d sockets are mapped while one is open", n)
	}
}

// TestBrokenRing: an address outside the UMEM, on which the library panics, ends
// the socket and not the process. The test plays the kernel, in the ring's memory.
func TestBrokenRing(t *testing.T) {
	const seq = 7
	c := newChain(t)
	s := c.ports[0].Sockets()[0]
	c.a.send(seq, 1)
	for deadline := time.Now().Add(5 * time.Second); s.RingLevels().RX.Used == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing arrived")
		}
	}
	inode, err := inodeOf(s.FD())
	c.must(err)
	memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	c.must(err)
	defer memory.Close()
	spoiled := 0
	for _, m := range rings(t)[inode] {
		// A struct xdp_desc is an address, a length and options.
		ring := make([]byte, m.end-m.start)
		_, err := memory.ReadAt(ring, int64(m.start))
		c.must(err)
		for i := 8; i < len(ring); i += 8 {
			if binary.NativeEndian.Uint64(ring[i:]) == uint64(length(seq)) {
				_, err := memory.WriteAt(binary.NativeEndian.AppendUint64(nil, 1<<40), int64(m.start)+int64(i)-8)
				c.must(err)
				spoiled++
			}
		}
	}
	if spoiled == 0 {
		t.Fatal("the descriptor is not in the ring")
	}
	if n := c.forward(c.ports[0], c.ports[1]); n != 0 {
		t.Errorf("%d frames were forwarded", n)
	}
	if err := c.ports[0].Err(); err == nil || !strings.Contains(err.Error(), "receive: runtime error: index out of range") {
		t.Errorf("the reason is %v", err)
	}
	if c.ports[0].Up() || c.ports[0].Receive(make([]xdp.Desc, 4)) != 0 {
		t.Error("a socket that failed goes on")
	}
	c.balanced()
}

// TestHotPathAllocatesNothing counts allocations over real rings.
func TestHotPathAllocatesNothing(t *testing.T) {
	c := newChain(t)
	waiter, err := xdp.NewWaiter(xdp.WaiterConfig{})
	c.must(err)
	defer waiter.Close()
	waiter.Watch([]xdp.Waitable{c.ports[0], c.ports[1]})
	moved := 0
	if n := testing.AllocsPerRun(300, func() {
		c.a.send(0, 32)
		waiter.Sleep(time.Second)
		moved += c.forward(c.ports[0], c.ports[1])
		c.ports[0].Flush()
		c.ports[1].Flush()
		c.b.receive(t, func(uint32) {})
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
	if moved < 300*32 {
		t.Errorf("%d frames were forwarded meanwhile", moved)
	}
}

// TestWaiterWakesOnFrame: a frame ends the sleep of a worker on this driver.
func TestWaiterWakesOnFrame(t *testing.T) {
	c := newChain(t)
	waiter, err := xdp.NewWaiter(xdp.WaiterConfig{Spin: -1})
	c.must(err)
	defer waiter.Close()
	waiter.Watch([]xdp.Waitable{c.ports[0], c.ports[1]})
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		time.Sleep(20 * time.Millisecond) // most likely it sleeps by then; either way it must end
		c.a.send(0, 1)
	})
	start := time.Now()
	for c.ports[0].Sockets()[0].RingLevels().RX.Used == 0 {
		waiter.Sleep(10 * time.Second)
		if time.Since(start) > 9*time.Second {
			t.Fatal("the frame did not end the sleep")
		}
	}
}

func TestOtherArchitectures(t *testing.T) {
	if err := checkArch("arm64"); err == nil || !strings.Contains(err.Error(), "driver: native") {
		t.Errorf("arm64: %v", err)
	}
	if err := checkArch("amd64"); err != nil {
		t.Error(err)
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]mapping{
		"7f1c00000000-7f1c00002000 rw-s 100000000 00:08 4711                       socket:[4711]": {0x7f1c00000000, 0x7f1c00002000},
		"7f1c00000000-7f1c00002000 rw-s 00000000 00:08 4711                       /dev/zero":      {},
		"7f1c00002000-7f1c00000000 rw-s 00000000 00:08 4711                       socket:[4711]":  {},
		"7f1c00000000 rw-s 00000000 00:08 4711 socket:[4711]":                                     {},
		"7f1c00000000-7f1c00002000 rw-p 00000000 00:00 0":                                         {},
		"": {},
	} {
		inode, m, ok := parseMapping(line)
		if ok != (want != mapping{}) || m != want || ok && inode != 4711 {
			t.Errorf("%q: %d, %x, %v", line, inode, m, ok)
		}
	}
}

func TestErrorsByTheirWords(t *testing.T) {
	nic := &xdp.NIC{Name: "eth1"}
	err := openError(nic, 3, errors.New("syscall.Bind SockaddrXDP failed: "+unix.EBUSY.Error()))
	if !errors.Is(err, unix.EBUSY) || err.Remedy == "" || !strings.HasPrefix(err.Error(), "eth1 queue 3: driver asavie: ") {
		t.Errorf("%v", err)
	}
	if err := openError(nic, 0, os.ErrClosed); !errors.Is(err, os.ErrClosed) || err.Remedy != "" {
		t.Errorf("%v", err)
	}
}
