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
func namespace(t testing.TB, name string) *lab.Namespace {
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
func in(t testing.TB, n *lab.Namespace, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

// cable is a veth pair between two namespaces.
func cable(t testing.TB, a *lab.Namespace, aName string, b *lab.Namespace, bName string, o lab.VethOptions) {
	t.Helper()
	if err := lab.Veth(a, aName, b, bName, o); err != nil {
		t.Fatal(err)
	}
}

// probe looks a NIC up inside a namespace.
func probe(t testing.TB, n *lab.Namespace, name string) (nic *NIC) {
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
func redirect(t testing.TB, n *lab.Namespace, nic *NIC, ports ...*Port) {
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
func open(t testing.TB, n *lab.Namespace, plan WorkerPlan, ringSize int) *worker {
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
func readFrame(t testing.TB, f []byte) (seq uint64, ours bool) {
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
func (w *worker) send(t testing.TB, p *Port, seq uint64, n int, length func(seq uint64) int) int {
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

func newChain(t testing.TB, ringSize int) *chain {
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

// settle waits until nothing is queued for sending any more, and audits.
func settle(t testing.TB, w *worker) {
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

// receive waits for n test frames on a port, frees them and returns how many
// came within a second.
func receive(t testing.TB, w *worker, p *Port, n int) int {
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
