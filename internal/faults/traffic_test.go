package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"sluice/internal/lab"
)

const (
	pace = 2 * time.Millisecond // between the datagrams of a stream

	// resume bounds the wait for traffic to go on once a fault is over, and for a
	// change to take effect. On a quiet machine that takes under a second, and
	// each test logs what it took; the bound is for busy ones.
	resume = 5 * time.Second

	// patience bounds the wait for what has no limit of its own.
	patience = 10 * time.Second

	echoPort = 7
)

// echoUDP answers datagrams at an address of a host: with the host's name, the
// source that it saw, and what was sent.
func (r *rig) echoUDP(n *lab.Namespace, name, address string) {
	r.Helper()
	var c *net.UDPConn
	r.must(n.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(address), Port: echoPort})
		return err
	}))
	r.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				// As short as can be: the way back is not what is tested.
				c.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %s %s", name, from, buf[:min(n, 8)]), from)
			}
		}
	}()
}

// echoTCP returns what it is sent, after a line with the source that it saw.
func (r *rig) echoTCP(n *lab.Namespace) {
	r.Helper()
	var ln net.Listener
	r.must(n.Do(func() (err error) {
		ln, err = net.Listen("tcp4", fmt.Sprint(":", echoPort))
		return err
	}))
	r.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%21s", c.RemoteAddr())
				io.Copy(c, c)
			}()
		}
	}()
}

// stream is a UDP conversation that never stops: numbers go out, and come back
// with who answered, and whom they saw.
type stream struct {
	rig  *rig
	name string
	conn *net.UDPConn
	size int

	mu       sync.Mutex
	sent     uint64
	answered uint64 // the highest number that came back
	by       string
	source   netip.AddrPort
	more     chan struct{} // closed and replaced with every answer
}

// stream starts a conversation between a host and a server. Its datagrams have
// size bytes, at least 8, and are never fragmented.
func (r *rig) stream(name string, from *lab.Namespace, server string, size int) *stream {
	r.Helper()
	s := &stream{rig: r, name: name, size: size, more: make(chan struct{})}
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		// Don't-fragment, whatever ICMP said of the path's MTU before.
		return errors.Join(raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_PROBE)
		}))
	}}
	r.must(from.Do(func() error {
		c, err := d.DialContext(context.Background(), "udp4", fmt.Sprintf("%s:%d", server, echoPort))
		if err == nil {
			s.conn = c.(*net.UDPConn)
		}
		return err
	}))
	r.whole.Cleanup(func() { s.conn.Close() })
	go s.send()
	go s.receive()
	return s
}

func (s *stream) send() {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	buf := make([]byte, s.size)
	for range tick.C {
		s.mu.Lock()
		s.sent++
		binary.BigEndian.PutUint64(buf, s.sent)
		s.mu.Unlock()
		// A fault may well make it fail.
		if _, err := s.conn.Write(buf); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (s *stream) receive() {
	buf := make([]byte, 2048)
	for {
		n, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error
		}
		words := bytes.SplitN(buf[:n], []byte(" "), 3)
		if len(words) < 3 || len(words[2]) != 8 {
			continue
		}
		s.mu.Lock()
		if number := binary.BigEndian.Uint64(words[2]); number > s.answered {
			s.answered, s.by = number, string(words[0])
			s.source, _ = netip.ParseAddrPort(string(words[1]))
			close(s.more)
			s.more = make(chan struct{})
		}
		s.mu.Unlock()
	}
}

// answer is what the latest answer says.
type answer struct {
	by     string
	source netip.AddrPort
}

// goesOn waits for an answer to a datagram that is sent from now on, and fails
// the test where none comes in time.
func (s *stream) goesOn(within time.Duration) answer {
	s.rig.Helper()
	return s.until(within, "goes on", func(answer) bool { return true })
}

// until waits for an answer, to a datagram that is sent from now on, that ok
// accepts.
func (s *stream) until(within time.Duration, what string, ok func(answer) bool) answer {
	s.rig.Helper()
	began := time.Now()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	s.mu.Lock()
	first := s.sent + 1
	var a answer
	for {
		if s.answered >= first {
			if a = (answer{s.by, s.source}); ok(a) {
				s.mu.Unlock()
				s.rig.Logf("%s: %s after %v", s.name, what, time.Since(began).Round(time.Millisecond))
				return a
			}
		}
		more := s.more
		s.mu.Unlock()
		select {
		case <-more:
		case <-deadline.C:
			s.rig.Fatalf("%s: not within %v: %s; from %s, last seen as %s by %s%s", s.name, within, what, s.conn.LocalAddr(), a.source, a.by, s.rig.state())
		}
		s.mu.Lock()
	}
}

// stops waits until several datagrams in a row stay without an answer.
func (s *stream) stops() {
	s.rig.Helper()
	const quiet = 25 // datagrams
	s.rig.eventually(s.name+" stops", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sent-s.answered < quiet {
			return fmt.Errorf("%d sent, %d answered", s.sent, s.answered)
		}
		return nil
	})
}

// session is a TCP connection that is asked to echo when the test wants to know.
type session struct {
	rig    *rig
	conn   net.Conn
	source string // that the server saw
	number uint64
}

func (r *rig) session(from *lab.Namespace, server string) *session {
	r.Helper()
	s := &session{rig: r}
	r.must(from.Do(func() (err error) {
		s.conn, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", server, echoPort), patience)
		return err
	}))
	r.whole.Cleanup(func() { s.conn.Close() })
	line := make([]byte, 21)
	s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(s.conn, line); err != nil {
		r.Fatal(err)
	}
	s.source = string(bytes.TrimSpace(line))
	return s
}

// goesOn sends a number and waits until it comes back.
func (s *session) goesOn() {
	s.rig.Helper()
	var out, in [8]byte
	s.number++
	binary.BigEndian.PutUint64(out[:], s.number)
	s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := s.conn.Write(out[:]); err != nil {
		s.rig.Fatalf("TCP connection: %v", err)
	}
	if _, err := io.ReadFull(s.conn, in[:]); err != nil || in != out {
		s.rig.Fatalf("TCP connection: sent %x, got %x: %v", out, in, err)
	}
}
