package daemon

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// The one-armed lab: everybody, the gateway included, has one cable into one
// switch that carries the inside and the outside network.
const (
	armNIC     = "wire"
	armInside  = "10.20.30.1"
	armOutside = "198.51.100.2"
	armClient  = "10.20.30.11"
	armServer  = "198.51.100.11"
)

// TestOneArmed has a client download through a gateway with a single interface,
// on each driver: both directions are received and sent on the same socket.
func TestOneArmed(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	for _, driver := range []string{"native", "asavie"} {
		t.Run(driver, func(t *testing.T) { testOneArmed(t, program, driver) })
	}
}

func testOneArmed(t *testing.T, program, driver string) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hosts := map[string]*lab.Namespace{}
	for _, name := range []string{"switch", "gateway", "client", "server"} {
		n, err := lab.NewNamespace(name)
		must(err)
		t.Cleanup(func() { n.Close() })
		hosts[name] = n
	}
	must(lab.Veth(hosts["gateway"], armNIC, hosts["switch"], "gateway", lab.VethOptions{}))
	must(lab.Veth(hosts["client"], lab.HostNIC, hosts["switch"], "client", lab.VethOptions{}))
	must(lab.Veth(hosts["server"], lab.HostNIC, hosts["switch"], "server", lab.VethOptions{}))
	must(hosts["switch"].Bridge("br0", "gateway", "client", "server"))
	must(hosts["gateway"].AddAddress(armNIC, armOutside+"/24"))
	must(hosts["gateway"].AddAddress(armNIC, armInside+"/24"))
	must(hosts["client"].AddAddress(lab.HostNIC, armClient+"/24"))
	must(hosts["client"].AddRoute("default", armInside))
	must(hosts["server"].AddAddress(lab.HostNIC, armServer+"/24"))
	watch, err := lab.Watch(hosts["server"], lab.HostNIC, lab.MasqueradePolicy())
	must(err)

	dir := t.TempDir()
	socket, file := filepath.Join(dir, "control.sock"), filepath.Join(dir, "sluice.yaml")
	must(os.WriteFile(file, fmt.Appendf(nil, `interfaces: [{name: %s, role: both}]
masquerade: {sources: [%s], addresses: [%s]}
state-file: ""
driver: %s
control: {socket: %s}
`, armNIC, lab.InsideNetwork, armOutside, driver, socket), 0o600))
	l := &puntLab{Topology: &lab.Topology{Gateway: hosts["gateway"]}, t: t, client: control.NewClient(socket)}
	l.start(program, file, filepath.Join(dir, "notify.sock"))

	content := bytes.Repeat([]byte("what goes in comes out\n"), 1<<20/23)
	seen := serveOnce(t, hosts["server"], armServer+":80", content)
	var got []byte
	must(hosts["client"].Do(func() error {
		c, err := net.DialTimeout("tcp4", armServer+":80", 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		must(c.SetDeadline(time.Now().Add(20 * time.Second)))
		got, err = io.ReadAll(c)
		return err
	}))
	if sha256.Sum256(got) != sha256.Sum256(content) {
		t.Errorf("%d bytes arrived, and they are not the %d that were sent", len(got), len(content))
	}
	if a := <-seen; a.String() != armOutside {
		t.Errorf("the server saw %s", a)
	}
	s, err := l.client.Status(t.Context())
	must(err)
	if len(s.Interfaces) != 1 || len(s.Degraded) != 0 {
		t.Errorf("status: %+v", s)
	}
	if q := s.Interfaces[0].Queues[0]; q.RXPackets == 0 || q.TXPackets == 0 || q.Drops.Lost() != 0 {
		t.Errorf("the socket: %+v", q)
	}
	if notes := len(s.Interfaces[0].Notes); (driver == "asavie") != (notes == 1) {
		t.Errorf("%d notes", notes)
	}
	if err := watch.Close().Err(); err != nil {
		t.Error(err)
	}
}

// serveOnce sends content to the first connection and says whom it came from.
func serveOnce(t *testing.T, host *lab.Namespace, address string, content []byte) <-chan netip.Addr {
	t.Helper()
	var l net.Listener
	if err := host.Do(func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	seen := make(chan netip.Addr, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			return
		}
		defer c.Close()
		seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		c.Write(content) // what does not arrive is the client's to notice
	}()
	return seen
}
