package daemon

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/internal/lab"
)

// TestAddressConflictLab: a host outside has a service's address, too. It says nothing
// by itself, answers when it is asked, and then talks from the address. The gateway
// notices, says who and where, and announces the address once more, and not for
// every claim.
func TestAddressConflictLab(t *testing.T) {
	lab.RequireRoot(t)
	program := filepath.Join(t.TempDir(), "sluice")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	l := newServiceLab(t, program, "snat")
	l.puntLab.file = l.file
	conflict := func() string {
		s, err := l.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range s.Degraded {
			if strings.HasPrefix(d.What, "address conflict") {
				return d.What
			}
		}
		return ""
	}
	if what := conflict(); what != "" {
		t.Fatalf("before there is any: %s", what)
	}
	if err := l.Server2.AddAddress(lab.HostNIC, labVIP+"/32"); err != nil {
		t.Fatal(err)
	}
	heard, err := lab.Record(l.Server1, lab.HostNIC)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	// Another address to announce: all are announced anew, and asked for.
	l.vip = "198.51.100.20"
	text := strings.TrimPrefix(l.config(), lab.Config(filepath.Join(l.dir, "control.sock"))+"services:\n")
	l.vip = labVIP
	l.reload(l.config() + strings.Replace(text, "name: web", "name: other", 1))
	l.puntLab.await("status tells of the other station", func() bool { return conflict() != "" })
	mac, err := l.Server2.MAC(lab.HostNIC)
	if err != nil {
		t.Fatal(err)
	}
	if what := conflict(); !strings.Contains(what, mac.String()) || !strings.Contains(what, lab.OutsideNIC) || !strings.Contains(what, labVIP) {
		t.Errorf("status: %s", what)
	}
	// It asks for hosts that do not exist, each a few times, from the address.
	for _, host := range []string{"198.51.100.201", "198.51.100.202", "198.51.100.203"} {
		_, _ = l.Server2.Exec("ping", "-c", "1", "-W", "1", "-I", labVIP, host) // nobody answers
	}
	if s, err := l.client.Status(t.Context()); err != nil || s.Router.AddressConflicts == 0 {
		t.Errorf("%d counted, %v", s.Router.AddressConflicts, err)
	}
	announced := 0
	gateway, err := l.Gateway.MAC(lab.OutsideNIC)
	if err != nil {
		t.Fatal(err)
	}
	vip := netip.MustParseAddr(labVIP).As4()
	for _, f := range heard.Close() {
		a := f.Frame
		if len(a) >= 42 && binary.BigEndian.Uint16(a[12:]) == 0x0806 && bytes.Equal(a[22:28], gateway) && bytes.Equal(a[28:32], vip[:]) && bytes.Equal(a[38:42], vip[:]) {
			announced++
		}
	}
	// Three for the reload, if there was time for them, and one for each 10 s.
	if most := 3 + 1 + int(time.Since(began)/defendEvery); announced < 2 || announced > most {
		t.Errorf("announced %d times in %v, at most %d expected", announced, time.Since(began), most)
	}
	// The client, whose cache went over to the other station meanwhile or not, is
	// served again when that lets go of the address.
	if out, err := l.Server2.Exec("ip", "address", "del", labVIP+"/32", "dev", lab.HostNIC); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.reload(l.config())
	l.puntLab.await("the client is served", func() bool {
		body, err := l.get(l.Server1, "/")
		return err == nil && strings.Contains(body, " served ")
	})
}
