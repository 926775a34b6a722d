package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"sluice/internal/lab"
)

const (
	answerTimeout = time.Second // for one datagram
	attempts      = 3           // UDP may lose one; losses are counted
	largest       = 1400        // bytes of content that fit with the answer's first line
)

// tally is what a series of questions met.
type tally struct {
	lost             int
	fastest, slowest time.Duration
	total            time.Duration
	n                int
}

func (t *tally) add(d time.Duration) {
	if t.n == 0 || d < t.fastest {
		t.fastest = d
	}
	t.slowest = max(t.slowest, d)
	t.total += d
	t.n++
}

func (t *tally) merge(u tally) {
	if t.n == 0 || u.n > 0 && u.fastest < t.fastest {
		t.fastest = u.fastest
	}
	t.slowest = max(t.slowest, u.slowest)
	t.total += u.total
	t.n += u.n
	t.lost += u.lost
}

func (t *tally) String() string {
	return fmt.Sprintf("%d answered, %d lost, %s/%s/%s min/avg/max",
		t.n, t.lost, round(t.fastest), round(t.total/time.Duration(max(t.n, 1))), round(t.slowest))
}

// datagrams has both clients ask server1, side by side, with contents of every
// length class.
func (s *story) datagrams(ctx context.Context) (o outcome, err error) {
	var (
		g   group
		mu  sync.Mutex
		sum tally
	)
	for _, from := range []host{s.client1, s.client2} {
		g.run(func() error {
			t, seen, err := s.questions(ctx, from, lab.Server1Address)
			mu.Lock()
			defer mu.Unlock()
			sum.merge(t)
			if seen.IsValid() {
				o.saw(seen)
			}
			return err
		})
	}
	err = g.wait()
	o.detail = sum.String()
	return o, err
}

func (s *story) datagramsExcluded(ctx context.Context) (o outcome, err error) {
	t, seen, err := s.questions(ctx, s.client1, lab.ExcludedAddress)
	if seen.IsValid() {
		o.saw(seen)
	}
	o.detail = t.String()
	return o, err
}

// questions sends datagrams one after the other from one socket, waits for each
// answer, and checks that the server saw the same address throughout.
func (s *story) questions(ctx context.Context, from host, address string) (t tally, seen netip.Addr, err error) {
	c, err := from.packets("udp4", ":0")
	if err != nil {
		return t, seen, err
	}
	defer c.Close()
	var first netip.AddrPort
	for i := range datagrams {
		got, err := s.question(ctx, c, address, i*largest/(datagrams-1), &t)
		if err != nil {
			return t, seen, fmt.Errorf("datagram %d: %w", i, err)
		}
		if i == 0 {
			first, seen = got, got.Addr()
		} else if got != first {
			return t, got.Addr(), fmt.Errorf("datagram %d came from %s, the first from %s", i, got, first)
		}
	}
	return t, seen, nil
}

// question sends size random bytes to a whoUDP server and returns the address
// that it saw.
func (s *story) question(ctx context.Context, c net.PacketConn, address string, size int, t *tally) (netip.AddrPort, error) {
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), portWhoUDP))
	start := rand.IntN(len(s.payload) - size)
	content := s.payload[start : start+size]
	buf := make([]byte, 2048)
	for range attempts {
		if err := ctx.Err(); err != nil {
			return netip.AddrPort{}, err
		}
		began := time.Now()
		if _, err := c.WriteTo(content, to); err != nil {
			return netip.AddrPort{}, err
		}
		c.SetReadDeadline(began.Add(answerTimeout))
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.lost++
			continue
		}
		if err != nil {
			return netip.AddrPort{}, err
		}
		if from.String() != to.String() {
			return netip.AddrPort{}, fmt.Errorf("asked %s, %s answered", to, from)
		}
		line, echoed, _ := bytes.Cut(buf[:n], []byte("\n"))
		if !bytes.Equal(echoed, content) {
			return netip.AddrPort{}, fmt.Errorf("%d bytes came back changed", size)
		}
		t.add(time.Since(began))
		return netip.ParseAddrPort(string(line))
	}
	return netip.AddrPort{}, fmt.Errorf("no answer from %s to %d datagrams", to, attempts)
}

// sameMapping asks two servers from one socket: with endpoint-independent
// mapping both see the same address and port (RFC 4787 REQ-1).
func (s *story) sameMapping(ctx context.Context) (o outcome, err error) {
	c, err := s.client1.packets("udp4", ":0")
	if err != nil {
		return o, err
	}
	defer c.Close()
	var t tally
	at1, err := s.question(ctx, c, lab.Server1Address, 64, &t)
	if err != nil {
		return o, err
	}
	at2, err := s.question(ctx, c, lab.Server2Address, 64, &t)
	if err != nil {
		return o, err
	}
	o.saw(at1.Addr())
	o.saw(at2.Addr())
	if at1 != at2 {
		return o, fmt.Errorf("server1 saw %s, server2 %s", at1, at2)
	}
	o.detail = fmt.Sprintf("both saw port %d", at1.Port())
	return o, nil
}
