package daemon

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// The services of the lab: clients outside and inside, backends inside; the address
// is nobody's on the outside segment, but for the gateway's answers to ARP.
const (
	labVIP    = "198.51.100.10"
	largeBody = 4 << 20
)

// serviceLab is a lab whose inside hosts serve HTTP and UDP echo on port 8080.
type serviceLab struct {
	*puntLab
	program, file string
	mode, vip     string
	name          string // of the service
	of            string // every backend, beside its address and port
	port          int
	check         string // of the backends' health; "" is none
	listeners     map[string]net.Listener
	backends      []string
	dir           string
	mu            sync.Mutex
	seen          map[string]int // requests by the address that the server saw
}

func (l *serviceLab) config() string {
	var list []string
	for _, b := range l.backends {
		list = append(list, fmt.Sprintf("{address: %s, port: 8080%s}", b, l.of))
	}
	return lab.Config(filepath.Join(l.dir, "control.sock")) + fmt.Sprintf(`services:
  - {name: %s, address: %s, port: %d, protocols: [tcp, udp], mode: %s, algorithm: maglev, health-check: %s, backends: [%s]}
`, l.name, l.vip, l.port, l.mode, l.check, strings.Join(list, ", "))
}

func newServiceLab(t *testing.T, program, mode string) *serviceLab {
	return newServiceLabAt(t, program, mode, labVIP, 80, lab.Client1Address, lab.Client2Address)
}

func newServiceLabAt(t *testing.T, program, mode, vip string, port int, backends ...string) *serviceLab {
	return newServiceLabOn(t, program, mode, lab.Options{}, vip, port, backends...)
}

func newServiceLabOn(t *testing.T, program, mode string, o lab.Options, vip string, port int, backends ...string) *serviceLab {
	t.Helper()
	top, err := lab.Up(o)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l := &serviceLab{
		puntLab: &puntLab{Topology: top, t: t, client: control.NewClient(filepath.Join(dir, "control.sock"))},
		program: program, file: filepath.Join(dir, "sluice.yaml"), dir: dir, mode: mode, seen: map[string]int{}, listeners: map[string]net.Listener{},
		check:    "{type: http, interval: 1s, timeout: 1s, rise: 1, fall: 2}",
		backends: backends, vip: vip, port: port, name: "web",
	}
	t.Cleanup(func() {
		if err := top.Close(); err != nil {
			t.Error(err)
		}
	})
	l.write()
	for _, b := range []struct {
		host *lab.Namespace
		addr string
	}{{top.Client1, lab.Client1Address}, {top.Client2, lab.Client2Address}} {
		l.serve(b.host, b.addr)
	}
	l.start(program, l.file, filepath.Join(dir, "notify.sock"))
	return l
}

func (l *serviceLab) write() {
	l.t.Helper()
	if err := os.WriteFile(l.file, []byte(l.config()), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// serve answers HTTP with who serves whom, or a large body, and echoes datagrams
// with the same in front.
func (l *serviceLab) serve(host *lab.Namespace, addr string) {
	l.t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)
	var tcp net.Listener
	var udp *net.UDPConn
	if err := host.Do(func() (err error) {
		if tcp, err = net.Listen("tcp4", at.String()); err != nil {
			return err
		}
		udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), largeBody/16)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := netip.MustParseAddrPort(r.RemoteAddr).Addr().String()
		l.mu.Lock()
		l.seen[from]++
		l.mu.Unlock()
		if r.URL.Path == "/large" {
			_, _ = w.Write(large)
			return
		}
		fmt.Fprintf(w, "%s served %s", addr, from)
	})}
	l.listeners[addr] = tcp
	go server.Serve(tcp)
	l.t.Cleanup(func() { server.Close() })
	l.t.Cleanup(func() { udp.Close() })
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort(fmt.Appendf(nil, "%s served %s: %s", addr, from.Addr(), buffer[:n]), from)
		}
	}()
}

// get asks the service from a host, by curl.
func (l *serviceLab) get(host *lab.Namespace, path string) (body string, err error) {
	cmd := exec.Command("curl", "-sS", "--max-time", "20", fmt.Sprintf("http://%s:%d%s", l.vip, l.port, path))
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := host.Start(cmd); err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, problem.Bytes())
	}
	return out.String(), nil
}

// ask sends one datagram to the service from a fresh socket of a host.
func (l *serviceLab) ask(host *lab.Namespace, text string) (string, error) {
	var c net.Conn
	if err := host.Do(func() (err error) {
		c, err = net.Dial("udp4", labVIP+":80")
		return err
	}); err != nil {
		return "", err
	}
	defer c.Close()
	buffer := make([]byte, 2048)
	var err error
	for range 5 { // UDP may be lost; the first datagram waits for ARP
		if _, err = c.Write([]byte(text)); err != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		var n int
		if n, err = c.Read(buffer); err == nil {
			return string(buffer[:n]), nil
		}
	}
	return "", err
}

// TestServiceLab is a service from the wire up, with real clients and servers.
func TestServiceLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	for _, mode := range []string{"snat", "dsr"} {
		t.Run(mode, func(t *testing.T) { testServiceLab(t, program, mode) })
	}
}

func testServiceLab(t *testing.T, program, mode string) {
	l := newServiceLab(t, program, mode)
	// By DSR the servers see the client; there is no agent, but the gateway is the
	// backends' router and translates what they answer.
	saw := map[string]map[*lab.Namespace]string{
		"snat": {l.Server1: lab.GatewayInside, l.Client1: lab.GatewayInside},
		"dsr":  {l.Server1: lab.Server1Address, l.Client1: lab.GatewayInside}, // inside, client and backends share a segment
	}[mode]
	for host, from := range saw {
		served := map[string]bool{}
		for range 30 {
			body, err := l.get(host, "/")
			if err != nil {
				t.Fatal(err)
			}
			by, ok := strings.CutSuffix(body, " served "+from)
			if !ok {
				t.Fatalf("%q, want it to be served from %s", body, from)
			}
			served[by] = true
		}
		if len(served) != 2 {
			t.Errorf("30 connections were served by %v", served)
		}
		answer, err := l.ask(host, "hello")
		if err != nil || !strings.HasSuffix(answer, " served "+from+": hello") {
			t.Errorf("UDP: %q, %v", answer, err)
		}
	}
	if body, err := l.get(l.Server2, "/large"); err != nil || len(body) != largeBody {
		t.Errorf("a large answer: %d bytes, %v", len(body), err)
	}
	l.pinged(t)
	l.refused(t)
	l.listed(t)
	l.shown(t)
	l.drained(t)
	l.removed(t)
	l.died(t)
	l.renamed(t)
}

// listed: flows and services are listed with what belongs to them.
func (l *serviceLab) listed(t *testing.T) {
	t.Helper()
	flows := 0
	if err := l.client.Flows(t.Context(), control.Filter{Service: "web"}, func(f control.Flow) error {
		flows++
		if f.Service != "web" || !strings.HasSuffix(f.Backend, ":8080") || (f.Kind == "service-dsr") != (f.Reply == nil) {
			t.Errorf("%+v", f)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	list, err := l.client.Services(t.Context(), "web")
	if err != nil || len(list) != 2 || flows == 0 {
		t.Fatalf("%d flows, services %+v, %v", flows, list, err)
	}
	for _, s := range list {
		if s.Selectable != 2 || s.Traffic.Flows == 0 || s.Traffic.Packets.Reply == 0 || (s.Protocol == "tcp") != (s.Traffic.Connections > 0) {
			t.Errorf("%+v", s)
		}
	}
}

// drained: a drained backend gets nothing new until it is enabled; without a backend
// clients are refused and status says so.
func (l *serviceLab) drained(t *testing.T) {
	t.Helper()
	set := func(backend string, drain bool) {
		t.Helper()
		b, err := control.ParseBackendAddress(backend)
		if err != nil {
			t.Fatal(err)
		}
		change, err := l.client.SetDraining(t.Context(), "web", b, drain)
		if err != nil || len(change.Backends) != 1 || !change.Backends[0].Changed {
			t.Fatalf("%+v, %v", change, err)
		}
	}
	set(lab.Client1Address, true)
	for range 10 {
		if body, err := l.get(l.Server1, "/"); err != nil || !strings.HasPrefix(body, lab.Client2Address+" ") {
			t.Fatalf("%q, %v", body, err)
		}
	}
	set(lab.Client2Address, true)
	if body, err := l.get(l.Server1, "/"); err == nil {
		t.Errorf("served by %q, and all backends are drained", body)
	}
	s, err := l.client.Status(t.Context())
	if err != nil || withoutBackend(&s) != 2 {
		t.Errorf("%+v, %v", s.Degraded, err)
	}
	set(lab.Client1Address, false)
	set(lab.Client2Address, false)
}

// pinged: the service's address answers.
func (l *serviceLab) pinged(t *testing.T) {
	t.Helper()
	out, err := l.Server1.Exec("ping", "-c", "3", "-i", "0.2", "-W", "5", labVIP)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	l.counted(t, "echo replies", func(r *control.Router) uint64 { return r.EchoReplies })
}

// refused: a port of the address that nobody serves is refused at once.
func (l *serviceLab) refused(t *testing.T) {
	t.Helper()
	began := time.Now()
	err := l.Server1.Do(func() error {
		c, err := net.DialTimeout("tcp4", labVIP+":81", 20*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("a port without a service: %v after %v", err, time.Since(began))
	}
}

// removed: after a reload without one of the backends all goes to the other.
func (l *serviceLab) removed(t *testing.T) {
	t.Helper()
	l.backends = l.backends[1:]
	l.write()
	if _, err := l.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		body, err := l.get(l.Server1, "/")
		if err != nil || !strings.HasPrefix(body, lab.Client2Address+" ") {
			t.Fatalf("%q, %v", body, err)
		}
	}
}

// died: the probes find a server that is gone, and new connections avoid it; status
// says so where none is left.
func (l *serviceLab) died(t *testing.T) {
	t.Helper()
	l.backends = []string{lab.Client1Address, lab.Client2Address}
	l.write()
	if _, err := l.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.listeners[lab.Client1Address].Close()
	l.await(t, "dead", 1)
	for range 10 {
		if body, err := l.get(l.Server1, "/"); err != nil || !strings.HasPrefix(body, lab.Client2Address+" ") {
			t.Fatalf("%q, %v", body, err)
		}
	}
	l.listeners[lab.Client2Address].Close()
	l.await(t, "dead", 2)
	s, err := l.client.Status(t.Context())
	if err != nil || withoutBackend(&s) != 2 {
		t.Errorf("%+v, %v", s.Degraded, err)
	}
}

// withoutBackend counts the services that status says have no backend: on a busy
// machine it may say more.
func withoutBackend(s *control.Status) (n int) {
	for _, d := range s.Degraded {
		if strings.HasPrefix(d.What, "service ") && strings.Contains(d.What, "has no backend") {
			n++
		}
	}
	return n
}

// await waits until n backends of the TCP service are in a state.
func (l *serviceLab) await(t *testing.T, state string, n int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list, err := l.client.Services(t.Context(), "web")
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, b := range list[0].Backends {
			if b.State == state && b.Health != nil && !b.Health.Healthy {
				got++
			}
		}
		if got == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d backends are %s, want %d: %+v", got, state, n, list[0].Backends)
		}
	}
}

// renamed: after many reloads that each name the service anew ids are used again, and
// none brings what was counted for the one before.
func (l *serviceLab) renamed(t *testing.T) {
	t.Helper()
	if _, err := l.client.FlushFlows(t.Context(), control.Filter{}, true); err != nil {
		t.Fatal(err)
	}
	for n := range 150 {
		l.name = fmt.Sprintf("web-%d", n)
		l.write()
		if _, err := l.client.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := l.client.Services(t.Context(), l.name)
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, s := range list {
			if s.Traffic != (control.Traffic{}) {
				t.Fatalf("%s begins with %+v", l.name, s.Traffic)
			}
		}
	}
	l.name = "web"
}
