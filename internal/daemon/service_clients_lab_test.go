package daemon

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/gateway"
	"sluice/internal/lab"
)

// TestServiceClientsLab: clients that a service by Direct Server Return cannot serve
// as others: those whose backend has no agent, whose header is full, who send more
// than fits with the option; and the gateway's own host. What they get is what
// docs/operations.md says.
func TestServiceClientsLab(t *testing.T) {
	lab.RequireRoot(t)
	program := filepath.Join(t.TempDir(), "sluice")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	l := newServiceLab(t, program, "dsr")
	l.check = "{type: none}"
	t.Run("full header", l.fullHeader)
	t.Run("larger than fits", func(t *testing.T) { l.tooLarge(t, 1492) })
	t.Run("own host", l.ownHost)

	l.configured(t, "hybrid", "")
	t.Run("hybrid", func(t *testing.T) {
		if body, err := l.get(l.Server1, "/"); err != nil || !strings.HasSuffix(body, " served "+lab.Server1Address) {
			t.Errorf("TCP: %q, %v", body, err)
		}
		if answer, err := l.ask(l.Server1, "hello"); err != nil || !strings.HasSuffix(answer, " served "+lab.GatewayInside+": hello") {
			t.Errorf("UDP: %q, %v", answer, err)
		}
		l.tooLarge(t, 1500) // there is no option: all of the MTU fits
	})
	l.configured(t, "dsr", ", agent: false")
	t.Run("no agent", func(t *testing.T) {
		if body, err := l.get(l.Server2, "/"); err != nil || !strings.HasSuffix(body, " served "+lab.GatewayInside) {
			t.Errorf("TCP: %q, %v", body, err)
		}
		if answer, err := l.ask(l.Server2, "hello"); err != nil || !strings.HasSuffix(answer, " served "+lab.GatewayInside+": hello") {
			t.Errorf("UDP: %q, %v", answer, err)
		}
	})
}

// configured reloads another mode, and what every backend has beside its address.
func (l *serviceLab) configured(t *testing.T, mode, of string) {
	t.Helper()
	l.mode, l.of = mode, of
	l.write()
	if _, err := l.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// fullHeader: a datagram whose header has no room for the option gets its answer by
// the gateway's translation.
func (l *serviceLab) fullHeader(t *testing.T) {
	c := l.udp(l.Server1, lab.Server1Address+":0")
	nops := strings.Repeat("\x01", 40)
	onSocket(t, c, func(fd int) error { return syscall.SetsockoptString(fd, syscall.IPPROTO_IP, syscall.IP_OPTIONS, nops) })
	for range 5 { // the first may wait too long for ARP
		l.puntLab.write(c, labVIP+":80", []byte("full"))
		buffer := make([]byte, 2048)
		_ = c.SetReadDeadline(time.Now().Add(4 * time.Second))
		n, from, err := c.ReadFromUDPAddrPort(buffer)
		if err != nil {
			continue
		}
		if from.Addr().Unmap().String() != labVIP || !strings.HasSuffix(string(buffer[:n]), " served "+lab.GatewayInside+": full") {
			t.Errorf("%q from %v", buffer[:n], from)
		}
		l.counted(t, "flows that began by gateway-full-header", func(r *control.Router) uint64 {
			for _, way := range r.ServiceFlows {
				if way.Name == gateway.ReturnFullHeader.String() {
					return way.Packets
				}
			}
			return 0
		})
		return
	}
	t.Error("no answer")
}

// counted waits until status counts something; workers publish a few times a second.
func (l *serviceLab) counted(t *testing.T, what string, of func(*control.Router) uint64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s, err := l.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if of(&s.Router) != 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("status counts no %s: %+v", what, s.Router)
		}
	}
}

// tooLarge: what does not fit is answered from the service's address with the MTU
// that does, and what fits is served.
func (l *serviceLab) tooLarge(t *testing.T, mtu int) {
	t.Helper()
	seen, err := lab.Record(l.Server1, lab.HostNIC)
	if err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	if err := l.Server1.Do(func() (err error) {
		c, err = net.Dial("udp4", labVIP+":80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if out, err := l.Server1.Exec("ip", "route", "flush", "cache"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	socket := c.(*net.UDPConn)
	onSocket(t, socket, func(fd int) error {
		return syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
	})
	const headers = 28
	path := 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && path != mtu; {
		_, _ = c.Write(make([]byte, 1500-headers))
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 2048)); err == nil && mtu < 1500 {
			t.Fatal("served, and the option does not fit")
		}
		onSocket(t, socket, func(fd int) (err error) {
			path, err = syscall.GetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_MTU)
			return err
		})
	}
	if path != mtu {
		t.Errorf("the path's MTU is %d, want %d", path, mtu)
	}
	if _, err := c.Write(make([]byte, mtu-headers)); err != nil {
		t.Error(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 2048)); err != nil || n < mtu-headers {
		t.Errorf("what fits is answered with %d bytes, %v", n, err)
	}
	vip, told := netip.MustParseAddr(labVIP).As4(), 0
	for _, f := range seen.Close() {
		h := f.Frame[14:]
		if !f.Outgoing && len(h) > 28 && h[0] == 0x45 && h[9] == 1 && h[20] == 3 && h[21] == 4 {
			told++
			if [4]byte(h[12:16]) != vip || int(binary.BigEndian.Uint16(h[26:])) != mtu || [4]byte(h[28+16:28+20]) != vip {
				t.Errorf("fragmentation needed: %x", h)
			}
		}
	}
	if (told > 0) != (mtu < 1500) {
		t.Errorf("told %d times", told)
	}
}

// ownHost: what the gateway's own host sends to the service is not balanced, and
// explain says so and what to do.
func (l *serviceLab) ownHost(t *testing.T) {
	_, err := l.client.Explain(t.Context(), controlQuestion("tcp", lab.GatewayOutside+":40000", labVIP+":80"))
	if err == nil || !strings.Contains(err.Error(), "is not balanced") || !strings.Contains(err.Error(), "use a backend's address") {
		t.Errorf("explain: %v", err)
	}
	if err := l.Gateway.Do(func() error {
		c, err := net.DialTimeout("tcp4", labVIP+":80", time.Second)
		if err == nil {
			c.Close()
			return errors.New("it is served")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := l.Gateway.Do(func() error {
		c, err := net.DialTimeout("tcp4", lab.Client1Address+":8080", 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Errorf("a backend's address, as explain advises: %v", err)
	}
}

func controlQuestion(proto, src, dst string) control.Question {
	return control.Question{Proto: proto, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

// onSocket calls f with a socket's descriptor.
func onSocket(t *testing.T, c *net.UDPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
		err = errors.Join(err, failed)
	}
	if err != nil {
		t.Fatal(err)
	}
}
