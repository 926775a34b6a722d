package xdp

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

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

// redirector is a program that sends every frame to the socket of the queue that
// it arrived on, and passes it to the kernel where there is none.
type redirector struct {
	sockets *ebpf.Map
	program *ebpf.Program
	link    link.Link
}

func newRedirector(nic *NIC) (_ *redirector, err error) {
	r := new(redirector)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	r.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 16})
	if err != nil {
		return nil, setupError(nic.Name, -1, callMapCreate, err)
	}
	r.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.XDP,
		License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // xdp_md.rx_queue_index
			asm.LoadMapPtr(asm.R1, r.sockets.FD()),
			asm.Mov.Imm(asm.R3, 2), // XDP_PASS
			asm.FnRedirectMap.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, setupError(nic.Name, -1, callProgramLoad, err)
	}
	r.link, err = link.AttachXDP(link.XDPOptions{Program: r.program, Interface: nic.Ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, setupError(nic.Name, -1, callAttach, err)
	}
	return r, nil
}

func (r *redirector) close() {
	if r.link != nil {
		r.link.Close()
	}
	if r.program != nil {
		r.program.Close()
	}
	if r.sockets != nil {
		r.sockets.Close()
	}
}

// redirect steers all frames of a NIC to the sockets of its ports.
func redirect(t *testing.T, n *lab.Namespace, nic *NIC, ports ...*Port) {
	t.Helper()
	in(t, n, func() error {
		r, err := newRedirector(nic)
		if err != nil {
			return err
		}
		t.Cleanup(r.close)
		for _, p := range ports {
			for _, s := range p.Sockets() {
				if !s.Receives() {
					continue
				}
				if err := r.sockets.Put(uint32(s.Queue()), uint32(s.FD())); err != nil {
					return fmt.Errorf("queue %d: %w", s.Queue(), err)
				}
			}
		}
		return nil
	})
}

// attachOnce attaches a program and takes it off again.
func attachOnce(n *lab.Namespace, nic *NIC) error {
	return n.Do(func() error {
		r, err := newRedirector(nic)
		if err != nil {
			return err
		}
		r.close()
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
