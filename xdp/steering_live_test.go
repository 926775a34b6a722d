package xdp

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// pinnedProgram is the program behind the gateway's pin, whoever loaded it.
type pinnedProgram struct {
	t    *testing.T
	g    *gateway
	prog *ebpf.Program
}

func (p *pinnedProgram) open() {
	p.t.Helper()
	in(p.t, p.g.Namespace, func() error {
		dir, err := namespaceDirectory()
		if err != nil {
			return err
		}
		l, err := link.LoadPinnedLink(filepath.Join(dir, fmt.Sprintf("%d-gw0", p.g.nic.Ifindex), pinFile), nil)
		if err != nil {
			return err
		}
		defer l.Close()
		about, err := l.Info()
		if err != nil {
			return err
		}
		p.prog, err = ebpf.NewProgramFromID(about.Program)
		return err
	})
	p.t.Cleanup(func() { p.prog.Close() })
}

func (p *pinnedProgram) expect(what string, frame []byte, verdict uint32) {
	p.t.Helper()
	in(p.t, p.g.Namespace, func() error {
		got, err := p.prog.Run(&ebpf.RunOptions{Data: frame})
		if err == nil && got != verdict {
			p.t.Errorf("%s: verdict %d, want %d", what, got, verdict)
		}
		return err
	})
}

// TestSteeringQueues: a frame goes to the slot of its port and queue, and only
// if the worker of that queue runs.
func TestSteeringQueues(t *testing.T) {
	g := newGateway(t, 4)
	cable(t, g.Namespace, "gw1", g.peer, "peer1", lab.VethOptions{Queues: 4, MACA: gatewayMAC})
	second := probe(t, g.Namespace, "gw1")
	w := &world{t: t, ns: g.Namespace, Steering: g.steering(t, SteeringConfig{
		Workers: 3,
		Ports:   []SteeringPort{{NIC: second, Queues: 4}, {NIC: g.nic, Queues: 3}, {NIC: second, Queues: 1}},
	})}
	w.fill()
	in(t, g.Namespace, func() error { return w.Attach(1) }) // registers the NIC's receive queues

	on := func(queue uint32) (uint32, string) {
		f := tcp(routedTo)
		return w.runOn(1, &ebpf.RunOptions{Data: f, Context: xdpMD{
			End: uint32(len(f)), IngressIfindex: uint32(g.nic.Ifindex), RXQueue: queue,
		}})
	}
	for queue := range uint32(4) {
		for worker := range 3 {
			for i := range 3 { // only this worker runs
				w.beat(i, time.Duration(1-b2u(i == worker))*time.Minute)
			}
			// Sockets everywhere but in the port's own slot: nothing.
			var fds []int
			for port, p := range w.config.Ports {
				for q := range p.Queues {
					if port != 1 || uint32(q) != queue {
						fds = append(fds, w.plug(port, q))
					}
				}
			}
			if v, r := on(queue); v != verdictDrop || r != "failure-dropped" {
				t.Errorf("queue %d, worker %d, slot empty: verdict %d, %s", queue, worker, v, r)
			}
			closeAll(fds)
			if queue == 3 { // the port has no such queue
				continue
			}
			fd := w.plug(1, int(queue))
			wantVerdict, wantReason := uint32(verdictDrop), "failure-dropped"
			if int(queue)%3 == worker {
				wantVerdict, wantReason = verdictRedirect, "worker-routed"
			}
			if v, r := on(queue); v != wantVerdict || r != wantReason {
				t.Errorf("queue %d, worker %d: verdict %d, %s; want %d, %s", queue, worker, v, r, wantVerdict, wantReason)
			}
			unix.Close(fd)
		}
	}
	if err := w.SetSocket(1, 3, 0); err == nil {
		t.Error("a socket was put into a queue that the port does not have")
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// TestSteeringLive: real frames over a veth reach the worker's socket or the
// host's, each what it should, on every queue.
func TestSteeringLive(t *testing.T) {
	g := newGateway(t, 1)
	for _, a := range []string{hostAddress.String(), sharedAddress.String()} {
		if err := g.AddAddress("lo", a+"/32"); err != nil {
			t.Fatal(err)
		}
	}
	// The senders' network, so that the host takes them for genuine.
	if err := g.AddAddress("gw0", peerAddress.Next().String()+"/24"); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ns: g.Namespace, Steering: g.steering(t, SteeringConfig{})}
	w.fill()
	umem, err := NewUMEM(UMEMConfig{Frames: 4096, FrameSize: 2048})
	if err != nil {
		t.Fatal(err)
	}
	defer umem.Close()
	var port *Port
	in(t, g.Namespace, func() (err error) {
		port, err = umem.OpenPort(PortConfig{NIC: g.nic, RX: []int{0}, RingSize: 512})
		return err
	})
	defer port.Close()
	for _, s := range port.Sockets() {
		if err := w.SetSocket(0, s.Queue(), s.FD()); err != nil {
			t.Fatal(err)
		}
	}
	w.beat(0, 0)
	g.attach(t, w.Steering)
	host := bindUDP(w, at(sharedAddress, 53))

	inject := injector(t, g.peer, "peer0")
	toHost := udpDatagram(at(peerAddress, 999), at(sharedAddress, 53))
	for i, c := range []struct {
		name   string
		frame  []byte
		worker bool
	}{
		{"held port", tcp(at(sharedAddress, heldTCP)), true},
		{"host's socket", toHost, false},
		{"routed", tcp(routedTo), true},
		{"pool", udp(at(poolAddress, 99)), true},
		{"ICMP error", icmp(sharedAddress, 3, 0, quote(udpDatagram(at(sharedAddress, heldUDP), at(peerAddress, 53)))), true},
		{"host's socket again", toHost, false},
	} {
		w.beat(0, 0)
		inject(c.frame)
		if c.worker {
			if got := receiveOne(t, umem, port); !bytes.Equal(got, c.frame) {
				t.Errorf("%d %s: the worker got %x, want %x", i, c.name, got, c.frame)
			}
			continue
		}
		b := make([]byte, 64)
		host.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, _, err := host.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != string(payload) {
			t.Errorf("%d %s: the host got %q, %v", i, c.name, b[:n], err)
		}
	}
	if n := port.Receive(make([]Desc, 8)); n != 0 {
		t.Errorf("%d more frames came to the worker", n)
	}
}

// receiveOne waits for one frame and gives it back.
func receiveOne(t *testing.T, umem *UMEM, port *Port) []byte {
	t.Helper()
	d := make([]Desc, 8)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		fds := []unix.PollFd{{Fd: int32(port.Sockets()[0].FD()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		n := port.Receive(d)
		if n == 0 {
			continue
		}
		frame := bytes.Clone(umem.Frame(d[0]))
		umem.Free(d[:n])
		port.Flush()
		if n > 1 {
			t.Errorf("%d frames at once", n)
		}
		return frame
	}
	return nil
}

// injector sends frames out of an interface as they are.
func injector(t *testing.T, ns *lab.Namespace, ifname string) func([]byte) {
	t.Helper()
	var fd, index int
	in(t, ns, func() error {
		nic, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		index = nic.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) {
		t.Helper()
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkSteering is what a decision costs. Some 20 ns of it are the test run's
// own.
func BenchmarkSteering(b *testing.B) {
	w := newWorld(b, SteeringConfig{StaleAfter: time.Hour})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"not IPv4", ethernet(gatewayMAC, layers.EthernetTypeARP, payload)},
		{"routed", tcp(routedTo)},
		{"pool, held", tcp(at(poolAddress, heldTCP))},
		{"shared, held", tcp(at(sharedAddress, heldTCP))},
		{"shared, held, UDP", udp(at(sharedAddress, heldUDP))},
		{"shared, host", tcp(at(sharedAddress, 22))},
	} {
		b.Run(c.name, func(b *testing.B) {
			_, perRun, err := w.programs[0].Benchmark(c.frame, 1_000_000, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(perRun), "ns/frame")
		})
	}
}
