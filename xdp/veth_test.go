package xdp

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"sluice/internal/lab"
)

// TestForwardBetweenNICs sends frames through two sockets of one UMEM on two
// devices: each arrives exactly once and unchanged, and no frame of any UMEM is
// lost.
func TestForwardBetweenNICs(t *testing.T) {
	const total = 120_000
	c := newChain(t, 512)
	if s := c.g.ports[0].tx; s.budget != txBatch && s.budget != 256 {
		t.Errorf("a budget of %d frames a kick", s.budget)
	}
	if mode, reason := c.g.ports[0].Mode(); mode != ModeCopy || reason == "" {
		t.Errorf("mode %v (%s)", mode, reason)
	}
	seen := make([]bool, total)
	var sent, got int
	var d [64]Desc
	deadline := time.Now().Add(30 * time.Second)
	for got < total {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d frames arrived, %d sent", got, total, sent)
		}
		if sent-got < 256 { // fewer than any ring holds: nothing may be lost
			sent += c.a.send(t, c.a.ports[0], uint64(sent), min(64, total-sent), length)
		}
		c.a.ports[0].Flush()
		c.g.forward(c.g.ports[0], c.g.ports[1])
		c.g.forward(c.g.ports[1], c.g.ports[0])
		c.g.ports[0].Flush()
		c.g.ports[1].Flush()
		n := c.b.ports[0].Receive(d[:])
		for _, desc := range d[:n] {
			seq, ours := readFrame(t, c.b.u.Frame(desc))
			if !ours {
				continue
			}
			if seq >= total || seen[seq] || int(desc.Len) != length(seq) {
				t.Fatalf("frame %d of %d bytes: sent once with %d", seq, desc.Len, length(seq))
			}
			seen[seq] = true
			got++
		}
		c.b.u.Free(d[:n])
		c.b.ports[0].Flush()
	}
	for _, w := range []*worker{c.a, c.g, c.b} {
		settle(t, w)
	}
	if s, err := c.g.ports[0].Sockets()[0].Statistics(); err != nil || s.RXRingFull+s.RXDropped+s.RXInvalid+s.TXInvalid != 0 {
		t.Errorf("statistics %+v, %v", s, err)
	}
}

// TestForwardConcurrently has a goroutine for every worker, each waiting
// adaptively: a lost wake-up or a torn ring would stall or lose frames.
func TestForwardConcurrently(t *testing.T) {
	const total = 100_000
	c := newChain(t, 512)
	var got atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	run := func(w *worker, step func() bool) *Waiter {
		waiter := newWaiter(t, WaiterConfig{Ports: w.ports, Yield: true})
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				worked := step()
				for _, p := range w.ports {
					p.Flush()
				}
				waiter.Wait(worked, 5*time.Second) // far longer than the test may stall
			}
		})
		return waiter
	}
	sent := 0
	source := run(c.a, func() bool {
		n := 0
		if sent < total && int64(sent)-got.Load() < 256 {
			n = c.a.send(t, c.a.ports[0], uint64(sent), min(64, total-sent), length)
			sent += n
		}
		return n > 0
	})
	gateway := run(c.g, func() bool {
		return c.g.forward(c.g.ports[0], c.g.ports[1])+c.g.forward(c.g.ports[1], c.g.ports[0]) > 0
	})
	seen := make([]bool, total)
	finished := make(chan struct{})
	sink := run(c.b, func() bool {
		var d [64]Desc
		n := c.b.ports[0].Receive(d[:])
		for _, desc := range d[:n] {
			if seq, ours := readFrame(t, c.b.u.Frame(desc)); ours && seq < total && !seen[seq] {
				seen[seq] = true
				if got.Add(1) == total {
					close(finished)
				}
			}
		}
		c.b.u.Free(d[:n])
		if n > 0 {
			source.Wake()
		}
		return n > 0
	})
	select {
	case <-finished:
	case <-time.After(60 * time.Second):
		t.Errorf("%d of %d frames arrived", got.Load(), total)
	}
	close(done)
	for _, w := range []*Waiter{source, gateway, sink} {
		w.Wake()
	}
	wg.Wait()
	for _, w := range []*worker{c.a, c.g, c.b} {
		settle(t, w)
	}
}

// TestQueueCounts plans NICs of 4 and 2 queues for two workers and sends frames
// to every queue.
func TestQueueCounts(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{Queues: 4})
	cable(t, nsA, "a1", nsG, "g1", lab.VethOptions{Queues: 2})
	g0, g1 := probe(t, nsG, "g0"), probe(t, nsG, "g1")
	if g0.RXQueues != 4 || g0.TXQueues != 4 || g1.RXQueues != 2 || g1.TXQueues != 2 {
		t.Fatalf("probed %d/%d and %d/%d queues", g0.RXQueues, g0.TXQueues, g1.RXQueues, g1.TXQueues)
	}
	plans, err := Plan([]*NIC{g0, g1}, 8)
	if err != nil || len(plans) != 2 {
		t.Fatalf("%d workers, %v", len(plans), err)
	}
	workers := []*worker{open(t, nsG, plans[0], 256), open(t, nsG, plans[1], 256)}
	redirect(t, nsG, g0, workers[0].ports[0], workers[1].ports[0])
	redirect(t, nsG, g1, workers[0].ports[1], workers[1].ports[1])

	// A veth's frames arrive on the queue that they were sent on.
	for i, name := range []string{"a0", "a1"} {
		nic := probe(t, nsA, name)
		for q := range nic.TXQueues {
			sender := open(t, nsA, WorkerPlan{{NIC: nic, TX: q}}, 256)
			if sent := sender.send(t, sender.ports[0], uint64(q), 5, length); sent != 5 {
				t.Fatalf("%s queue %d: queued %d", name, q, sent)
			}
			sender.ports[0].Flush()
			settle(t, sender)
			w := workers[q%2]
			if got := receive(t, w, w.ports[i], 5); got != 5 {
				t.Errorf("%s queue %d: worker %d received %d", name, q, q%2, got)
			}
		}
	}
	// Every worker sends on its own queue of every NIC.
	for w, worker := range workers {
		for i, p := range worker.ports {
			if p.tx.Queue() != w || p.NIC() != []*NIC{g0, g1}[i] {
				t.Errorf("worker %d sends on %s queue %d", w, p.NIC().Name, p.tx.Queue())
			}
		}
		settle(t, worker)
	}
}

// TestLargeFrames: the largest MTU that a veth takes needs large frames, and gets
// them.
func TestLargeFrames(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{MTU: maxVethMTU})
	a0, g0 := probe(t, nsA, "a0"), probe(t, nsG, "g0")
	a := open(t, nsA, WorkerPlan{{NIC: a0, RX: []int{0}}}, 64)
	g := open(t, nsG, WorkerPlan{{NIC: g0, RX: []int{0}}}, 64)
	if a.u.FrameSize() != largeFrame || g.u.FrameSize() != largeFrame {
		t.Fatalf("frames of %d and %d bytes", a.u.FrameSize(), g.u.FrameSize())
	}
	redirect(t, nsG, g0, g.ports[0])
	full := func(uint64) int { return maxVethMTU + 14 }
	if n := a.send(t, a.ports[0], 0, 20, full); n != 20 {
		t.Fatalf("queued %d", n)
	}
	settle(t, a)
	if got := receive(t, g, g.ports[0], 20); got != 20 {
		t.Errorf("%d of 20 frames arrived", got)
	}
	settle(t, g)
}

// TestTransmitOnlyQueue: where a NIC has more TX than RX queues, a worker can
// have a socket that only sends.
func TestTransmitOnlyQueue(t *testing.T) {
	nsG, nsB := namespace(t, "g"), namespace(t, "b")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "g0", 1, 2
	in(t, nsG, func() error {
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNumRxQueues, veth.PeerNumTxQueues = "b0", 2, 1
		if err := errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth)); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("b0")
		if err != nil {
			return err
		}
		return nsB.Do(func() error { // the descriptor of this thread's namespace is B's
			ns, err := netns.Get()
			if err != nil {
				return err
			}
			defer ns.Close()
			return nsG.Netlink().LinkSetNsFd(peer, int(ns))
		})
	})
	if err := errors.Join(nsB.SetUp("b0"), nsG.SetUp("g0")); err != nil {
		t.Fatal(err)
	}
	g0, b0 := probe(t, nsG, "g0"), probe(t, nsB, "b0")
	plans, err := Plan([]*NIC{g0}, 2)
	if err != nil || len(plans) != 2 || g0.RXQueues != 1 {
		t.Fatalf("%d workers on %+v, %v", len(plans), *g0, err)
	}
	first, second := open(t, nsG, plans[0], 64), open(t, nsG, plans[1], 64)
	if s := second.ports[0].Sockets(); len(s) != 1 || s[0].Receives() || s[0].Queue() != 1 {
		t.Fatalf("the second worker has %d sockets", len(s))
	}
	sink := open(t, nsB, WorkerPlan{{NIC: b0, RX: []int{0, 1}}}, 64)
	redirect(t, nsB, b0, sink.ports[0])
	for _, w := range []*worker{first, second} {
		if n := w.send(t, w.ports[0], 0, 20, length); n != 20 {
			t.Errorf("queued %d", n)
		}
		if n := w.ports[0].Receive(make([]Desc, 4)); n != 0 {
			t.Errorf("received %d", n)
		}
		w.ports[0].Flush()
		settle(t, w)
	}
	if got := receive(t, sink, sink.ports[0], 40); got != 40 {
		t.Errorf("%d of 40 frames arrived", got)
	}
}

// TestHotPathAllocatesNothing counts allocations over real rings.
func TestHotPathAllocatesNothing(t *testing.T) {
	c := newChain(t, 256)
	waiter, err := NewWaiter(WaiterConfig{Ports: c.g.ports})
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	round := func(work func()) float64 {
		return testing.AllocsPerRun(200, func() {
			c.a.send(t, c.a.ports[0], 1, 32, length)
			c.a.ports[0].Flush()
			work()
			var d [64]Desc
			c.b.u.Free(d[:c.b.ports[0].Receive(d[:])])
			c.b.ports[0].Flush()
		})
	}
	moved := 0
	if n := round(func() {
		moved += c.g.forward(c.g.ports[0], c.g.ports[1])
		c.g.ports[0].Flush()
		c.g.ports[1].Flush()
		waiter.Wait(true, time.Millisecond)
		waiter.Wait(false, time.Millisecond)
		waiter.Wait(false, time.Millisecond)
		waiter.Wake()
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
	if moved == 0 {
		t.Error("nothing was forwarded meanwhile")
	}
	if err := c.nsG.SetDown("g1"); err != nil {
		t.Fatal(err)
	}
	if n := round(func() {
		c.g.forward(c.g.ports[0], c.g.ports[1])
		c.g.ports[1].SetUp(true)
		c.g.ports[0].Flush()
		c.g.ports[1].Flush()
	}); n != 0 {
		t.Errorf("%v allocations a round while the link is down", n)
	}
}
