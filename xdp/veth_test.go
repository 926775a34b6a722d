package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// namespace makes a network namespace that goes with the test.
func namespace(t *testing.T, name string) *lab.Namespace {
	t.Helper()
	lab.RequireRoot(t)
	n, err := lab.NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// in runs f inside a namespace and fails the test on an error.
func in(t *testing.T, n *lab.Namespace, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

// cable is a veth pair between two namespaces.
func cable(t *testing.T, a *lab.Namespace, aName string, b *lab.Namespace, bName string, o lab.VethOptions) {
	t.Helper()
	if err := lab.Veth(a, aName, b, bName, o); err != nil {
		t.Fatal(err)
	}
}

// probe looks a NIC up inside a namespace.
func probe(t *testing.T, n *lab.Namespace, name string) (nic *NIC) {
	t.Helper()
	in(t, n, func() (err error) {
		nic, err = Probe(name)
		return err
	})
	return nic
}

// redirect attaches a program to a port that sends every frame to the socket of
// the queue that it arrived on, and passes it to the kernel where there is none.
func redirect(t *testing.T, n *lab.Namespace, nic *NIC, ports ...*Port) {
	t.Helper()
	in(t, n, func() error {
		sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 16})
		if err != nil {
			return err
		}
		t.Cleanup(func() { sockets.Close() })
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:    ebpf.XDP,
			License: "Apache-2.0",
			Instructions: asm.Instructions{
				asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // xdp_md.rx_queue_index
				asm.LoadMapPtr(asm.R1, sockets.FD()),
				asm.Mov.Imm(asm.R3, 2), // XDP_PASS
				asm.FnRedirectMap.Call(),
				asm.Return(),
			},
		})
		if err != nil {
			return err
		}
		t.Cleanup(func() { prog.Close() })
		for _, p := range ports {
			for _, s := range p.Sockets() {
				if !s.Receives() {
					continue
				}
				if err := sockets.Put(uint32(s.Queue()), uint32(s.FD())); err != nil {
					return fmt.Errorf("queue %d: %w", s.Queue(), err)
				}
			}
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: nic.Ifindex, Flags: link.XDPDriverMode})
		if err != nil {
			return setupError(nic.Name, -1, callAttach, err)
		}
		t.Cleanup(func() { l.Close() })
		return nil
	})
}

// worker is one UMEM and its ports in a namespace.
type worker struct {
	u     *UMEM
	ports []*Port
}

// open opens a worker's ports.
func open(t *testing.T, n *lab.Namespace, plan WorkerPlan, ringSize int) *worker {
	t.Helper()
	w := &worker{}
	in(t, n, func() (err error) {
		w.u, w.ports, err = OpenPorts(plan, PortsConfig{RingSize: ringSize, Spare: 256, HugePages: true})
		return err
	})
	t.Cleanup(func() {
		if err := ClosePorts(w.u, w.ports); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

// forward moves one burst from one port to another and frees what does not fit.
func (w *worker) forward(from, to *Port) int {
	var d [64]Desc
	n := from.Receive(d[:])
	sent := to.Transmit(d[:n])
	w.u.Free(d[sent:n])
	return n
}

// frame layout of the tests: Ethernet header of a local experimental type
// (IEEE 802, 0x88b5), then a sequence number and bytes that follow from it.
const etherTypeTest = 0x88b5

func writeFrame(f []byte, dst, src [6]byte, seq uint64) {
	copy(f, dst[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], etherTypeTest)
	binary.BigEndian.PutUint64(f[14:], seq)
	for i := 22; i < len(f); i++ {
		f[i] = byte(seq) + byte(i)
	}
}

// readFrame returns the sequence number of a frame that writeFrame wrote, and
// fails the test where one of its bytes changed.
func readFrame(t *testing.T, f []byte) (seq uint64, ours bool) {
	t.Helper()
	if len(f) < 22 || binary.BigEndian.Uint16(f[12:]) != etherTypeTest {
		return 0, false
	}
	seq = binary.BigEndian.Uint64(f[14:])
	for i := 22; i < len(f); i++ {
		if f[i] != byte(seq)+byte(i) {
			t.Fatalf("frame %d: byte %d of %d is %#x", seq, i, len(f), f[i])
		}
	}
	return seq, true
}

// send writes n frames, of sequence numbers from seq on, and queues them.
func (w *worker) send(t *testing.T, p *Port, seq uint64, n int, length func(seq uint64) int) int {
	t.Helper()
	var d [64]Desc
	n = w.u.Allocate(d[:min(n, len(d))])
	for i := range d[:n] {
		d[i].Len = uint32(length(seq + uint64(i)))
		writeFrame(w.u.Frame(d[i]), [6]byte{2, 0, 0, 0, 0, 2}, p.NIC().MAC, seq+uint64(i))
	}
	sent := p.Transmit(d[:n])
	w.u.Free(d[sent:n])
	return sent
}

// chain is A a0 — g0 G g1 — b0 B, with a worker in each namespace.
type chain struct {
	nsA, nsG, nsB *lab.Namespace
	a, g, b       *worker
}

func newChain(t *testing.T, ringSize int) *chain {
	t.Helper()
	c := &chain{nsA: namespace(t, "a"), nsG: namespace(t, "g"), nsB: namespace(t, "b")}
	cable(t, c.nsA, "a0", c.nsG, "g0", lab.VethOptions{})
	cable(t, c.nsG, "g1", c.nsB, "b0", lab.VethOptions{})
	a0, b0 := probe(t, c.nsA, "a0"), probe(t, c.nsB, "b0")
	g0, g1 := probe(t, c.nsG, "g0"), probe(t, c.nsG, "g1")
	one := func(nics ...*NIC) WorkerPlan {
		plans, err := Plan(nics, 1)
		if err != nil {
			t.Fatal(err)
		}
		return plans[0]
	}
	c.a = open(t, c.nsA, one(a0), ringSize)
	c.g = open(t, c.nsG, one(g0, g1), ringSize)
	c.b = open(t, c.nsB, one(b0), ringSize)
	redirect(t, c.nsG, g0, c.g.ports[0])
	redirect(t, c.nsG, g1, c.g.ports[1])
	redirect(t, c.nsB, b0, c.b.ports[0])
	return c
}

// length spreads frames over all sizes that an MTU of 1500 allows.
func length(seq uint64) int { return 60 + int(seq*37%1455) }

// TestForwardBetweenNICs sends frames through two sockets of one UMEM on two
// devices: each arrives exactly once and unchanged, and no frame of any UMEM is
// lost.
func TestForwardBetweenNICs(t *testing.T) {
	const total = 120_000
	c := newChain(t, 512)
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

// settle waits until nothing is queued for sending any more, and audits.
func settle(t *testing.T, w *worker) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Second)
	for {
		for _, p := range w.ports {
			p.Flush()
		}
		a := audit(t, w.u)
		if a.Strays != 0 || a.RX != 0 || a.Held != 0 {
			t.Fatalf("after traffic: %+v", a)
		}
		if a.TX == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still to be sent: %+v", a)
		}
		time.Sleep(time.Millisecond)
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

// receive waits for n test frames on a port, frees them and returns how many
// came within a second.
func receive(t *testing.T, w *worker, p *Port, n int) int {
	t.Helper()
	waiter, err := NewWaiter(WaiterConfig{Ports: []*Port{p}})
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	got := 0
	var d [64]Desc
	for deadline := time.Now().Add(time.Second); got < n && time.Now().Before(deadline); {
		k := p.Receive(d[:])
		for _, desc := range d[:k] {
			if _, ours := readFrame(t, w.u.Frame(desc)); ours {
				got++
			}
		}
		w.u.Free(d[:k])
		p.Flush()
		waiter.Wait(k > 0, 10*time.Millisecond)
	}
	return got
}

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

// TestHotPathAllocatesNothing counts allocations over real rings.
func TestHotPathAllocatesNothing(t *testing.T) {
	c := newChain(t, 256)
	waiter, err := NewWaiter(WaiterConfig{Ports: c.g.ports})
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	round := func(from *worker, work func()) float64 {
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
	if n := round(c.a, func() {
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
	if n := round(c.a, func() {
		c.g.forward(c.g.ports[0], c.g.ports[1])
		c.g.ports[1].SetUp(true)
		c.g.ports[0].Flush()
		c.g.ports[1].Flush()
	}); n != 0 {
		t.Errorf("%v allocations a round while the link is down", n)
	}
}

// TestProbeVeth checks what is found out about a veth whose peer is elsewhere.
func TestProbeVeth(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{MTU: 1400, MACB: mac})
	n := probe(t, nsG, "g0")
	t.Logf("%+v", *n)
	if n.Name != "g0" || n.Driver != "veth" || !n.Virtual || n.MTU != 1400 || !n.Up || n.Ifindex == 0 || n.MAC != [6]byte(mac) {
		t.Errorf("%+v", *n)
	}
	if n.FeaturesKnown && (!n.NativeXDP || n.ZeroCopy) {
		t.Errorf("features of a veth: %+v", *n)
	}
}
