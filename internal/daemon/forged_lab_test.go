package daemon

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// forger sends TCP segments with anybody's source address from a host that sees
// nothing of their connections.
type forger struct {
	t  *testing.T
	fd int
}

func newForger(t *testing.T, host *lab.Namespace) *forger {
	t.Helper()
	f := &forger{t: t}
	if err := host.Do(func() (err error) {
		f.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(f.fd) })
	return f
}

// send forges a segment; flags of l say which, its numbers are any.
func (f *forger) send(from, to netip.AddrPort, l layers.TCP) {
	f.t.Helper()
	ip := layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	l.SrcPort, l.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(to.Port())
	l.Seq, l.Window = rand.Uint32(), 1000
	if l.ACK {
		l.Ack = rand.Uint32()
	}
	if err := l.SetNetworkLayerForChecksum(&ip); err != nil {
		f.t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, &ip, &l); err != nil {
		f.t.Fatal(err)
	}
	if err := syscall.Sendto(f.fd, b.Bytes(), 0, &syscall.SockaddrInet4{Addr: to.Addr().As4()}); err != nil {
		f.t.Fatal(err)
	}
}

// TestForgedSegments: real kernels talk through the gateway, and somebody who
// knows their addresses and ports, but not their numbers, forges segments of both.
// Every connection lives on, and its flow stays established. A true reset is known.
func TestForgedSegments(t *testing.T) {
	l := newRestartLab(t)
	l.start()
	l.serveTalks(l.Server1)
	var running sync.WaitGroup
	stop := make(chan struct{})
	flows, _ := l.open("tcp4", 4, stop, &running)
	l.awaitAnswers(flows, 2)

	outside, inside := newForger(t, l.Server2), newForger(t, l.Client2)
	server := netip.MustParseAddrPort(lab.Server1Address + serve)
	const each = 50
	sent := 0
	for _, f := range flows {
		client := f.conn.LocalAddr().(*net.TCPAddr).AddrPort()
		for range each {
			for _, s := range []layers.TCP{{RST: true}, {RST: true, ACK: true}, {FIN: true, ACK: true}, {SYN: true}, {SYN: true, ACK: true}, {ACK: true}} {
				outside.send(server, f.external, s)
				inside.send(client, server, s)
				sent += 2
			}
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for l.status().Router.TCPOutOfWindow < uint64(sent)*9/10 {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d forged segments are counted as out of window", l.status().Router.TCPOutOfWindow, sent)
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.awaitAnswers(flows, 5)
	if n := l.inState("established"); n != len(flows) {
		t.Errorf("%d of %d flows are established after %d forged segments", n, len(flows), sent)
	}
	close(stop)
	running.Wait()
	l.judge(flows)

	for _, f := range flows {
		if err := f.conn.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		f.conn.Close() // sends a RST
	}
	for l.inState("close") != len(flows) {
		if time.Now().After(deadline.Add(10 * time.Second)) {
			t.Fatalf("%d of %d flows have seen their reset", l.inState("close"), len(flows))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if r := l.Checker.Close(); r.Err() != nil {
		t.Error(r.Err())
	}
	if log := l.stop(syscall.SIGTERM); !bytes.Contains([]byte(log), []byte("flows stay in")) {
		t.Errorf("its last words:\n%s", log)
	}
}

// inState counts the TCP flows in a state.
func (l *restartLab) inState(state string) (n int) {
	l.Helper()
	if err := l.client.Flows(context.Background(), control.Filter{}, func(f control.Flow) error {
		if f.Protocol == "tcp" && f.State == state {
			n++
		}
		return nil
	}); err != nil {
		l.Fatal(err)
	}
	return n
}
