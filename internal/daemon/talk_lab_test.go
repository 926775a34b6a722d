package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/lab"
)

// talk is one flow that keeps moving data: the server answers each message with
// the address that it came from.
type talk struct {
	conn     net.Conn
	answers  atomic.Int64
	external netip.AddrPort
	quiet    *silence      // of all flows of its protocol
	ended    chan struct{} // closed when it has
	err      error         // why, if not because it was to; read after ended
}

// silence is how long no flow of many had an answer: with a message every
// fraction of a millisecond, as long as nothing was forwarded.
type silence struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

// broken says that an answer came now.
func (s *silence) broken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.last.IsZero() {
		s.longest = max(s.longest, now.Sub(s.last))
	}
	s.last = now
}

// take returns the longest silence since the last call.
func (s *silence) take() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.longest
	s.longest = 0
	return longest.Round(time.Millisecond)
}

const (
	talkPause   = 250 * time.Millisecond // between an answer and the next message
	talkTimeout = 20 * time.Second       // TCP doubles its patience with every loss

	question = 8                // bytes: its number
	answer   = question + 4 + 2 // and the sender, as the server saw it
	serve    = ":7007"          // where the servers are
	patience = 100 * time.Millisecond
)

// run exchanges messages until stop is closed or the flow fails.
func (f *talk) run(stop <-chan struct{}) {
	defer close(f.ended)
	// Not all at once.
	pause := rand.N(talkPause)
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
		pause = talkPause
		got, err := f.exchange(n)
		if err != nil {
			f.err = err
			return
		}
		if !got {
			continue // a datagram may be lost; the next one asks again
		}
		f.quiet.broken()
		f.answers.Add(1)
	}
}

// exchange sends message n and reads its answer.
func (f *talk) exchange(n uint64) (got bool, err error) {
	var b [answer]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, stream := f.conn.(*net.TCPConn)
	wait := patience
	if stream {
		wait = talkTimeout
	}
	if err := f.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false, err
	}
	if _, err := f.conn.Write(b[:question]); err != nil {
		return false, err
	}
	for {
		if _, err := io.ReadFull(f.conn, b[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && !stream {
				return false, nil
			}
			return false, fmt.Errorf("message %d: %w", n, err)
		}
		if binary.BigEndian.Uint64(b[:]) == n {
			break
		}
		if stream {
			return false, fmt.Errorf("message %d was answered with %d", n, binary.BigEndian.Uint64(b[:]))
		}
	}
	seen := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), binary.BigEndian.Uint16(b[12:]))
	if f.external.IsValid() && f.external != seen {
		return false, fmt.Errorf("renumbered: the server saw %v, and now %v", f.external, seen)
	}
	f.external = seen
	return true, nil
}

func appendAnswer(b []byte, from netip.AddrPort) []byte {
	addr := from.Addr().Unmap().As4()
	return binary.BigEndian.AppendUint16(append(b[:question], addr[:]...), from.Port())
}

// serveTalks answers on a server, over TCP and UDP, until the test ends.
func (l *restartLab) serveTalks(host *lab.Namespace) {
	l.Helper()
	var tcp net.Listener
	var udp *net.UDPConn
	if err := host.Do(func() (err error) {
		if tcp, err = net.Listen("tcp4", serve); err != nil {
			return err
		}
		addr, err := net.ResolveUDPAddr("udp4", serve)
		if err != nil {
			return err
		}
		udp, err = net.ListenUDP("udp4", addr)
		return err
	}); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var b [answer]byte
				from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
				for {
					if _, err := io.ReadFull(c, b[:question]); err != nil {
						return
					}
					if _, err := c.Write(appendAnswer(b[:], from)); err != nil {
						return
					}
				}
			}()
		}
	}()
	go func() {
		var b [answer]byte
		for {
			if _, from, err := udp.ReadFromUDPAddrPort(b[:question]); err != nil {
				return
			} else if _, err := udp.WriteToUDPAddrPort(appendAnswer(b[:], from), from); err != nil {
				return
			}
		}
	}()
}

// open starts n flows of a network from both clients.
func (l *restartLab) open(network string, n int, stop <-chan struct{}, running *sync.WaitGroup) (list []*talk, quiet *silence) {
	l.Helper()
	quiet = &silence{}
	for i := range n {
		f := &talk{quiet: quiet, ended: make(chan struct{})}
		if err := [2]*lab.Namespace{l.Client1, l.Client2}[i%2].Do(func() (err error) {
			f.conn, err = net.DialTimeout(network, lab.Server1Address+serve, 5*time.Second)
			return err
		}); err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { f.conn.Close() })
		list = append(list, f)
		running.Go(func() { f.run(stop) })
	}
	return list, quiet
}

// awaitAnswers waits until every flow has had n more answers.
func (l *restartLab) awaitAnswers(flows []*talk, n int64) {
	l.Helper()
	deadline := time.Now().Add(talkTimeout)
	want := make([]int64, len(flows))
	for i, f := range flows {
		want[i] = f.answers.Load() + n
	}
	for i, f := range flows {
		for f.answers.Load() < want[i] {
			select {
			case <-f.ended:
				l.Fatalf("flow %d of %d (%s): %v", i, len(flows), f.conn.LocalAddr().Network(), f.err)
			case <-time.After(time.Millisecond):
			}
			if time.Now().After(deadline) {
				l.Fatalf("flow %d of %d is silent after %d answers", i, len(flows), f.answers.Load())
			}
		}
	}
}
