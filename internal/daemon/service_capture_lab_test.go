package daemon

import (
	"bytes"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/fib"
	"sluice/internal/lab"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// capture keeps the TCP segments to a port that arrive at a host.
type capture struct {
	fd     int
	mu     sync.Mutex
	frames [][]byte
	done   chan struct{}
}

func captureOn(t *testing.T, host *lab.Namespace, port uint16) *capture {
	t.Helper()
	c := &capture{done: make(chan struct{})}
	const everything = 0x0300 // ETH_P_ALL, big-endian
	if err := host.Do(func() (err error) {
		nic, err := net.InterfaceByName(lab.HostNIC)
		if err != nil {
			return err
		}
		if c.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, everything); err != nil {
			return err
		}
		return syscall.Bind(c.fd, &syscall.SockaddrLinklayer{Protocol: everything, Ifindex: nic.Index})
	}); err != nil {
		t.Fatal(err)
	}
	wait := syscall.NsecToTimeval(int64(100 * time.Millisecond))
	if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	var stopped sync.WaitGroup
	stopped.Go(func() { c.read(port) })
	t.Cleanup(func() {
		close(c.done)
		stopped.Wait()
		syscall.Close(c.fd)
	})
	return c
}

func (c *capture) read(port uint16) {
	buffer := make([]byte, 1<<16)
	for {
		select {
		case <-c.done:
			return
		default:
		}
		n, _, err := syscall.Recvfrom(c.fd, buffer, 0)
		if err != nil {
			continue
		}
		var p packet.Packet
		if packet.Parse(buffer[:n], &p) != verdict.None || p.Proto != packet.ProtoTCP || p.DstPort != port {
			continue
		}
		if fib.Addr(p.Src).String() == lab.GatewayInside {
			continue // a probe
		}
		c.mu.Lock()
		c.frames = append(c.frames, bytes.Clone(buffer[:n]))
		c.mu.Unlock()
	}
}

// taken is what was captured once there are at least n, or ten seconds over.
func (c *capture) taken(n int) [][]byte {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		frames := c.frames
		c.mu.Unlock()
		if len(frames) >= n || time.Now().After(end) {
			return frames
		}
	}
}

// TestServiceCaptureLab is the capture of Cilium's DSR: of a connection to
// 172.18.0.2:32000 the SYN alone reaches the backend with the option, byte for byte
// as Cilium writes it, and every segment with the client's true address.
func TestServiceCaptureLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newServiceLabAt(t, program, "dsr", "172.18.0.2", 32000, lab.Client1Address)
	if err := l.Server1.AddRoute("172.18.0.0/24", lab.GatewayOutside); err != nil {
		t.Fatal(err)
	}
	seen := captureOn(t, l.Client1, 8080)
	body, err := l.get(l.Server1, "/")
	if err != nil || body != lab.Client1Address+" served "+lab.Server1Address {
		t.Fatalf("%q, %v", body, err)
	}
	option := []byte{0x9a, 0x08, 0x00, 0x7d, 0x02, 0x00, 0x12, 0xac}
	syns := 0
	for _, f := range seen.taken(4) { // SYN, ACK, request, FIN
		var p packet.Packet
		packet.Parse(f, &p)
		syn := p.TCPFlags&packet.TCPSyn != 0
		has := p.L4-p.L3 == 28 && bytes.Equal(f[34:42], option)
		if syn {
			syns++
		}
		if has != syn || !has && p.Is(packet.FlagOptions) || net.IP(f[26:30]).String() != lab.Server1Address {
			t.Errorf("SYN %v, option %v: %x", syn, has, f[14:min(len(f), 54)])
		}
	}
	if syns == 0 {
		t.Error("no SYN was captured")
	}
}
