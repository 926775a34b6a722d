package attack

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/lab"
)

const (
	connections = 10_000
	dialers     = 32 // at once
	port        = ":7007"
	message     = 4               // bytes: its number
	answer      = message + 4 + 2 // and who asks, as the server sees it
)

// serve answers each message with the endpoint that the connection comes from, until
// it is told to end.
func serve(at string) error {
	l, err := net.Listen("tcp4", at)
	if err != nil {
		return err
	}
	ready, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	if _, err := ready.Write([]byte("READY=1")); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			var b [answer]byte
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
			addr := from.Addr().Unmap().As4()
			binary.BigEndian.PutUint16(b[copy(b[message:], addr[:])+message:], from.Port())
			for {
				if _, err := io.ReadFull(c, b[:message]); err != nil {
					return
				}
				if _, err := c.Write(b[:]); err != nil {
					return
				}
			}
		}()
	}
}

// many are open connections; external has what each is known by outside.
type many struct {
	conns    []net.Conn
	external []netip.AddrPort
	said     uint32
}

// openMany opens n connections from both clients.
func (r *rig) openMany(n int) *many {
	r.Helper()
	m := &many{conns: make([]net.Conn, n), external: make([]netip.AddrPort, n)}
	r.Cleanup(func() {
		for _, c := range m.conns {
			if c != nil {
				c.Close()
			}
		}
	})
	failed := make([]error, dialers)
	var running sync.WaitGroup
	for d := range dialers {
		running.Go(func() {
			failed[d] = [2]*lab.Namespace{r.Client1, r.Client2}[d%2].Do(func() (err error) {
				for i := d; i < n; i += dialers {
					if m.conns[i], err = net.DialTimeout("tcp4", lab.Server1Address+port, patience); err != nil {
						return fmt.Errorf("connection %d: %w", i, err)
					}
				}
				return nil
			})
		})
	}
	running.Wait()
	for _, err := range failed {
		if err != nil {
			r.Fatal(err)
		}
	}
	return m
}

// talk has every connection ask and be answered, and be known by the endpoint
// that it was known by before.
func (r *rig) talk(m *many) {
	r.Helper()
	m.said++
	deadline := time.Now().Add(patience)
	var b [answer]byte
	for i, c := range m.conns {
		binary.BigEndian.PutUint32(b[:], m.said)
		if _, err := c.Write(b[:message]); err != nil {
			r.Fatalf("connection %d of %d: %v", i, len(m.conns), err)
		}
	}
	seen := map[netip.AddrPort]bool{}
	for i, c := range m.conns {
		if err := c.SetReadDeadline(deadline); err != nil {
			r.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			r.Fatalf("connection %d of %d: %v", i, len(m.conns), err)
		}
		external := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[message:])), binary.BigEndian.Uint16(b[message+4:]))
		if binary.BigEndian.Uint32(b[:]) != m.said || m.external[i].IsValid() && m.external[i] != external || seen[external] {
			r.Fatalf("connection %d was answered %x as %v, before as %v; another has it: %v", i, b[:message], external, m.external[i], seen[external])
		}
		m.external[i], seen[external] = external, true
	}
}

// inside is the address and port of a connection's client.
func (m *many) inside(i int) netip.AddrPort {
	return m.conns[i].LocalAddr().(*net.TCPAddr).AddrPort()
}

// TestTenThousandConnections: they are open at once, and go on whatever is sent at
// the gateway, from inside and outside. Where so many files may not be open, there
// are fewer.
func TestTenThousandConnections(t *testing.T) {
	const others = 2000 // files besides
	n := files(t, connections+others) - others
	switch {
	case n < connections/10:
		t.Fatalf("%d files may be open; allow %d (ulimit -Hn)", n+others, connections+others)
	case n < connections:
		t.Logf("%d connections only: raise the limit of open files (ulimit -Hn)", n)
	}
	r := newRig(t, 65536)
	r.serveMany()
	m := r.openMany(n)
	r.talk(m)
	r.established(n)
	memory := r.memory()
	for _, attack := range []struct {
		name string
		try  func(m *many)
	}{
		{"datagrams to random ports from one inside host", r.floodInside},
		{"forged ICMP errors", r.forgeErrors},
		{"forged resets", r.forgeResets},
		{"fragments without a first one", r.floodFragments},
	} {
		t.Run(attack.name, func(sub *testing.T) {
			whole := r.T
			r.T = sub
			defer func() { r.T = whole }()
			attack.try(m)
			r.talk(m)
			r.established(n)
		})
	}
	if after := r.memory(); after > memory+64<<20 {
		t.Errorf("the gateway grew from %d to %d MB", memory>>20, after>>20)
	}
	t.Run("traceroute and path MTU from outside", func(sub *testing.T) {
		r.T = sub
		defer func() { r.T = t }()
		r.fromOutside()
	})
	if err := r.Checker.Report().Err(); err != nil {
		t.Error(err)
	}
}
