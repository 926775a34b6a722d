package demo

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"sluice/internal/lab"
)

// download fetches size bytes over HTTP and compares their SHA-256 with that of
// what was sent. Every piece also goes to as, which may keep the next one
// waiting.
func (s *story) download(ctx context.Context, from host, address string, size int, as io.Writer) (o outcome, err error) {
	want := sha256.Sum256(s.payload[:size])
	transport := &http.Transport{DialContext: from.dial, DisableCompression: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/%d", at(address, portHTTP), size), nil)
	if err != nil {
		return o, err
	}
	began := time.Now()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return o, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return o, fmt.Errorf("HTTP status %s", resp.Status)
	}
	seen, err := netip.ParseAddrPort(resp.Header.Get(seenHeader))
	if err != nil {
		return o, fmt.Errorf("the server did not say whom it saw: %w", err)
	}
	o.saw(seen.Addr())
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(hash, as), resp.Body)
	took := time.Since(began)
	if err != nil {
		return o, fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	if n != int64(size) {
		return o, fmt.Errorf("%d of %d bytes arrived", n, size)
	}
	if got := hash.Sum(nil); [32]byte(got) != want {
		return o, fmt.Errorf("SHA-256 is %s, should be %s", hex.EncodeToString(got), hex.EncodeToString(want[:]))
	}
	o.detail = fmt.Sprintf("%s, %s, intact", rate(size, took), round(took))
	return o, nil
}

// manyConnections opens all connections, half from each client, and only when
// every one is open sends a line over each.
func (s *story) manyConnections(ctx context.Context) (o outcome, err error) {
	var (
		g    group
		open sync.WaitGroup
		mu   sync.Mutex
		seen = make(map[netip.AddrPort]bool)
	)
	open.Add(connections)
	began := time.Now()
	for i := range connections {
		from := s.client1
		if i%2 == 1 {
			from = s.client2
		}
		g.run(func() error {
			c, err := from.dial(ctx, "tcp4", at(lab.Server2Address, portWho))
			open.Done()
			if err != nil {
				return err
			}
			defer c.Close()
			open.Wait()
			from, err := ask(ctx, c, fmt.Sprintf("connection-%d", i))
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			seen[from] = true
			o.saw(from.Addr())
			return nil
		})
	}
	if err := g.wait(); err != nil {
		return o, err
	}
	if len(seen) != connections {
		return o, fmt.Errorf("the server saw %d different ports for %d connections", len(seen), connections)
	}
	o.detail = fmt.Sprintf("all answered within %s", round(time.Since(began)))
	return o, nil
}

// ask sends a line to a who server and returns the address that it saw.
func ask(ctx context.Context, c net.Conn, line string) (netip.AddrPort, error) {
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	if _, err := fmt.Fprintln(c, line); err != nil {
		return netip.AddrPort{}, err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, err
	}
	echoed, from, _ := strings.Cut(strings.TrimSpace(answer), " ")
	if echoed != line {
		return netip.AddrPort{}, fmt.Errorf("sent %q, got back %q", line, echoed)
	}
	return netip.ParseAddrPort(from)
}

// inwards has the excluded network call a client by its true address: policy
// does not masquerade between the two, so that either side may begin.
func (s *story) inwards(ctx context.Context) (o outcome, err error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(lab.ExcludedAddress)}}
	began := time.Now()
	var c net.Conn
	err = s.excluded.Do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp4", at(lab.Client1Address, portWho))
		return err
	})
	if err != nil {
		return o, err
	}
	defer c.Close()
	from, err := ask(ctx, c, "inwards")
	if err != nil {
		return o, err
	}
	o.saw(from.Addr())
	o.detail = fmt.Sprintf("answered within %s", round(time.Since(began)))
	return o, nil
}

// refused has a server call a client by its true address, to which it has a
// route and where somebody listens: the gateway must not let it in, and must
// not say so either.
func (s *story) refused(ctx context.Context) (o outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, refuseTimeout)
	defer cancel()
	c, err := s.server1.dial(ctx, "tcp4", at(lab.Client1Address, portWho))
	if err == nil {
		c.Close()
		return o, errors.New("the connection was let in")
	}
	if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
		return o, fmt.Errorf("should have met silence: %w", err)
	}
	o.detail = fmt.Sprintf("no answer within %s", refuseTimeout)
	return o, nil
}
