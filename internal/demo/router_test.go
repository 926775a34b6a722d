package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/control"
	"sluice/internal/lab"
)

const (
	routerTimeout = 20 * time.Second      // for what takes milliseconds
	resend        = 50 * time.Millisecond // a probe that was not answered is sent again
	smallMTU      = 1300                  // of the gateway's outside interface, once it is set
	uploadSize    = 5 << 20
)

// TestRouter has the gateway do a router's duties, seen from the hosts: their
// kernels send the probes and take the errors.
func TestRouter(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*routerTimeout)
	defer cancel()
	l, err := start(ctx, Options{Binary: program(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.close(); err != nil { // the checker's verdict, too
			t.Error(err)
		}
	}()
	r := &router{client1: host{l.top.Client1}, client2: host{l.top.Client2}, server: host{l.top.Server1}}
	t.Run("traceroute from inside", r.traceroute)
	t.Run("time exceeded to the outside", r.exceededOutside)

	outside, err := l.top.Gateway.Netlink().LinkByName(lab.OutsideNIC)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.top.Gateway.Netlink().LinkSetMTU(outside, smallMTU); err != nil {
		t.Fatal(err)
	}
	t.Run("fragmentation needed", r.fragmentationNeeded)
	// With the MSS clamped, TCP would never send what does not fit.
	unclamp(ctx, t, l)
	t.Run("TCP finds the path's MTU", r.upload)
	t.Run("fragments", r.fragments)
	t.Run("all of it is counted", func(t *testing.T) { counted(ctx, t, l.socket) })
}

// unclamp has the gateway leave the MSS of connections alone.
func unclamp(ctx context.Context, t *testing.T, l *running) {
	t.Helper()
	text, err := os.ReadFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "masquerade:\n", "masquerade:\n  mss-clamp: off\n", 1)
	if err := os.WriteFile(l.config, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := control.NewClient(l.socket).Reload(ctx); err != nil || !r.Changed {
		t.Fatalf("reload: %+v, %v", r, err)
	}
}

// counted waits for the workers to publish what they did: time exceeded each
// way, fragmentation needed for UDP and for TCP, one packet in two fragments.
func counted(ctx context.Context, t *testing.T, socket string) {
	client := control.NewClient(socket)
	for deadline := time.Now().Add(routerTimeout); ; time.Sleep(resend) {
		s, err := client.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sent := map[string]uint64{}
		for _, c := range s.Router.ICMPErrors {
			sent[c.Name] = c.Packets
		}
		if sent["time-exceeded"] >= 2 && sent["fragmentation-needed"] >= 2 && s.Router.FragmentedPackets == 1 && s.Router.Fragments == 2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("counted: %+v", s.Router)
		}
	}
}

// router are the hosts around the gateway.
type router struct{ client1, client2, server host }

// icmpMessage is an ICMP error as a host received it.
type icmpMessage struct {
	from      netip.Addr
	typ, code uint8
	mtu       uint16
	quoted    layers.IPv4
	transport []byte // of the quoted packet
}

// port is a quoted port: the source's at 0, the destination's at 2.
func (m *icmpMessage) port(at int) int { return int(m.transport[at])<<8 | int(m.transport[at+1]) }

// errorsAt listens for ICMP errors that reach a host.
func errorsAt(t *testing.T, h host, address string) <-chan icmpMessage {
	t.Helper()
	c, err := h.packets("ip4:icmp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	heard := make(chan icmpMessage, 1024)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var icmp layers.ICMPv4
			if icmp.DecodeFromBytes(slices.Clone(buf[:n]), gopacket.NilDecodeFeedback) != nil {
				continue
			}
			m := icmpMessage{from: remote(from), typ: icmp.TypeCode.Type(), code: icmp.TypeCode.Code(), mtu: icmp.Seq}
			// The quote is shorter than its header says, which gopacket takes
			// for a reason to go on.
			if m.quoted.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil || len(m.quoted.Payload) < 8 {
				continue
			}
			m.transport = m.quoted.Payload
			select {
			case heard <- m:
			default:
			}
		}
	}()
	return heard
}

// udp opens a socket with an IPv4 option set to a value.
func udp(t *testing.T, h host, address string, option, value int) *net.UDPConn {
	t.Helper()
	c, err := h.packets("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	u := c.(*net.UDPConn)
	setOption(t, u, option, value)
	return u
}

func setOption(t *testing.T, u *net.UDPConn, option, value int) {
	t.Helper()
	raw, err := u.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, option, value)
	}), err)
	if err != nil {
		t.Fatal(err)
	}
}

// provoke sends until an error that send provokes is heard.
func provoke(t *testing.T, heard <-chan icmpMessage, send func() error, wanted func(*icmpMessage) bool) icmpMessage {
	t.Helper()
	deadline := time.After(routerTimeout)
	for {
		if err := send(); err != nil && !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		again := time.After(resend)
		for waiting := true; waiting; {
			select {
			case m := <-heard:
				if wanted(&m) {
					return m
				}
			case <-again:
				waiting = false
			case <-deadline:
				t.Fatalf("no such error within %v", routerTimeout)
			}
		}
	}
}

// traceroute: the gateway is the first hop, by its inside address; the server is
// the second, and its error comes back through the gateway.
func (r *router) traceroute(t *testing.T) {
	heard := errorsAt(t, r.client1, lab.Client1Address)
	to := &net.UDPAddr{IP: net.ParseIP(lab.Server1Address), Port: 33434}
	for i, want := range []struct {
		from      string
		typ, code uint8
	}{{lab.GatewayInside, 11, 0}, {lab.Server1Address, 3, 3}} {
		c := udp(t, r.client1, lab.Client1Address+":0", syscall.IP_TTL, i+1)
		port := c.LocalAddr().(*net.UDPAddr).Port
		m := provoke(t, heard, func() error { _, err := c.WriteTo([]byte("probe"), to); return err },
			func(m *icmpMessage) bool { return m.port(0) == port })
		if m.from.String() != want.from || m.typ != want.typ || m.code != want.code {
			t.Errorf("hop %d: %d/%d from %v, want %d/%d from %s", i+1, m.typ, m.code, m.from, want.typ, want.code, want.from)
		}
		if m.quoted.SrcIP.String() != lab.Client1Address || m.quoted.DstIP.String() != lab.Server1Address || m.port(2) != to.Port {
			t.Errorf("hop %d quotes %v → %v:%d", i+1, m.quoted.SrcIP, m.quoted.DstIP, m.port(2))
		}
	}
}

// exceededOutside: an answer whose TTL ends at the gateway. The server hears of
// it from the external address, about the address and port that it sent to.
func (r *router) exceededOutside(t *testing.T) {
	heard := errorsAt(t, r.server, lab.Server1Address)
	server := udp(t, r.server, lab.Server1Address+":0", syscall.IP_TTL, 64)
	client := udp(t, r.client1, lab.Client1Address+":0", syscall.IP_TTL, 64)
	if _, err := client.WriteTo([]byte("question"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(routerTimeout))
	_, from, err := server.ReadFromUDP(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	setOption(t, server, syscall.IP_TTL, 1)
	m := provoke(t, heard, func() error { _, err := server.WriteTo([]byte("answer"), from); return err },
		func(m *icmpMessage) bool { return m.port(0) == server.LocalAddr().(*net.UDPAddr).Port })
	if m.typ != 11 || m.code != 0 || m.from.String() != lab.GatewayOutside {
		t.Errorf("%d/%d from %v, want 11/0 from %s", m.typ, m.code, m.from, lab.GatewayOutside)
	}
	if m.quoted.DstIP.String() != lab.GatewayOutside || m.port(2) != from.Port {
		t.Errorf("quotes a packet to %v:%d, want the external %v", m.quoted.DstIP, m.port(2), from)
	}
}

// fragmentationNeeded: a datagram with DF that is too large for the way out. The
// client's kernel believes the error: it refuses the next one itself.
func (r *router) fragmentationNeeded(t *testing.T) {
	heard := errorsAt(t, r.client1, lab.Client1Address)
	c := udp(t, r.client1, lab.Client1Address+":0", syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
	to := &net.UDPAddr{IP: net.ParseIP(lab.Server1Address), Port: 33434}
	send := func() error { _, err := c.WriteTo(make([]byte, 1400), to); return err }
	m := provoke(t, heard, send, func(m *icmpMessage) bool { return m.typ == 3 && m.code == 4 })
	if m.mtu != smallMTU || m.from.String() != lab.GatewayInside || m.quoted.SrcIP.String() != lab.Client1Address {
		t.Errorf("MTU %d from %v about a packet of %v", m.mtu, m.from, m.quoted.SrcIP)
	}
	if err := send(); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("the client did not learn the MTU: %v", err)
	}
}

// upload: the server takes 1500 bytes and says so; only the gateway knows better.
func (r *router) upload(t *testing.T) {
	heard := errorsAt(t, r.client2, lab.Client2Address)
	ln, err := r.server.listen(lab.Server1Address + ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := make([]byte, uploadSize)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	type result struct {
		sum [sha256.Size]byte
		err error
	}
	received := make(chan result, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(routerTimeout))
		sum := sha256.New()
		_, err = io.Copy(sum, c)
		received <- result{[sha256.Size]byte(sum.Sum(nil)), err}
	}()
	c, err := r.client2.dial(t.Context(), "tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(routerTimeout))
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	if got := <-received; got.err != nil || got.sum != sha256.Sum256(data) {
		t.Errorf("the server did not receive what was sent: %v", got.err)
	}
	for {
		select {
		case m := <-heard:
			if m.typ == 3 && m.code == 4 && m.mtu == smallMTU && m.from.String() == lab.GatewayInside {
				return
			}
		default:
			t.Fatal("the upload met no fragmentation needed: it proves nothing")
		}
	}
}

// fragments: without DF the same datagram arrives, put together by the server.
func (r *router) fragments(t *testing.T) {
	const pmtuInterface = 4 // IP_PMTUDISC_INTERFACE: no DF, and what was learned of the path is not heeded
	server := udp(t, r.server, lab.Server1Address+":0", syscall.IP_TTL, 64)
	client := udp(t, r.client1, lab.Client1Address+":0", syscall.IP_MTU_DISCOVER, pmtuInterface)
	data := make([]byte, 1400)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	if _, err := client.WriteTo(data, server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(routerTimeout))
	buf := make([]byte, 2000)
	n, from, err := server.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf[:n], data) || from.Addr().Unmap().String() != lab.GatewayOutside {
		t.Errorf("%d bytes from %v, want the %d sent, from %s", n, from, len(data), lab.GatewayOutside)
	}
	if n := reassembled(t, r.server); n != 1 {
		t.Errorf("the server put %d datagrams together, want this one", n)
	}
}

// reassembled is how many datagrams a host has put together from fragments.
func reassembled(t *testing.T, h host) (n int) {
	t.Helper()
	var lines []string
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		lines = strings.Split(string(b), "\n")
		return err
	})
	if err != nil || len(lines) < 2 {
		t.Fatalf("%d lines of /proc/net/snmp: %v", len(lines), err)
	}
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	if n, err = strconv.Atoi(values[slices.Index(names, "ReasmOKs")]); err != nil {
		t.Fatal(err)
	}
	return n
}
