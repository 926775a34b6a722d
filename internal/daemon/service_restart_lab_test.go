package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// TestServiceFlowsOutliveTheDaemon kills the daemon under connections to a service.
// They go on, under the same names, though the new process reads its services in
// another order and numbers them otherwise; and no late segment of theirs met
// anybody who would reset them.
func TestServiceFlowsOutliveTheDaemon(t *testing.T) {
	l := newRestartLab(t)
	configure := func(services string) {
		t.Helper()
		text := lab.PersistentConfig(filepath.Join(l.dir, "control.sock"), l.state) + services
		if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	service := func(name string, port int) string {
		return fmt.Sprintf("  - {name: %s, address: %s, port: %d, backends: [{address: %s, port: 7}, {address: %s, port: 7}]}\n",
			name, labVIP, port, lab.Client1Address, lab.Client2Address)
	}
	configure("services:\n" + service("one", 81) + service("two", 82))
	for host, addr := range map[*lab.Namespace]string{l.Client1: lab.Client1Address, l.Client2: lab.Client2Address} {
		l.echo(host, addr+":7")
	}
	l.start()
	var connections []net.Conn
	for i := range 20 {
		connections = append(connections, l.dial(l.Server1, fmt.Sprintf("%s:%d", labVIP, 81+i%2)))
	}
	l.echoed(connections)
	before := l.byService()
	configure("services:\n" + service("two", 82) + service("one", 81))
	l.stop(syscall.SIGKILL)
	l.start()
	l.echoed(connections)
	if after := l.byService(); before["one"] != 10 || before["two"] != 10 || after["one"] != 10 || after["two"] != 10 {
		t.Errorf("flows by service: %v, and %v after the restart", before, after)
	}
}

// echo sends back whatever connections send.
func (l *restartLab) echo(host *lab.Namespace, address string) {
	l.Helper()
	var listener net.Listener
	if err := host.Do(func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	}); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func (l *restartLab) dial(host *lab.Namespace, address string) (c net.Conn) {
	l.Helper()
	if err := host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", address, 20*time.Second)
		return err
	}); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	return c
}

// echoed has every connection carry a word and its echo.
func (l *restartLab) echoed(connections []net.Conn) {
	l.Helper()
	for i, c := range connections {
		word := fmt.Sprintf("word %d", i)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte(word)); err != nil {
			l.Fatalf("connection %d: %v", i, err)
		}
		answer := make([]byte, len(word))
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != word {
			l.Fatalf("connection %d: %q, %v", i, answer, err)
		}
	}
}

// byService counts the flows of each service.
func (l *restartLab) byService() map[string]int {
	l.Helper()
	count := map[string]int{}
	if err := l.client.Flows(context.Background(), control.Filter{}, func(f control.Flow) error {
		count[f.Service]++
		return nil
	}); err != nil {
		l.Fatal(err)
	}
	return count
}

// TestDrainOutlivesTheDaemon: what was drained by hand stays drained over a reload, a
// kill, an orderly restart and another release, until it is enabled; a backend
// that the configuration dropped meanwhile comes back as any other.
func TestDrainOutlivesTheDaemon(t *testing.T) {
	l := newRestartLab(t)
	configure := func(backends ...string) {
		t.Helper()
		text := lab.PersistentConfig(filepath.Join(l.dir, "control.sock"), l.state) +
			fmt.Sprintf("services:\n  - {name: one, address: %s, port: 81, backends: [%s]}\n", labVIP, strings.Join(backends, ", "))
		if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, second := fmt.Sprintf("{address: %s, port: 7}", lab.Client1Address), fmt.Sprintf("{address: %s, port: 7}", lab.Client2Address)
	states := func(when, want string) {
		t.Helper()
		list, err := l.client.Services(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, b := range list[0].Backends {
			if got += b.State + " "; b.Drained != (b.State == "draining") {
				t.Errorf("%s: %+v", when, b)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	drain := func(on bool) {
		t.Helper()
		b, err := control.ParseBackendAddress(lab.Client1Address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.client.SetDraining(t.Context(), "one", b, on); err != nil {
			t.Fatal(err)
		}
	}
	reload := func() {
		t.Helper()
		if _, err := l.client.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	configure(first, second)
	l.start()
	drain(true)
	states("drained", "draining active ")
	reload()
	states("after a reload", "draining active ")
	for when, s := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		l.stop(s)
		l.start()
		states(when, "draining active ")
	}
	l.stop(syscall.SIGTERM)
	l.program = l.upgraded
	l.start()
	states("after an upgrade", "draining active ")
	configure(second)
	reload()
	configure(first, second)
	reload()
	states("removed and back by reload", "active active ")
	drain(true)
	l.stop(syscall.SIGKILL)
	configure(second)
	l.start()
	configure(first, second)
	reload()
	states("removed and back over a restart", "active active ")
	drain(true)
	drain(false)
	l.stop(syscall.SIGKILL)
	l.start()
	states("enabled", "active active ")
	l.stop(syscall.SIGTERM)
}
