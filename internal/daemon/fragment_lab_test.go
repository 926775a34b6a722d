package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/fib"
	"sluice/internal/lab"
	"sluice/internal/packet"
)

// TestFragmentLab: datagrams that real hosts send in fragments, and the same with
// their fragments in reverse, through masquerading to an address that the gateway's
// host has, too, and to one of a pool; both ways, and between inside hosts. What
// leaves outside is watched.
func TestFragmentLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	for name, external := range map[string]string{"shared": lab.GatewayOutside, "pool": "198.51.100.50"} {
		t.Run(name, func(t *testing.T) { testFragments(t, program, external) })
	}
}

func testFragments(t *testing.T, program, external string) {
	l := newLabWith(t, program, lab.Options{InsideQueues: 2, OutsideQueues: 2}, func(config string) string {
		if external != lab.GatewayOutside {
			config = strings.Replace(config, "addresses: [auto]", "addresses: ["+external+"]", 1)
		}
		return config + "conntrack: {max-flows: 4096}\n"
	})
	const clientPort, serverPort = 40000, 7000
	large := bytes.Repeat([]byte("0123456789abcdef"), 1280) // 20 KB
	server := l.udp(l.Server1, fmt.Sprintf("%s:%d", lab.Server1Address, serverPort))
	client := l.udp(l.Client1, fmt.Sprintf("%s:%d", lab.Client1Address, clientPort))
	toServer := fmt.Sprintf("%s:%d", lab.Server1Address, serverPort)

	// Real sockets: the kernel fragments, and puts together what comes.
	for range 3 {
		l.write(client, toServer, large)
		mapped := l.expectFrom(server, large, external)
		l.write(server, mapped.String(), large)
		l.expect(client, large)

		other := l.udp(l.Client2, lab.Client2Address+":0")
		l.write(other, mapped.String(), large) // by the external address
		l.expectFrom(client, large, external)
		other.Close()
	}
	for i := range 3 {
		l.ping(l.Client1, lab.Server1Address, uint16(4711+i), 4000)
	}

	// The same with the last fragment first.
	l.write(client, toServer, large)
	mapped := l.expectFrom(server, large, external)
	for i := range uint16(3) {
		l.reversed(l.Client1, 100+i, netip.MustParseAddrPort(fmt.Sprintf("%s:%d", lab.Client1Address, clientPort)), netip.MustParseAddrPort(toServer), large)
		l.expectFrom(server, large, external)
		l.reversed(l.Server1, 200+i, netip.MustParseAddrPort(toServer), mapped, large)
		l.expect(client, large)
	}
	if external == lab.GatewayOutside {
		host := l.udp(l.Gateway, external+":9000")
		l.write(server, external+":9000", large)
		l.expect(host, large)
		l.reversed(l.Server1, 300, netip.MustParseAddrPort(toServer), netip.MustParseAddrPort(external+":9000"), large)
		l.expect(host, large)
	}
	l.fragmentCounts()
}

// expectFrom is expect for a datagram from an address, and returns its source.
func (l *puntLab) expectFrom(c *net.UDPConn, want []byte, from string) netip.AddrPort {
	l.t.Helper()
	buffer := make([]byte, 1<<16)
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	n, src, err := c.ReadFromUDPAddrPort(buffer)
	if err != nil {
		d, _ := l.client.Drops(context.Background())
		l.t.Fatalf("%v; drops %+v", err, d)
	}
	src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
	if !bytes.Equal(buffer[:n], want) || src.Addr().String() != from {
		l.t.Errorf("got %d bytes from %v, want %d from %s", n, src, len(want), from)
	}
	return src
}

// fragmentCounts: fragments were translated, some waited, and none was dropped.
func (l *puntLab) fragmentCounts() {
	l.t.Helper()
	for _, reason := range []string{"fragment-without-first", "fragment-hold-full", "fragment-overlap", "fragment-duplicate", "fragment-unsupported", "no-free-frame"} {
		if n := l.drops(reason); n != 0 {
			l.t.Errorf("%d dropped as %s", n, reason)
		}
	}
	// Workers publish their counters several times a second.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := l.client.Status(context.Background())
		if err != nil {
			l.t.Fatal(err)
		}
		if r := &s.Router; r.FragmentsFollowed > 0 && r.FragmentsHeld > 0 {
			return
		} else if time.Now().After(deadline) {
			l.t.Fatalf("status: %+v", r)
		}
	}
}

// reversed sends a UDP datagram from a host in fragments, the last one first.
func (l *puntLab) reversed(host *lab.Namespace, id uint16, from, to netip.AddrPort, data []byte) {
	l.t.Helper()
	body := binary.BigEndian.AppendUint16(nil, from.Port())
	body = binary.BigEndian.AppendUint16(body, to.Port())
	body = binary.BigEndian.AppendUint16(body, uint16(packet.UDPLength+len(data)))
	body = append(append(body, 0, 0), data...)
	src, dst := fib.U32(from.Addr()), fib.U32(to.Addr())
	sum := packet.Sum(body, uint32(packet.PseudoSum(src, dst, packet.ProtoUDP, len(body))))
	binary.BigEndian.PutUint16(body[6:], ^packet.Fold(sum))
	const size = 1480
	var train [][]byte
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		field := uint16(at / 8)
		if end < len(body) {
			field |= 0x2000
		}
		h := []byte{0x45, 0, 0, 0, byte(id >> 8), byte(id), byte(field >> 8), byte(field), 64, packet.ProtoUDP, 0, 0} // the kernel fills in length and checksum
		h = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(h, src), dst)
		train = append(train, append(h, body[at:end]...))
	}
	slices.Reverse(train)
	if err := host.Do(func() error {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		for _, f := range train {
			if err := syscall.Sendto(fd, f, 0, &syscall.SockaddrInet4{Addr: to.Addr().As4()}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}
