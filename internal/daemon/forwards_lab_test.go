package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// oneToOne is the external address that client2 has for itself.
const oneToOne = "198.51.100.50"

// TestForwardsLab: port-forwards, one-to-one addresses and protocols without ports
// between kernels, the checker watching outside.
func TestForwardsLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	forwards := fmt.Sprintf("port-forwards:\n  - {external: auto:8080, to: %s:80}\n  - {external: %s, to: %s}\n",
		lab.Client1Address, oneToOne, lab.Client2Address)
	l := newLabWith(t, program, lab.Options{}, func(config string) string { return config + forwards })
	t.Cleanup(func() {
		if err := l.Checker.Report().Err(); err != nil {
			t.Error(err)
		}
	})
	l.serveTCP(l.Client1, lab.Client1Address+":80")
	t.Run("from outside", func(t *testing.T) { l.call(t, l.Server1, lab.GatewayOutside+":8080", lab.Server1Address) })
	t.Run("from inside", func(t *testing.T) { l.call(t, l.Client1, lab.GatewayOutside+":8080", lab.GatewayOutside) })
	t.Run("from a one-to-one host", func(t *testing.T) { l.call(t, l.Client2, lab.GatewayOutside+":8080", oneToOne) })
	l.serveTCP(l.Client2, lab.Client2Address+":7070")
	t.Run("to a one-to-one host", func(t *testing.T) { l.call(t, l.Server1, oneToOne+":7070", lab.Server1Address) })
	t.Run("to it from inside", func(t *testing.T) { l.call(t, l.Client1, oneToOne+":7070", lab.GatewayOutside) })
	for _, c := range []struct {
		name     string
		from     *lab.Namespace
		src, dst string
	}{
		{"ping out from a one-to-one host", l.Client2, lab.Client2Address, lab.Server1Address},
		{"ping in to a one-to-one host", l.Server1, lab.Server1Address, oneToOne},
		{"ping it from inside", l.Client1, lab.Client1Address, oneToOne},
	} {
		t.Run(c.name, func(t *testing.T) { l.pings(t, c.from, c.src, c.dst) })
	}
	t.Run("protocol 253", func(t *testing.T) {
		l.raw(t, l.Client1, lab.Client1Address, lab.GatewayOutside)
		l.raw(t, l.Client2, lab.Client2Address, oneToOne)
	})
	t.Run("the interface's own address is shown as its", func(t *testing.T) {
		s, err := l.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range s.Masquerade.Addresses {
			if a.Address.String() == lab.GatewayOutside && a.Interface != "outside" {
				t.Errorf("%s is shown as of %q", a.Address, a.Interface)
			}
		}
	})
	t.Run("a reload takes them away", func(t *testing.T) { l.withoutForwards(t, forwards) })
}

// serveTCP tells each caller the address that it comes from.
func (l *puntLab) serveTCP(host *lab.Namespace, at string) {
	l.t.Helper()
	var listener net.Listener
	if err := host.Do(func() (err error) {
		listener, err = net.Listen("tcp4", at)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// call connects, and expects to be known by the address seen.
func (l *puntLab) call(t *testing.T, host *lab.Namespace, to, seen string) {
	t.Helper()
	var c net.Conn
	if err := host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", to, 10*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != seen {
		t.Errorf("the server saw %q (%v), want %s", got, err, seen)
	}
}

// socket opens a raw socket of a protocol on a host.
func (l *puntLab) socket(t *testing.T, host *lab.Namespace, protocol, at string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	if err := host.Do(func() (err error) {
		c, err = net.ListenPacket("ip4:"+protocol, at)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends until an answer comes that is accepted: the first packets may
// wait for neighbours longer than anybody keeps them.
func exchange(t *testing.T, c net.PacketConn, dst string, packet []byte, accepted func(from net.Addr, b []byte) bool) {
	t.Helper()
	buffer := make([]byte, 2048)
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		if _, err := c.WriteTo(packet, &net.IPAddr{IP: net.ParseIP(dst)}); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for {
			n, from, err := c.ReadFrom(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if accepted(from, buffer[:n]) {
				return
			}
		}
	}
	t.Fatalf("no answer from %s", dst)
}

// pings has the kernel at dst answer.
func (l *puntLab) pings(t *testing.T, host *lab.Namespace, src, dst string) {
	t.Helper()
	request := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1, 'p', 'i', 'n', 'g'}
	sum := ^(uint32(0x0800) + 0x1234 + 1 + 'p'<<8 + 'i' + 'n'<<8 + 'g')
	sum = ^(^sum&0xffff + ^sum>>16)
	request[2], request[3] = byte(sum>>8), byte(sum)
	c := l.socket(t, host, "icmp", src)
	exchange(t, c, dst, request, func(from net.Addr, b []byte) bool {
		return from.String() == dst && len(b) == len(request) && b[0] == 0 && bytes.Equal(b[4:], request[4:])
	})
}

// raw exchanges packets of protocol 253 with server1, which sees them come from an
// external address.
func (l *puntLab) raw(t *testing.T, host *lab.Namespace, src, seen string) {
	t.Helper()
	server := l.socket(t, l.Server1, "253", lab.Server1Address)
	go func() {
		buffer := make([]byte, 2048)
		for {
			_, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			if _, err := server.WriteTo([]byte("you are "+from.String()), from); err != nil {
				return
			}
		}
	}()
	c := l.socket(t, host, "253", src)
	exchange(t, c, lab.Server1Address, []byte("who am I?"), func(_ net.Addr, b []byte) bool { return string(b) == "you are "+seen })
	server.Close()
}

// withoutForwards reloads without them: their flows end, and nobody gets in.
func (l *puntLab) withoutForwards(t *testing.T, forwards string) {
	text, err := os.ReadFile(l.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.file, []byte(strings.Replace(string(text), forwards, "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	s, err := l.client.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if a := s.Masquerade.Addresses; len(a) != 1 || a[0].Address != netip.MustParseAddr(lab.GatewayOutside) {
		t.Errorf("external addresses: %+v", a)
	}
	err = l.Server1.Do(func() error {
		c, err := net.DialTimeout("tcp4", lab.GatewayOutside+":8080", time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("the forward is gone, and still answers")
	}
	err = l.client.Flows(context.Background(), control.Filter{}, func(f control.Flow) error {
		if f.Kind == "port-forward" {
			t.Errorf("a flow of a forward that is gone: %+v", f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
