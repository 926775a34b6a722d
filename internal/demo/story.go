package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"sluice/internal/lab"
)

// The ports that the hosts serve.
const (
	portHTTP    = 80   // server1 and the excluded host: the download
	portWho     = 8080 // TCP: echoes a line with the address that it came from
	portWhoUDP  = 5353 // UDP: likewise
	portSession = 7000 // server1 and the gateway's host: a session that goes on
)

const (
	downloadSize  = 100 << 20
	excludedSize  = 10 << 20
	connections   = 200 // at once, half from each client
	datagrams     = 250 // from each client
	echoes        = 20  // from each client
	checkTimeout  = 20 * time.Second
	refuseTimeout = 500 * time.Millisecond // how long no answer is no answer
)

// story is the traffic: the hosts, what they serve, and the sessions that go on
// from the first check to the last.
type story struct {
	client1, client2, gateway  host
	server1, server2, excluded host

	payload   []byte // what the HTTP servers send, random and fresh
	servers   servers
	intoHost  *session // from server2 to the gateway's host
	outOfHost *session // from the gateway's host to server1
}

// newStory makes the payload and starts what the hosts serve.
func newStory(top *lab.Topology) (*story, error) {
	s := &story{
		client1: host{top.Client1}, client2: host{top.Client2}, gateway: host{top.Gateway},
		server1: host{top.Server1}, server2: host{top.Server2}, excluded: host{top.Excluded},
		payload: make([]byte, downloadSize),
	}
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	rand.NewChaCha8(seed).Read(s.payload)
	err := errors.Join(
		s.servers.http(s.server1, lab.Server1Address, s.payload),
		s.servers.http(s.excluded, lab.ExcludedAddress, s.payload),
		s.servers.who(s.server2, at(lab.Server2Address, portWho)),
		s.servers.who(s.client1, at(lab.Client1Address, portWho)),
		s.servers.whoUDP(s.server1, at(lab.Server1Address, portWhoUDP)),
		s.servers.whoUDP(s.server2, at(lab.Server2Address, portWhoUDP)),
		s.servers.whoUDP(s.excluded, at(lab.ExcludedAddress, portWhoUDP)),
		s.servers.session(s.server1, lab.Server1Address),
		s.servers.session(s.gateway, lab.GatewayOutside),
	)
	if err != nil {
		s.servers.close()
		return nil, fmt.Errorf("demo: start the servers: %w", err)
	}
	return s, nil
}

func (s *story) close() {
	s.intoHost.stop()
	s.outOfHost.stop()
	s.servers.close()
}

// source is whom the far end of a check must see, and what that is called.
type source struct{ address, words string }

var (
	anyone      = source{}
	masqueraded = source{lab.GatewayOutside, "masqueraded"}
	trueClient1 = source{lab.Client1Address, "true source"}
)

// check is one row of the table.
type check struct {
	what, from, to string
	want           source
	run            func(context.Context) (outcome, error)
}

// tell makes the checks one after the other while the host's own sessions go
// on, so that the figures of one are not those of another. first are checks to
// make before the others.
func (s *story) tell(ctx context.Context, t *table, first ...check) {
	for _, c := range slices.Concat(s.opening(), first, s.checks()) {
		if ctx.Err() != nil {
			return
		}
		o, err := guarded(ctx, c.run)
		t.row(c, o, err)
	}
}

// opening begins the host's own sessions.
func (s *story) opening() []check {
	return []check{
		{"host session opens, inbound", "server2", "gateway", source{lab.Server2Address, "true source"}, s.openInbound},
		{"host session opens, outbound", "gateway", "server1", source{lab.GatewayOutside, "its own"}, s.openOutbound},
	}
}

func (s *story) checks() []check {
	return []check{
		{"HTTP download of 100 MB, SHA-256", "client1", "server1", masqueraded, func(ctx context.Context) (outcome, error) {
			return s.download(ctx, s.client1, lab.Server1Address, downloadSize, io.Discard)
		}},
		{fmt.Sprintf("%d TCP connections at once", connections), "clients", "server2", masqueraded, s.manyConnections},
		{"UDP request and response", "clients", "server1", masqueraded, s.datagrams},
		{"UDP, one socket to two servers", "client1", "servers", masqueraded, s.sameMapping},
		{"ping, same identifier twice", "clients", "server1", masqueraded, s.pings},
		{"HTTP download of 10 MB, SHA-256", "client1", "excluded", trueClient1, func(ctx context.Context) (outcome, error) {
			return s.download(ctx, s.client1, lab.ExcludedAddress, excludedSize, io.Discard)
		}},
		{"UDP request and response", "client1", "excluded", trueClient1, s.datagramsExcluded},
		{"ping", "client1", "excluded", trueClient1, s.pingExcluded},
		{"TCP connection inwards", "excluded", "client1", source{lab.ExcludedAddress, "true source"}, s.inwards},
		{"TCP connection inwards, refused", "server1", "client1", anyone, s.refused},
		{"host session went on, inbound", "server2", "gateway", anyone, s.closeInbound},
		{"host session went on, outbound", "gateway", "server1", anyone, s.closeOutbound},
	}
}

// guarded runs a check within its time, and turns a panic into its failure.
func guarded(ctx context.Context, run func(context.Context) (outcome, error)) (o outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return run(ctx)
}

// group runs functions side by side and returns what failed, panics included.
type group struct {
	n    int
	errs chan error
}

func (g *group) run(f func() error) {
	if g.errs == nil {
		g.errs = make(chan error)
	}
	g.n++
	go func() {
		var err error
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
			g.errs <- err
		}()
		err = f()
	}()
}

// wait returns when all are done: how many failed, and the first error.
func (g *group) wait() error {
	failed := 0
	var first error
	for range g.n {
		if err := <-g.errs; err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d of %d failed, the first: %w", failed, g.n, first)
	}
	return first
}
