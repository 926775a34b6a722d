package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/lab"
)

// TestBehaviourLab classifies a gateway on real kernels as a STUN client would
// (RFC 5780), and has two clients behind it punch a hole to each other: as
// configured by default, and as peer-to-peer programs wish it, with external
// addresses of its own.
func TestBehaviourLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	const pool = "198.51.100.64/31"
	for _, c := range []struct{ name, mapping, filtering, addresses string }{
		{"the default", "endpoint-independent", "address-and-port-dependent", "auto"},
		{"for peer-to-peer programs", "endpoint-independent", "endpoint-independent", pool},
		{"address-dependent", "address-dependent", "address-dependent", pool},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLabWith(t, program, lab.Options{}, func(config string) string {
				return strings.Replace(config, "addresses: [auto]", fmt.Sprintf("addresses: [%s]\n  mapping: %s\n  filtering: %s", c.addresses, c.mapping, c.filtering), 1)
			})
			s := newStun(l)
			mapping, filtering := s.classify()
			t.Logf("RFC 5780: %s mapping, %s filtering", mapping, filtering)
			if mapping != c.mapping || filtering != c.filtering {
				t.Errorf("classified as %s mapping, %s filtering; %s, %s were configured", mapping, filtering, c.mapping, c.filtering)
			}
			if c.mapping == "endpoint-independent" {
				s.punch()
			}
			if err := l.Checker.Close().Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// stun is a server with two addresses of two ports each.
type stun struct {
	*puntLab
	servers [2][2]*net.UDPConn // by address and port
	at      [2][2]string
}

func newStun(l *puntLab) *stun {
	s := &stun{puntLab: l}
	for i, host := range []*lab.Namespace{l.Server1, l.Server2} {
		for j, port := range []int{3478, 3479} {
			s.at[i][j] = fmt.Sprintf("%s:%d", []string{lab.Server1Address, lab.Server2Address}[i], port)
			s.servers[i][j] = l.udp(host, s.at[i][j])
		}
	}
	return s
}

// mapped is where a server sees the client come from.
func (s *stun) mapped(c *net.UDPConn, i, j int) netip.AddrPort {
	s.t.Helper()
	s.write(c, s.at[i][j], []byte("binding request"))
	server := s.servers[i][j]
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	_, from, err := server.ReadFromUDPAddrPort(make([]byte, 64))
	if err != nil {
		s.t.Fatalf("%s was not reached: %v", s.at[i][j], err)
	}
	return from
}

// reaches reports whether what a server sends to an external endpoint arrives at
// the client, or whether the gateway says that it filtered it.
func (s *stun) reaches(c *net.UDPConn, i, j int, to netip.AddrPort) bool {
	s.t.Helper()
	filtered := s.drops("filtered")
	s.write(s.servers[i][j], to.String(), []byte(s.at[i][j]))
	buffer := make([]byte, 64)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			s.t.Fatal(err)
		}
		switch n, from, err := c.ReadFromUDPAddrPort(buffer); {
		case err == nil && (string(buffer[:n]) != s.at[i][j] || from.String() != s.at[i][j]):
			s.t.Fatalf("%q arrived from %v, sent by %s", buffer[:n], from, s.at[i][j])
		case err == nil:
			return true
		case !errors.Is(err, os.ErrDeadlineExceeded):
			s.t.Fatal(err)
		case s.drops("filtered") > filtered:
			return false
		}
	}
	s.t.Fatalf("what %s sent to %v neither arrived nor was filtered", s.at[i][j], to)
	return false
}

// classify is RFC 5780 4.3 and 4.4, each from a socket of its own.
func (s *stun) classify() (mapping, filtering string) {
	s.t.Helper()
	words := [3]string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}
	c := s.udp(s.Client1, lab.Client1Address+":5000")
	first := s.mapped(c, 0, 0)
	switch {
	case s.mapped(c, 1, 0) == first:
		mapping = words[0]
	case s.mapped(c, 0, 1) == first:
		mapping = words[1]
	default:
		mapping = words[2]
	}
	c = s.udp(s.Client1, lab.Client1Address+":5001")
	first = s.mapped(c, 0, 0)
	switch {
	case !s.reaches(c, 0, 0, first):
		s.t.Error("the server that was asked is filtered")
	case s.reaches(c, 1, 1, first):
		filtering = words[0]
	case s.reaches(c, 0, 1, first):
		filtering = words[1]
	default:
		filtering = words[2]
	}
	return mapping, filtering
}

// punch lets two clients behind the gateway learn from the server where they are
// seen, and talk to each other there.
func (s *stun) punch() {
	s.t.Helper()
	a, b := s.udp(s.Client1, lab.Client1Address+":6000"), s.udp(s.Client2, lab.Client2Address+":6000")
	atA, atB := s.mapped(a, 0, 0), s.mapped(b, 0, 0)
	if atA == atB {
		s.t.Fatalf("both clients are seen at %v", atA)
	}
	s.write(a, atB.String(), []byte("from a"))
	s.heard(b, "from a", atA)
	s.write(b, atA.String(), []byte("from b"))
	s.heard(a, "from b", atB)
	s.t.Logf("punched: %v and %v", atA, atB)
}

func (s *stun) heard(c *net.UDPConn, want string, from netip.AddrPort) {
	s.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	buffer := make([]byte, 64)
	n, sender, err := c.ReadFromUDPAddrPort(buffer)
	if err != nil || string(buffer[:n]) != want || sender != from {
		s.t.Errorf("heard %q from %v (%v), want %q from %v", buffer[:n], sender, err, want, from)
	}
}
