package route

import (
	"io"
	"log/slog"
	"net"
	"testing"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestHostPorts(t *testing.T) {
	r := newRig(t, 0)
	var all, one, v6, udp, client io.Closer
	port := make(map[string]uint16)
	r.must(r.gateway.Do(func() error {
		listen := func(name, network, addr string, c *io.Closer) error {
			l, err := net.Listen(network, addr)
			if err == nil {
				*c, port[name] = l, uint16(l.Addr().(*net.TCPAddr).Port)
			}
			return err
		}
		r.must(listen("all", "tcp4", "0.0.0.0:0", &all))
		r.must(listen("one", "tcp4", "10.0.0.1:0", &one))
		r.must(listen("v6", "tcp", "[::]:0", &v6))
		u, err := net.ListenPacket("udp4", "192.0.2.1:0")
		r.must(err)
		udp, port["udp"] = u, uint16(u.LocalAddr().(*net.UDPAddr).Port)
		// A connected socket, bound to a port of the kernel's choice.
		c, err := net.Dial("tcp4", one.(net.Listener).Addr().String())
		r.must(err)
		client, port["client"] = c, uint16(c.LocalAddr().(*net.TCPAddr).Port)
		return nil
	}))
	has := func(set *[1024]uint64, p uint16) bool { return set[p/64]>>(p%64)&1 != 0 }
	ports, err := r.mirror.HostPorts() // from outside the namespace
	r.must(err)
	for _, tt := range []struct {
		name, addr string
		tcp, udp   bool
	}{
		{"all", "10.0.0.1", true, false}, {"all", "192.0.2.1", true, false},
		{"one", "10.0.0.1", true, false}, {"one", "192.0.2.1", false, false},
		{"v6", "10.0.0.1", true, false}, {"v6", "192.0.2.1", true, false},
		{"udp", "192.0.2.1", false, true}, {"udp", "10.0.0.1", false, false},
		{"client", "10.0.0.1", true, false}, {"client", "192.0.2.1", false, false},
	} {
		at := ports.At(ip(tt.addr))
		if p := port[tt.name]; has(&at.TCP, p) != tt.tcp || has(&at.UDP, p) != tt.udp {
			t.Errorf("%s (port %d) at %s: tcp %v, udp %v", tt.name, p, tt.addr, has(&at.TCP, p), has(&at.UDP, p))
		}
	}
	for _, c := range []io.Closer{all, one, v6, udp, client} {
		r.must(c.Close())
	}
	ports, err = r.mirror.HostPorts()
	r.must(err)
	if at := ports.At(ip("192.0.2.1")); has(&at.UDP, port["udp"]) || has(&at.TCP, port["all"]) || has(&at.TCP, port["v6"]) {
		t.Error("ports of closed sockets are still in use")
	}
}
