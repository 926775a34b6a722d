package demo

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"sluice/internal/lab"
)

const (
	sessionPace  = 2 * time.Millisecond // between one exchange and the next
	sessionStall = 5 * time.Second      // an exchange that takes longer has failed
)

// session is a TCP connection of the gateway's own host that goes on while the
// gateway works: numbers go out in order and must come back in order.
type session struct {
	conn net.Conn
	seen netip.Addr // whom the far end saw
	end  chan struct{}
	once sync.Once
	done chan struct{}

	// Read after done.
	rounds  uint64
	longest time.Duration
	err     error
}

// openSession connects to a session server and begins to exchange numbers.
func openSession(ctx context.Context, from host, address string) (*session, error) {
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
	seen, err := netip.ParseAddrPort(strings.TrimSpace(line))
	if err != nil {
		c.Close()
		return nil, err
	}
	s := &session{conn: c, seen: seen.Addr(), end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer c.Close()
		s.err = s.exchange(r)
	}()
	return s, nil
}

func (s *session) exchange(r io.Reader) error {
	tick := time.NewTicker(sessionPace)
	defer tick.Stop()
	var out, in [8]byte
	for {
		select {
		case <-s.end:
			return nil
		case <-tick.C:
		}
		began := time.Now()
		s.conn.SetDeadline(began.Add(sessionStall))
		binary.BigEndian.PutUint64(out[:], s.rounds+1)
		if _, err := s.conn.Write(out[:]); err != nil {
			return fmt.Errorf("after %d exchanges: %w", s.rounds, err)
		}
		if _, err := io.ReadFull(r, in[:]); err != nil {
			return fmt.Errorf("after %d exchanges: %w", s.rounds, err)
		}
		if in != out {
			return fmt.Errorf("after %d exchanges: number %d came back as %d", s.rounds, s.rounds+1, binary.BigEndian.Uint64(in[:]))
		}
		s.rounds++
		s.longest = max(s.longest, time.Since(began))
	}
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
	s.intoHost, err = openSession(ctx, s.server2, lab.GatewayOutside)
	return opened(s.intoHost, err)
}

func (s *story) openOutbound(ctx context.Context) (o outcome, err error) {
	s.outOfHost, err = openSession(ctx, s.gateway, lab.Server1Address)
	return opened(s.outOfHost, err)
}

func opened(s *session, err error) (o outcome, _ error) {
	if err != nil {
		return o, err
	}
	o.saw(s.seen)
	o.detail = "goes on until the end"
	return o, nil
}

func (s *story) closeInbound(context.Context) (outcome, error)  { return s.intoHost.stop() }
func (s *story) closeOutbound(context.Context) (outcome, error) { return s.outOfHost.stop() }
