package asavie

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"sluice/internal/lab"
	"sluice/xdp"
)

// chain is three namespaces in a row, A, G and B, with the driver in the middle
// and package xdp's own sockets at both ends.
type chain struct {
	t          testing.TB
	nsA, nsG   *lab.Namespace
	a, b       *end
	frames     *xdp.UMEM // G's staging area
	ports      []*Port   // G's: towards A, towards B
	redirector []*redirector
	failed     chan struct{}
}

// end is a host at an end of the chain.
type end struct {
	u    *xdp.UMEM
	port *xdp.Port
}

const ringSize = 256

func newChain(t testing.TB) *chain {
	t.Helper()
	c := &chain{t: t, nsA: namespace(t, "a"), nsG: namespace(t, "g"), failed: make(chan struct{}, 1)}
	nsB := namespace(t, "b")
	c.must(lab.Veth(c.nsA, "a0", c.nsG, "g0", lab.VethOptions{}))
	c.must(lab.Veth(c.nsG, "g1", nsB, "b0", lab.VethOptions{}))
	c.a, c.b = c.newEnd(c.nsA, "a0"), c.newEnd(nsB, "b0")
	plan := xdp.WorkerPlan{{NIC: probe(t, c.nsG, "g0"), RX: []int{0}}, {NIC: probe(t, c.nsG, "g1"), RX: []int{0}}}
	c.frames, c.ports = open(t, c.nsG, plan, c.failed)
	for _, p := range c.ports {
		c.redirector = append(c.redirector, newRedirector(t, c.nsG, p.NIC()))
		c.connect(p)
	}
	return c
}

func (c *chain) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// connect puts a port's sockets into the program's map.
func (c *chain) connect(p *Port) {
	c.t.Helper()
	for i := range c.ports {
		if c.ports[i] != p {
			continue
		}
		for _, s := range p.Sockets() {
			c.must(c.redirector[i].sockets.Put(uint32(s.Queue()), uint32(s.FD())))
		}
	}
}

// newEnd makes a host's only NIC its own driver's.
func (c *chain) newEnd(ns *lab.Namespace, name string) *end {
	c.t.Helper()
	nic, e := probe(c.t, ns, name), &end{}
	var ports []*xdp.Port
	c.must(ns.Do(func() (err error) {
		e.u, ports, err = xdp.OpenPorts(xdp.WorkerPlan{{NIC: nic, RX: []int{0}}}, xdp.PortsConfig{RingSize: ringSize, Spare: ringSize})
		return err
	}))
	e.port = ports[0]
	c.t.Cleanup(func() { xdp.ClosePorts(e.u, ports) })
	r := newRedirector(c.t, ns, nic)
	c.must(r.sockets.Put(uint32(0), uint32(e.port.Sockets()[0].FD())))
	return e
}

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

func probe(t testing.TB, n *lab.Namespace, name string) (nic *xdp.NIC) {
	t.Helper()
	if err := n.Do(func() (err error) {
		nic, err = xdp.Probe(name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return nic
}

func open(t testing.TB, n *lab.Namespace, plan xdp.WorkerPlan, failed chan<- struct{}) (u *xdp.UMEM, ports []*Port) {
	t.Helper()
	if err := n.Do(func() (err error) {
		u, ports, err = OpenPorts(plan, xdp.PortsConfig{RingSize: ringSize, Spare: 64}, failed)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ClosePorts(u, ports); err != nil {
			t.Error(err)
		}
	})
	return u, ports
}

// redirector is a program that sends every frame to the socket of its queue, and
// passes it to the kernel where there is none.
type redirector struct{ sockets *ebpf.Map }

func newRedirector(t testing.TB, n *lab.Namespace, nic *xdp.NIC) *redirector {
	t.Helper()
	var r redirector
	if err := n.Do(func() (err error) {
		r.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 4})
		if err != nil {
			return err
		}
		t.Cleanup(func() { r.sockets.Close() })
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "Apache-2.0",
			Instructions: asm.Instructions{
				asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // xdp_md.rx_queue_index
				asm.LoadMapPtr(asm.R1, r.sockets.FD()),
				asm.Mov.Imm(asm.R3, 2), // XDP_PASS
				asm.FnRedirectMap.Call(),
				asm.Return(),
			},
		})
		if err != nil {
			return err
		}
		defer program.Close() // the link keeps it
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: nic.Ifindex, Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return &r
}

// marker tells the test's frames from the kernel's neighbour discovery.
const marker = 0x88b5 // IEEE 802 local experimental EtherType

// length varies the length of frame seq over everything that fits.
func length(seq uint32) int { return 60 + int(seq*37%1455) }

// writeFrame makes frame seq.
func writeFrame(b []byte, seq uint32) {
	clear(b[:12])
	b[0], b[6] = 0x02, 0x02
	binary.BigEndian.PutUint16(b[12:], marker)
	binary.BigEndian.PutUint32(b[14:], seq)
	for i := 18; i < len(b); i++ {
		b[i] = byte(seq) + byte(i)
	}
}

// readFrame is the inverse, and fails the test where a byte is not what it was.
func readFrame(t testing.TB, b []byte) (seq uint32, ours bool) {
	t.Helper()
	if binary.BigEndian.Uint16(b[12:]) != marker {
		return 0, false
	}
	seq = binary.BigEndian.Uint32(b[14:])
	if len(b) != length(seq) {
		t.Fatalf("frame %d has %d bytes, want %d", seq, len(b), length(seq))
	}
	for i := 18; i < len(b); i++ {
		if b[i] != byte(seq)+byte(i) {
			t.Fatalf("frame %d: byte %d changed", seq, i)
		}
	}
	return seq, true
}

// send sends n frames from seq on, and returns how many it could.
func (e *end) send(seq uint32, n int) int {
	var d [64]xdp.Desc
	n = e.u.Allocate(d[:min(n, len(d))])
	for i := range n {
		b := e.u.Frame(d[i])[:length(seq+uint32(i))]
		writeFrame(b, seq+uint32(i))
		d[i].Len = uint32(len(b))
	}
	sent := e.port.Transmit(d[:n])
	e.u.Free(d[sent:n])
	e.port.Flush()
	return sent
}

// receive takes what has arrived, and calls f with each of the test's frames.
func (e *end) receive(t testing.TB, f func(seq uint32)) {
	t.Helper()
	var d [64]xdp.Desc
	n := e.port.Receive(d[:])
	for i := range n {
		if seq, ours := readFrame(t, e.u.Frame(d[i])); ours {
			f(seq)
		}
	}
	e.u.Free(d[:n])
	e.port.Flush()
}

// forward takes a burst from one port to another, and returns how many frames
// went.
func (c *chain) forward(in, out *Port) int {
	var d [64]xdp.Desc
	n := in.Receive(d[:])
	sent := out.Transmit(d[:n])
	c.frames.Free(d[sent:n])
	return sent
}

// pass sends frames from A to B through G until total have arrived, and returns
// the order that they came in.
func (c *chain) pass(first uint32, total int) (order []uint32) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for sent := 0; len(order) < total; {
		if time.Now().After(deadline) {
			c.t.Fatalf("%d of %d frames arrived", len(order), total)
		}
		if sent-len(order) < 128 { // fewer than any ring holds: nothing may be lost
			sent += c.a.send(first+uint32(sent), min(64, total-sent))
		}
		c.a.port.Flush()
		c.forward(c.ports[0], c.ports[1])
		c.forward(c.ports[1], c.ports[0])
		c.ports[0].Flush()
		c.ports[1].Flush()
		c.b.receive(c.t, func(seq uint32) { order = append(order, seq) })
	}
	return order
}

// balanced fails where a staged frame is not free.
func (c *chain) balanced() {
	c.t.Helper()
	if a := c.frames.Accounting(); a.Free != a.Total || a.Strays != 0 {
		c.t.Errorf("staging area: %+v", a)
	}
}
