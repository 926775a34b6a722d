package daemon

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// held is a client's connection to the service that stays open.
type held struct {
	net.Conn
	read *bufio.Reader
	by   string // the backend that serves it
}

// request asks once more over the connection, and returns who served it.
func (c *held) request(client string) (by string, err error) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(c.read, nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	by, ok := strings.CutSuffix(string(body), " served "+client)
	if err == nil && !ok {
		err = fmt.Errorf("the answer is %q", body)
	}
	return by, err
}

// TestTakeoverLab: two gateways with the same services, and nothing shared, choose the
// same backend for every client. When the first one hangs, the second is started:
// the neighbours go over to it, and connections by Direct Server Return go on
// through it, in their middle, to the backend that has them.
func TestTakeoverLab(t *testing.T) {
	l := newAgentLab(t)
	l.backends, l.check = []string{lab.Client1Address, podAddress}, "{type: none}"
	must(t, os.WriteFile(l.file, []byte(l.config()), 0o600))
	must(t, os.WriteFile(l.conf, []byte(fmt.Sprintf(`dsr-agent:
  interfaces: [%s]
  trusted-gateways: [%s, %s]
  services: ["%s:%d"]
control: {socket: %s}
`, lab.HostNIC, lab.GatewayInside, lab.Gateway2Inside, labVIP, agentPort, filepath.Join(filepath.Dir(l.conf), "agent.sock"))), 0o600))
	_, err := l.client.Reload(t.Context())
	must(t, err)
	second, err := l.SecondGateway()
	must(t, err)
	t.Cleanup(func() { must(t, second.Close()) })
	must(t, second.AddRoute(lab.PodNetwork, lab.Client1Address))
	// The agent believes a gateway whose link address it knows.
	if out, err := l.Client1.Exec("ping", "-c", "1", "-W", "5", lab.Gateway2Inside); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.startAgent()

	var all []*held
	served := map[string]int{}
	for range 24 {
		var c net.Conn
		must(t, l.Server1.Do(func() (err error) {
			c, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", labVIP, agentPort), 20*time.Second)
			return err
		}))
		t.Cleanup(func() { c.Close() })
		x := &held{Conn: c, read: bufio.NewReader(c)}
		x.by, err = x.request(lab.Server1Address)
		must(t, err)
		served[x.by]++
		all = append(all, x)
	}
	if len(served) != 2 {
		t.Fatalf("served by %v", served)
	}
	was := l.choices(t, l.client)
	l.signal(syscall.SIGSTOP) // it holds no address any more, and its program drops
	other := l.startSecond(t, second)
	for i, c := range all {
		if by, err := c.request(lab.Server1Address); err != nil || by != c.by {
			t.Fatalf("connection %d, of %s: %q, %v", i, c.by, by, err)
		}
	}
	if now := l.choices(t, other); now != was {
		t.Errorf("the first gateway chose\n%s\nand the second\n%s", was, now)
	}
	flows := 0
	must(t, other.Flows(t.Context(), control.Filter{Service: "web"}, func(f control.Flow) error {
		if flows++; f.Kind != "service-dsr" || f.Packets.Original == 0 {
			t.Errorf("%+v", f)
		}
		return nil
	}))
	if flows < len(all) {
		t.Errorf("%d of %d connections passed the second gateway", flows, len(all))
	}
	if body, err := l.get(l.Server2, "/"); err != nil || !strings.HasSuffix(body, " served "+lab.Server2Address) {
		t.Errorf("a new connection: %q, %v", body, err)
	}

	// The first one comes back to life, and both say that two announce the address.
	l.signal(syscall.SIGCONT)
	for name, x := range map[string]struct {
		gateway *control.Client
		rival   *lab.Namespace
	}{"first": {l.client, second}, "second": {other, l.Gateway}} {
		mac, err := x.rival.MAC(lab.OutsideNIC)
		must(t, err)
		l.await("the "+name+" gateway tells of the other", func() bool {
			s, err := x.gateway.Status(t.Context())
			must(t, err)
			return slices.ContainsFunc(s.Degraded, func(d control.Degradation) bool {
				return strings.HasPrefix(d.What, "address conflict") && strings.Contains(d.What, mac.String()) && strings.Contains(d.What, labVIP)
			})
		})
	}
}

// choices is which backend a gateway says that each of many clients would get.
func (l *agentLab) choices(t *testing.T, gateway *control.Client) string {
	t.Helper()
	var list strings.Builder
	for i := range 200 {
		e, err := gateway.Explain(t.Context(), control.Question{
			Proto: "tcp", In: lab.OutsideNIC, Dst: netip.AddrPortFrom(netip.MustParseAddr(labVIP), agentPort),
			Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(30 + i)}), uint16(1024+i*7)),
		})
		must(t, err)
		fmt.Fprintln(&list, i, e.Verdict)
	}
	if !strings.Contains(list.String(), "balance to "+lab.Client1Address) || !strings.Contains(list.String(), "balance to "+podAddress) {
		t.Errorf("all clients get one backend:\n%s", list.String())
	}
	return list.String()
}

// startSecond runs a gateway of the same configuration in another namespace.
func (l *agentLab) startSecond(t *testing.T, at *lab.Namespace) *control.Client {
	t.Helper()
	dir := t.TempDir()
	file, socket, notify := filepath.Join(dir, "sluice.yaml"), filepath.Join(dir, "control.sock"), filepath.Join(dir, "notify.sock")
	text := strings.Replace(l.config(), filepath.Join(l.dir, "control.sock"), socket, 1)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	must(t, err)
	defer ready.Close()
	var log bytes.Buffer
	d := exec.Command(l.program, "run", "--config", file, "--detach-on-exit")
	d.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	d.Stderr = &log
	must(t, at.Start(d))
	t.Cleanup(func() {
		must(t, d.Process.Signal(syscall.SIGTERM))
		if err := d.Wait(); err != nil || t.Failed() {
			t.Errorf("the second gateway: %v\n%s", err, log.Bytes())
		}
	})
	must(t, ready.SetReadDeadline(time.Now().Add(20*time.Second)))
	if err := lab.ReadReady(ready); err != nil {
		t.Fatalf("the second gateway was not ready: %v\n%s", err, log.Bytes())
	}
	return control.NewClient(socket)
}
