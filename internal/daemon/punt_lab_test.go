package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/gateway"
	"sluice/internal/lab"
	"sluice/internal/packet"
)

// puntLab is the lab with a daemon of its own process on it.
type puntLab struct {
	*lab.Topology
	t      *testing.T
	daemon *exec.Cmd
	client *control.Client
	file   string // the daemon's configuration
}

// flowLife is the timeout of flows that were not answered.
const flowLife = time.Second

// TestPuntLab is the whole way: from the wire through steering program, worker
// and punting goroutine to a socket of the gateway's host.
func TestPuntLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	t.Run("a mapping ends", func(t *testing.T) { testPuntAfterMappingEnds(t, program) })
	t.Run("the host pings", func(t *testing.T) { testPuntHostPing(t, program) })
	t.Run("large pings to the gateway", func(t *testing.T) { testLargePings(t, program) })
}

func newPuntLab(t *testing.T, program string) *puntLab {
	t.Helper()
	return newLabWith(t, program, lab.Options{}, func(config string) string {
		return config + fmt.Sprintf("conntrack: {max-flows: 4096, timeouts: {udp-unreplied: %s}}\n", flowLife)
	})
}

// newLabWith is the lab with a daemon whose configuration is the lab's, changed.
func newLabWith(t *testing.T, program string, o lab.Options, change func(config string) string) *puntLab {
	t.Helper()
	dir := t.TempDir()
	top, err := lab.Up(o)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "control.sock")
	l := &puntLab{Topology: top, t: t, client: control.NewClient(socket)}
	t.Cleanup(func() {
		if err := top.Close(); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(file, []byte(change(lab.Config(socket))), 0o600); err != nil {
		t.Fatal(err)
	}
	l.file = file
	l.start(program, file, filepath.Join(dir, "notify.sock"))
	return l
}

// start runs the daemon in the gateway's namespace, and returns when it forwards.
func (l *puntLab) start(program, file, notify string) {
	l.t.Helper()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		l.t.Fatal(err)
	}
	defer ready.Close()
	var log bytes.Buffer
	l.daemon = exec.Command(program, "run", "--config", file, "--detach-on-exit")
	l.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	l.daemon.Stderr = &log
	if err := l.Gateway.Start(l.daemon); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		l.signal(syscall.SIGCONT)
		l.signal(syscall.SIGTERM)
		if err := l.daemon.Wait(); err != nil || l.t.Failed() {
			l.t.Errorf("the daemon: %v\n%s", err, log.Bytes())
		}
	})
	if err := ready.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 256)); err != nil {
		l.t.Fatal("the daemon was not ready: ", err)
	}
}

func (l *puntLab) signal(s syscall.Signal) {
	l.t.Helper()
	if err := l.daemon.Process.Signal(s); err != nil {
		l.t.Error(err)
	}
}

// udp opens a socket on a host.
func (l *puntLab) udp(host *lab.Namespace, address string) *net.UDPConn {
	l.t.Helper()
	var c *net.UDPConn
	if err := host.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

func (l *puntLab) write(c *net.UDPConn, to string, body []byte) {
	l.t.Helper()
	if _, err := c.WriteToUDPAddrPort(body, netip.MustParseAddrPort(to)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *puntLab) expect(c net.PacketConn, want []byte) {
	l.t.Helper()
	buffer := make([]byte, 1<<16)
	if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	n, _, err := c.ReadFrom(buffer)
	if err != nil {
		l.t.Fatalf("%v; punts %+v", err, l.punts())
	}
	if !bytes.Equal(buffer[:n], want) {
		l.t.Errorf("got %d bytes, want %d", n, len(want))
	}
}

// punts asks the daemon what it gave back.
func (l *puntLab) punts() map[string]control.Punt {
	l.t.Helper()
	s, err := l.client.Status(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	if s.Punts.Problem != "" || s.Punts.LimitPerSecond != puntLimit {
		l.t.Errorf("status: %+v", s.Punts)
	}
	m := map[string]control.Punt{}
	for _, p := range s.Punts.Reasons {
		m[p.Reason] = p
	}
	return m
}

// awaitPassed waits for a counter of punts: it follows the packet.
func (l *puntLab) awaitPassed(reason string, want uint64) {
	l.t.Helper()
	deadline := time.Now().Add(3 * time.Second)
	for l.punts()[reason].Passed < want && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := l.punts()[reason]; got != (control.Punt{Reason: reason, Passed: want}) {
		l.t.Errorf("punts %+v, want %d passed", got, want)
	}
}

func (l *puntLab) drops(reason string) uint64 {
	l.t.Helper()
	d, err := l.client.Drops(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, x := range d.Reasons {
		if x.Reason == reason {
			return x.Packets
		}
	}
	l.t.Fatalf("no reason %q", reason)
	return 0
}

// NAT held a port when a packet was steered to the
// worker, and no longer when the worker looked: the port rests, and what is late is
// nobody's. What comes after that is the host's, which listens there by then: a
// datagram, and one in fragments.
func testPuntAfterMappingEnds(t *testing.T, program string) {
	l := newPuntLab(t, program)
	const port = 40000
	external := fmt.Sprintf("%s:%d", lab.GatewayOutside, port)
	server := l.udp(l.Server1, lab.Server1Address+":7000")
	client := l.udp(l.Client1, fmt.Sprintf("%s:%d", lab.Client1Address, port))
	l.write(client, lab.Server1Address+":7000", []byte("question"))
	l.expect(server, []byte("question"))

	// A stopped worker stands for one that is slow: its queue fills, and its
	// heartbeat is good for a second.
	stopped := time.Now()
	l.signal(syscall.SIGSTOP)
	var status syscall.WaitStatus // until every thread has stopped
	if _, err := syscall.Wait4(l.daemon.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the daemon did not stop: %v, %v", status, err)
	}
	small, large := []byte("answer"), bytes.Repeat([]byte("0123456789abcdef"), 250)
	l.write(server, external, small)
	// A burst later, so that the worker has ended the flow when the fragments
	// come: fragments are looked at before flows.
	for range oneBurst {
		l.write(server, lab.Client1Address+":9", nil) // from outside to inside: dropped
	}
	l.write(server, external, large)
	if took := time.Since(stopped); took > staleAfter-napTime {
		t.Fatalf("this machine took %v to send: the heartbeat may have gone stale meanwhile", took)
	}
	time.Sleep(flowLife + 300*time.Millisecond) // the flow's timeout, with nobody there to end it
	l.signal(syscall.SIGCONT)
	for deadline := time.Now().Add(5 * time.Second); l.drops("no-mapping") == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the late datagram was not dropped as no-mapping")
		}
	}
	// Not before: from the moment that the gateway notices the socket, what is late
	// is the host's as well.
	host := l.udp(l.Gateway, external)
	l.write(server, external, small)
	l.expect(host, small)
	l.write(server, external, large)
	l.expect(host, large)
	if n := l.drops("host-owned"); n != 0 {
		t.Errorf("%d of them dropped", n)
	}
}

// oneBurst is as much as a worker takes from a queue at once.
const oneBurst = gateway.Burst

// The host pings by an identifier that NAT uses towards
// another host. There is no socket to tell the two apart by but the kernel's.
func testPuntHostPing(t *testing.T, program string) {
	l := newPuntLab(t, program)
	const id = 4711
	l.ping(l.Client1, lab.Server2Address, id, 56)
	l.ping(l.Gateway, lab.Server1Address, id, 56)
	l.awaitPassed("filtered", 1)
	if n := l.drops("filtered"); n != 0 {
		t.Errorf("%d of them dropped", n)
	}
}

// The host answers pings in fragments to the address
// that it shares with NAT, from either side.
func testLargePings(t *testing.T, program string) {
	l := newPuntLab(t, program)
	l.ping(l.Client1, lab.Server1Address, 4711, 56) // NAT is at work there
	for _, from := range []*lab.Namespace{l.Server1, l.Client1} {
		for i := range 5 {
			l.ping(from, lab.GatewayOutside, uint16(100+i), 4000)
		}
	}
}

// ping sends an echo request of size bytes of data, and waits for the reply.
func (l *puntLab) ping(from *lab.Namespace, to string, id uint16, size int) {
	l.t.Helper()
	var c net.PacketConn
	if err := from.Do(func() (err error) {
		c, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	m := make([]byte, packet.ICMPLength+size)
	m[0] = packet.ICMPEchoRequest
	binary.BigEndian.PutUint16(m[4:], id)
	for i := packet.ICMPLength; i < len(m); i++ {
		m[i] = byte(i * 3)
	}
	binary.BigEndian.PutUint16(m[2:], packet.Checksum(m))
	if _, err := c.WriteTo(m, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		l.t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	for buffer := make([]byte, 1<<16); ; {
		n, peer, err := c.ReadFrom(buffer)
		if err != nil {
			l.t.Fatalf("%s, %d bytes: no reply from %s: %v; punts %+v", from.Name(), size, to, err, l.punts())
		}
		got := buffer[:n]
		if peer.String() == to && n == len(m) && got[0] == packet.ICMPEchoReply && bytes.Equal(got[4:], m[4:]) {
			return
		}
	}
}
