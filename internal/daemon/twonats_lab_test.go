package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// twoNATs are two gateways on one outside segment, each with a client behind it, and
// a server between them that tells each where it is seen.
type twoNATs struct {
	*stun
	second  *puntLab
	clients [2]*lab.Namespace
	port    int // of the next pair's sockets
}

func newTwoNATs(t *testing.T) *twoNATs {
	t.Helper()
	lab.RequireRoot(t)
	program := built(t, "")
	l := newLabWith(t, program, lab.Options{}, func(config string) string { return config })
	gateway, client, err := l.SecondSite()
	if err != nil {
		t.Fatal(err)
	}
	watch, err := lab.Watch(l.OutsideSwitch, lab.SitePort, lab.SitePolicy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := watch.Close().Err(); err != nil {
			t.Error(err)
		}
		client.Close()
		gateway.Close()
	})
	dir := t.TempDir()
	socket := filepath.Join(dir, "control.sock")
	second := &puntLab{
		Topology: &lab.Topology{Gateway: gateway}, t: t, client: control.NewClient(socket), file: filepath.Join(dir, "sluice.yaml"),
	}
	n := &twoNATs{stun: newStun(l), second: second, clients: [2]*lab.Namespace{l.Client1, client}, port: 5000}
	n.configure(1, "")
	second.start(program, second.file, filepath.Join(dir, "notify.sock"))
	return n
}

// side is the gateway of a client.
func (n *twoNATs) side(i int) *puntLab { return [2]*puntLab{n.puntLab, n.second}[i] }

// configure writes a gateway's configuration, with more keys of masquerade.
func (n *twoNATs) configure(i int, keys string) {
	n.t.Helper()
	text := lab.Config(filepath.Join(filepath.Dir(n.side(i).file), "control.sock"))
	if i == 1 {
		text = strings.ReplaceAll(text, lab.InsideNetwork, lab.SiteNetwork)
	}
	text = strings.Replace(text, "masquerade:\n", "masquerade:\n"+keys, 1)
	if err := os.WriteFile(n.side(i).file, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// behave reloads a gateway as a NAT of that kind.
func (n *twoNATs) behave(i int, kind natKind) {
	n.t.Helper()
	n.configure(i, fmt.Sprintf("  mapping: %s\n  filtering: %s\n", kind.mapping, kind.filtering))
	if _, err := n.side(i).client.Reload(context.Background()); err != nil {
		n.t.Fatal(err)
	}
}

// natKind is how a NAT maps and filters, in words of RFC 4787.
type natKind struct{ mapping, filtering string }

func (k natKind) independent() bool { return k.mapping == "endpoint-independent" }
func (k natKind) open() bool        { return k.filtering == "endpoint-independent" }
func (k natKind) strict() bool      { return k.filtering == "address-and-port-dependent" }

// meet says whether two clients meet who know of each other where the server sees
// them, the first one sending first, and answer whom they hear, as RFC 5128 has it:
// between NATs of endpoint-independent mapping always; else one of them must let in
// what comes from a port that it has not sent to.
func meet(a, b natKind) bool {
	switch {
	case a.independent() && b.independent():
		return true
	case a.independent():
		return !a.strict() || b.open()
	case b.independent():
		return !b.strict()
	}
	return a.open() || b.open()
}

// TestHolePunchingLab: two clients behind two gateways, for every pair of
// endpoint-independent or address-and-port-dependent mapping and the three kinds of
// filtering: they meet where RFC 5128 says so, and nowhere else. And over TCP, by
// simultaneous open (RFC 5382 REQ-2a).
func TestHolePunchingLab(t *testing.T) {
	n := newTwoNATs(t)
	var kinds []natKind
	for _, mapping := range []string{"endpoint-independent", "address-and-port-dependent"} {
		for _, filtering := range []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"} {
			kinds = append(kinds, natKind{mapping, filtering})
		}
	}
	met, pairs := 0, 0
	for i, a := range kinds {
		n.behave(0, a)
		for _, b := range kinds[i:] {
			n.behave(1, b)
			pairs++
			got := n.punchThrough()
			if got != meet(a, b) {
				t.Errorf("%v and %v meet: %v, RFC 5128 says %v", a, b, got, !got)
			}
			if got {
				met++
			}
		}
	}
	t.Logf("%d of %d pairs meet", met, pairs)
	n.behave(0, natKind{"endpoint-independent", "address-and-port-dependent"})
	n.behave(1, natKind{"endpoint-independent", "address-and-port-dependent"})
	n.simultaneousOpen()
}

// peer is one client's socket, and whom it sends to.
type peer struct {
	*net.UDPConn
	to    netip.AddrPort
	heard bool
}

// punchThrough has the clients learn from the server where they are seen and tell
// each other, and reports whether both hear each other.
func (n *twoNATs) punchThrough() bool {
	n.t.Helper()
	n.port++
	var peers [2]peer
	for i, at := range []string{lab.Client1Address, lab.SiteClient} {
		peers[i].UDPConn = n.udp(n.clients[i], fmt.Sprintf("%s:%d", at, n.port))
	}
	for i := range peers {
		peers[1-i].to = n.mapped(peers[i].UDPConn, 0, 0)
	}
	for range 2 {
		for i := range peers {
			n.say(&peers[i], &peers[1-i], n.side(1-i))
		}
	}
	// Once both heard, an answer reaches the other from where it was heard.
	for i := range peers {
		if !peers[i].heard {
			return false
		}
	}
	for i := range peers {
		peers[1-i].heard = false
		if n.say(&peers[i], &peers[1-i], n.side(1-i)); !peers[1-i].heard {
			return false
		}
	}
	return true
}

// say has one peer send to where it takes the other to be, which takes the sender to
// be where it hears it from; or the other's gateway says that it dropped it.
func (n *twoNATs) say(from, to *peer, gateway *puntLab) {
	n.t.Helper()
	refused := func() uint64 { return gateway.drops("filtered") + gateway.drops("reply-tuple-taken") }
	before := refused()
	n.write(from.UDPConn, from.to.String(), []byte("are you there?"))
	buffer := make([]byte, 64)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if err := to.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			n.t.Fatal(err)
		}
		if _, sender, err := to.ReadFromUDPAddrPort(buffer); err == nil {
			to.heard, to.to = true, sender
			return
		}
		if refused() > before {
			return
		}
	}
	n.t.Fatalf("what was sent to %v neither arrived nor was dropped", from.to)
}

// simultaneousOpen connects the two clients over TCP: each knows from a connection
// to the server where it is seen, and both call there at once from the same port.
func (n *twoNATs) simultaneousOpen() {
	n.t.Helper()
	n.port++
	var listener net.Listener
	if err := n.Server1.Do(func() (err error) {
		listener, err = net.Listen("tcp4", lab.Server1Address+":3478")
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	defer listener.Close()
	var local, seen [2]netip.AddrPort
	for i, at := range []string{lab.Client1Address, lab.SiteClient} {
		local[i] = netip.AddrPortFrom(netip.MustParseAddr(at), uint16(n.port))
		c, err := dialFrom(n.clients[i], local[i], listener.Addr().String())
		if err != nil {
			n.t.Fatal(err)
		}
		defer c.Close()
		s, err := listener.Accept()
		if err != nil {
			n.t.Fatal(err)
		}
		defer s.Close()
		seen[i] = s.RemoteAddr().(*net.TCPAddr).AddrPort()
	}
	var conns [2]net.Conn
	var errs [2]error
	done := make(chan struct{}, 2)
	for i := range conns {
		go func() {
			conns[i], errs[i] = dialFrom(n.clients[i], local[i], seen[1-i].String())
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	for i := range conns {
		if errs[i] != nil {
			n.t.Fatalf("client %d calls %v: %v", i+1, seen[1-i], errs[i])
		}
		defer conns[i].Close()
	}
	for i := range conns {
		words := fmt.Sprintf("from client %d", i+1)
		if _, err := conns[i].Write([]byte(words)); err != nil {
			n.t.Fatal(err)
		}
		b := make([]byte, len(words))
		if err := conns[1-i].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			n.t.Fatal(err)
		}
		if _, err := io.ReadFull(conns[1-i], b); err != nil || string(b) != words {
			n.t.Errorf("heard %q (%v), want %q", b, err, words)
		}
	}
}

// dialFrom connects from a port that another connection of the host has as well.
func dialFrom(host *lab.Namespace, local netip.AddrPort, to string) (c net.Conn, err error) {
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(local), Timeout: 30 * time.Second, KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			if err := raw.Control(func(fd uintptr) {
				failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
			}); err != nil {
				return err
			}
			return failed
		},
	}
	err = host.Do(func() (err error) {
		c, err = d.Dial("tcp4", to)
		return err
	})
	return c, err
}
