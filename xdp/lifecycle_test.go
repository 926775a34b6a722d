package xdp

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// TestLinkDownAndUp: descriptors that are pending when the link goes down cost
// no system calls meanwhile, and are sent when it is up again.
func TestLinkDownAndUp(t *testing.T) {
	c := newChain(t, 256)
	p := c.g.ports[1]
	if err := c.nsG.SetDown("g1"); err != nil {
		t.Fatal(err)
	}
	if n := c.g.send(t, p, 0, 10, length); n != 10 {
		t.Fatalf("queued %d", n)
	}
	p.Flush() // finds out
	if p.State() != StateDown || p.Pending() != 10 {
		t.Fatalf("state %v, %d pending", p.State(), p.Pending())
	}
	if n := c.g.send(t, p, 10, 10, length); n != 0 {
		t.Errorf("a port that is down took %d frames", n)
	}
	start, deadline := time.Now(), p.tx.probe
	rounds := 0
	for ; time.Since(start) < 50*time.Millisecond; rounds++ {
		p.Flush()
	}
	if p.tx.probe != deadline {
		t.Error("tried again at once")
	}
	if rounds < 1000 {
		t.Errorf("only %d flushes in 50 ms: they do more than look at the clock", rounds)
	}
	if a := audit(t, c.g.u); a.TX != 10 {
		t.Errorf("while down: %+v", a)
	}
	if err := c.nsG.SetUp("g1"); err != nil {
		t.Fatal(err)
	}
	p.SetUp(true)
	p.Flush()
	if got := receive(t, c.b, c.b.ports[0], 10); got != 10 {
		t.Errorf("%d of 10 frames arrived after the link was up", got)
	}
	settle(t, c.g)
	settle(t, c.b)

	// Without a word from anybody the port finds out by itself.
	if err := c.nsG.SetDown("g1"); err != nil {
		t.Fatal(err)
	}
	c.g.send(t, p, 20, 3, length)
	p.Flush()
	if p.State() != StateDown {
		t.Fatalf("state %v", p.State())
	}
	if err := c.nsG.SetUp("g1"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Second); p.State() != StateUp; time.Sleep(time.Millisecond) {
		if p.Flush(); time.Now().After(deadline) {
			t.Fatal("still down")
		}
	}
	p.Flush()
	if got := receive(t, c.b, c.b.ports[0], 3); got != 3 {
		t.Errorf("%d of 3 frames arrived", got)
	}
}

// TestPeerDown: without carrier the kernel drops frame by frame (EBUSY). They
// all come back.
func TestPeerDown(t *testing.T) {
	c := newChain(t, 256)
	if err := c.nsB.SetDown("b0"); err != nil {
		t.Fatal(err)
	}
	p := c.g.ports[1]
	if n := c.g.send(t, p, 0, 40, length); n != 40 {
		t.Fatalf("queued %d", n)
	}
	settle(t, c.g)
	if p.State() == StateGone {
		t.Errorf("state %v", p.State())
	}
	t.Logf("state %v, %d frames wasted", p.State(), p.tx.Wasted())
}

// TestDeviceDeleted deletes a device under traffic: its port is gone without a
// spin or a panic, its frames come back, and the UMEM serves a new device.
func TestDeviceDeleted(t *testing.T) {
	c := newChain(t, 256)
	p := c.g.ports[1]
	for i := range 20 {
		c.g.send(t, p, uint64(i*32), 32, length)
		if i == 10 {
			in(t, c.nsG, func() error {
				l, err := netlink.LinkByName("g1")
				if err != nil {
					return err
				}
				return netlink.LinkDel(l)
			})
		}
		p.Flush()
		audit(t, c.g.u)
	}
	if p.State() != StateGone {
		t.Fatalf("state %v", p.State())
	}
	start := time.Now()
	waiter, err := NewWaiter(WaiterConfig{Ports: c.g.ports, Spin: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	for range 3 {
		waiter.Sleep(20 * time.Millisecond)
	}
	if d := time.Since(start); d < 40*time.Millisecond {
		t.Errorf("three sleeps of 20 ms took %v: a deleted device makes poll spin", d)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if a := audit(t, c.g.u); a.TX != 0 || a.Fill != 256 || a.Strays != 0 {
		t.Errorf("after closing the port: %+v", a)
	}

	cable(t, c.nsG, "g1", c.nsB, "b1", lab.VethOptions{})
	g1 := probe(t, c.nsG, "g1")
	in(t, c.nsG, func() (err error) {
		c.g.ports[1], err = c.g.u.OpenPort(PortConfig{NIC: g1, RX: []int{0}, RingSize: 256})
		return err
	})
	b1 := probe(t, c.nsB, "b1")
	w := open(t, c.nsB, WorkerPlan{{NIC: b1, RX: []int{0}}}, 256)
	redirect(t, c.nsB, b1, w.ports[0])
	c.g.send(t, c.g.ports[1], 0, 7, length)
	c.g.ports[1].Flush()
	if got := receive(t, w, w.ports[0], 7); got != 7 {
		t.Errorf("%d of 7 frames left by the new device", got)
	}
	settle(t, c.g)
}

// TestFirstSocketGone: the socket that registered the UMEM loses its device, and
// a new one shares the UMEM through another.
func TestFirstSocketGone(t *testing.T) {
	c := newChain(t, 256)
	in(t, c.nsG, func() error {
		l, err := netlink.LinkByName("g0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	cable(t, c.nsA, "a1", c.nsG, "g2", lab.VethOptions{})
	g2 := probe(t, c.nsG, "g2")
	in(t, c.nsG, func() error {
		p, err := c.g.u.OpenPort(PortConfig{NIC: g2, RX: []int{0}, RingSize: 256})
		if err == nil {
			c.g.ports = append(c.g.ports, p)
		}
		return err
	})
	a := audit(t, c.g.u)
	if a.Fill != 3*256 {
		t.Errorf("%+v", a)
	}
	if err := c.g.ports[0].Close(); err != nil {
		t.Error(err)
	}
	if a := audit(t, c.g.u); a.Fill != 2*256 {
		t.Errorf("%+v", a)
	}
}

// TestQueueTaken: a queue that somebody holds is refused with the remedy, after
// waiting for it; a queue that is just being let go is had.
func TestQueueTaken(t *testing.T) {
	c := newChain(t, 256)
	g0 := c.g.ports[0].NIC()
	other, err := NewUMEM(UMEMConfig{Frames: 2048, FrameSize: smallFrame})
	if err != nil {
		t.Fatal(err)
	}
	cfg := SocketConfig{NIC: g0, Mode: ModeCopy, RingSize: 256, RX: true, TX: true}
	var s *Socket
	start := time.Now()
	err = c.nsG.Do(func() (err error) {
		s, err = other.Open(cfg)
		return err
	})
	var e *SetupError
	if !errors.As(err, &e) || !errors.Is(err, unix.EBUSY) || e.Interface != "g0" || e.Queue != 0 || e.Remedy == "" {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	if d := time.Since(start); d < time.Second {
		t.Errorf("gave up after %v", d)
	}
	if a := audit(t, other); a.Free != a.Total {
		t.Errorf("after the failure: %+v", a)
	}
	if err := c.g.ports[0].Close(); err != nil {
		t.Error(err)
	}
	in(t, c.nsG, func() (err error) {
		s, err = other.Open(cfg)
		return err
	})
	if err := other.Close(); err == nil {
		t.Error("closed a UMEM under an open socket")
	}
	if err := errors.Join(s.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// TestFramesOfClosedSocketComeBack: what could not be sent before the close is
// free after the queue was bound anew, no earlier.
func TestFramesOfClosedSocketComeBack(t *testing.T) {
	c := newChain(t, 256)
	p := c.g.ports[1]
	if err := c.nsG.SetDown("g1"); err != nil {
		t.Fatal(err)
	}
	c.g.send(t, p, 0, 9, length)
	p.Flush()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if a := audit(t, c.g.u); a.TX != 9 || a.Fill != 256 {
		t.Errorf("after the close: %+v", a)
	}
	if n := c.g.send(t, p, 9, 4, length); n != 0 || p.Receive(make([]Desc, 4)) != 0 || p.State() != StateGone {
		t.Errorf("a closed port took %d frames, state %v", n, p.State())
	}
	p.Flush()
	if err := c.nsG.SetUp("g1"); err != nil {
		t.Fatal(err)
	}
	in(t, c.nsG, func() (err error) {
		c.g.ports[1], err = c.g.u.OpenPort(PortConfig{NIC: p.NIC(), RX: []int{0}, RingSize: 256})
		return err
	})
	if a := audit(t, c.g.u); a.TX != 0 || a.Fill != 512 {
		t.Errorf("after binding anew: %+v", a)
	}
}
