package daemon

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sluice/internal/lab"
)

// TestServiceFragmentLab: a real client's datagrams of 8 KB reach the servers of a
// service in fragments, and theirs the client, by every mode, with two workers, and
// with the last fragment first as well.
func TestServiceFragmentLab(t *testing.T) {
	lab.RequireRoot(t)
	program := filepath.Join(t.TempDir(), "sluice")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for mode, seen := range map[string]string{"snat": lab.GatewayInside, "dsr": lab.Server1Address, "hybrid": lab.GatewayInside} {
		t.Run(mode, func(t *testing.T) {
			l := newServiceLabOn(t, program, mode, lab.Options{InsideQueues: 2, OutsideQueues: 2}, labVIP, 80, lab.Client1Address, lab.Client2Address)
			l.largeDatagrams(t, seen)
		})
	}
}

// largeDatagrams exchanges them; the servers say which address they saw.
func (l *serviceLab) largeDatagrams(t *testing.T, seen string) {
	vip := netip.MustParseAddrPort(labVIP + ":80")
	large := bytes.Repeat([]byte("0123456789abcdef"), 512) // 8 KB
	served := map[string]int{}
	answered := func(c *net.UDPConn) {
		t.Helper()
		buffer := make([]byte, 1<<16)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := c.ReadFromUDPAddrPort(buffer)
		if err != nil {
			d, _ := l.client.Drops(t.Context())
			t.Fatalf("%v; drops %+v", err, d)
		}
		by, rest, _ := bytes.Cut(buffer[:n], []byte(" "))
		if want := fmt.Appendf(nil, "served %s: %s", seen, large); netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != vip || !bytes.Equal(rest, want) {
			t.Fatalf("%d bytes from %v: %.60q", n, from, buffer[:n])
		}
		served[string(by)]++
	}
	for port := range uint16(8) {
		at := netip.AddrPortFrom(netip.MustParseAddr(lab.Server1Address), 40000+port)
		c := l.udp(l.Server1, at.String())
		l.puntLab.write(c, vip.String(), large)
		answered(c)
		l.reversed(l.Server1, 100+port, at, vip, large)
		answered(c)
	}
	if len(served) != 2 {
		t.Errorf("served by %v", served)
	}
	l.fragmentCounts()
}
