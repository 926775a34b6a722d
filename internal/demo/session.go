package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"sluice/internal/lab"
)

const (
	sessionPace  = 2 * time.Millisecond  // between one exchange and the next
	sessionStall = 10 * time.Second      // an exchange that takes longer has failed
	askAgain     = 20 * time.Millisecond // when a datagram is taken for lost
)

// session is a TCP connection or a UDP flow that goes on while something else
// happens: numbers go out in order and must come back in order.
type session struct {
	conn     net.Conn
	exchange func(number uint64) error
	pace     time.Duration
	seen     netip.AddrPort // whom the far end saw
	end      chan struct{}
	once     sync.Once
	done     chan struct{}

	// Read after done.
	rounds  uint64
	longest time.Duration
	err     error
}

// openSession connects to a session server and begins to exchange numbers.
func openSession(ctx context.Context, from host, address string, pace time.Duration) (*session, error) {
	c, err := from.dial(ctx, "tcp4", at(address, portSession))
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(sessionStall))
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		c.Close()
		return nil, err
	}
	s := &session{conn: c, pace: pace}
	if s.seen, err = netip.ParseAddrPort(strings.TrimSpace(line)); err != nil {
		c.Close()
		return nil, err
	}
	s.exchange = func(number uint64) error { return s.overTCP(r, number) }
	s.start()
	return s, nil
}

// openUDPSession begins to exchange numbers with a whoUDP server.
func openUDPSession(ctx context.Context, from host, address string, pace time.Duration) (*session, error) {
	c, err := from.dial(ctx, "udp4", at(address, portWhoUDP))
	if err != nil {
		return nil, err
	}
	s := &session{conn: c, pace: pace}
	s.exchange = s.overUDP
	if err := s.overUDP(0); err != nil {
		c.Close()
		return nil, err
	}
	s.start()
	return s, nil
}

func (s *session) start() {
	s.end, s.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(s.done)
		defer s.conn.Close()
		s.err = s.run()
	}()
}

func (s *session) run() error {
	tick := time.NewTicker(s.pace)
	defer tick.Stop()
	for {
		select {
		case <-s.end:
			return nil
		case <-tick.C:
		}
		began := time.Now()
		if err := s.exchange(s.rounds + 1); err != nil {
			return fmt.Errorf("after %d exchanges: %w", s.rounds, err)
		}
		s.rounds++
		s.longest = max(s.longest, time.Since(began))
	}
}

func (s *session) overTCP(r io.Reader, number uint64) error {
	var out, in [8]byte
	s.conn.SetDeadline(time.Now().Add(sessionStall))
	binary.BigEndian.PutUint64(out[:], number)
	if _, err := s.conn.Write(out[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, in[:]); err != nil {
		return err
	}
	if in != out {
		return fmt.Errorf("number %d came back as %d", number, binary.BigEndian.Uint64(in[:]))
	}
	return nil
}

// overUDP asks again until there is an answer: a datagram may be lost.
func (s *session) overUDP(number uint64) error {
	out := binary.BigEndian.AppendUint64(nil, number)
	in := make([]byte, 64)
	for deadline := time.Now().Add(sessionStall); time.Now().Before(deadline); {
		if _, err := s.conn.Write(out); err != nil {
			return err
		}
		s.conn.SetReadDeadline(time.Now().Add(askAgain))
		for {
			n, err := s.conn.Read(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			line, echoed, _ := bytes.Cut(in[:n], []byte("\n"))
			if !bytes.Equal(echoed, out) {
				continue // to a question before
			}
			seen, err := netip.ParseAddrPort(string(line))
			if err == nil && s.seen.IsValid() && seen != s.seen {
				err = fmt.Errorf("the far end saw %s, and now %s", s.seen, seen)
			}
			s.seen = seen
			return err
		}
	}
	return fmt.Errorf("no answer within %v", sessionStall)
}

// stop ends the session and returns how it went. A session that was never
// opened has not gone on.
func (s *session) stop() (outcome, error) {
	if s == nil {
		return outcome{}, errors.New("the session was never open")
	}
	s.once.Do(func() { close(s.end) })
	<-s.done
	if s.err == nil && s.rounds == 0 {
		return outcome{}, errors.New("not one exchange was made")
	}
	return outcome{detail: fmt.Sprintf("%d exchanges in order, the slowest took %s", s.rounds, round(s.longest))}, s.err
}

func (s *story) openInbound(ctx context.Context) (o outcome, err error) {
	s.intoHost, err = openSession(ctx, s.server2, lab.GatewayOutside, sessionPace)
	return opened(s.intoHost, err)
}

func (s *story) openOutbound(ctx context.Context) (o outcome, err error) {
	s.outOfHost, err = openSession(ctx, s.gateway, lab.Server1Address, sessionPace)
	return opened(s.outOfHost, err)
}

func opened(s *session, err error) (o outcome, _ error) {
	if err != nil {
		return o, err
	}
	o.saw(s.seen.Addr())
	o.detail = "goes on until the end"
	return o, nil
}

func (s *story) closeInbound(context.Context) (outcome, error)  { return s.intoHost.stop() }
func (s *story) closeOutbound(context.Context) (outcome, error) { return s.outOfHost.stop() }
