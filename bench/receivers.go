package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/control"
)

// Many TCP connections begin to receive at the same moment, through the gateway:
// every server sends its first window, and nothing tells it yet how much is too
// much. A gateway with queues of its own has to hold that, or loses it; the
// kernel forwards in the context of the sender and holds the sender up instead.
const (
	receivers      = 1000
	receiverBytes  = 128 << 10 // for each
	receiverPort   = 5001
	receiverRounds = 7
	receiverTime   = 30 * time.Second // that a round may take, at most
)

// ReceiversReport is what became of many receivers at once.
type ReceiversReport struct {
	Connections int               `json:"connections"`
	Bytes       int               `json:"bytes"` // for each connection
	Results     []ReceiversResult `json:"results"`
}

// ReceiversResult is what was measured of one peer.
type ReceiversResult struct {
	Peer          Peer    `json:"peer"`
	Seconds       Summary `json:"seconds"`       // until the last connection had all
	Segments      Summary `json:"segments"`      // that the server sent, those sent again included
	Retransmitted Summary `json:"retransmitted"` // share of them
	FillRingEmpty Summary `json:"fill_ring_empty"`
	RXRingFull    Summary `json:"rx_ring_full"`
}

// receiverPeers are those that a whole TCP connection passes.
var receiverPeers = []Peer{PeerSluice, PeerNFT, PeerKernel}

// party is a lane with as many connections as asked for.
type party struct {
	lane    *lane
	client  *control.Client // of the gateway, nil where the kernel is the gateway
	listen  net.Listener
	seconds []reading
	sent    []reading
	again   []reading
	empty   []reading
	full    []reading
}

// runReceivers measures many receivers at once. It needs root.
func runReceivers(ctx context.Context, o *Options, progress *progress, leftOut *[]string) (_ *ReceiversReport, err error) {
	s, err := clearSite(o)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.dir)
	rounds := receiverRounds
	if o.Quick {
		rounds = minPairs
	}
	progress.begin("many receivers", rounds*len(receiverPeers))
	var parties []*party
	defer func() {
		for _, p := range parties {
			err = errors.Join(err, p.close())
		}
	}()
	for _, peer := range receiverPeers {
		p, err := s.invite(ctx, peer)
		if p != nil {
			parties = append(parties, p)
		}
		if err != nil && (peer == PeerSluice || ctx.Err() != nil) {
			return nil, err
		} else if err != nil {
			*leftOut = append(*leftOut, fmt.Sprintf("many receivers, %s: %v", peer, err))
			parties = parties[:len(parties)-b2i(p != nil)]
		}
	}
	for round := range rounds {
		for i := range parties {
			if round%2 == 1 {
				i = len(parties) - 1 - i
			}
			progress.note("many receivers: " + string(parties[i].lane.peer))
			if err := parties[i].round(ctx); err != nil {
				return nil, err
			}
		}
	}
	r := &ReceiversReport{Connections: receivers, Bytes: receiverBytes}
	for _, p := range parties {
		r.Results = append(r.Results, ReceiversResult{
			Peer: p.lane.peer, Seconds: summarize(p.seconds), Segments: summarize(p.sent), Retransmitted: summarize(p.again),
			FillRingEmpty: summarize(p.empty), RXRingFull: summarize(p.full),
		})
	}
	return r, nil
}

// invite builds the lane of a peer, without a generator, and has the server
// listen.
func (s *site) invite(ctx context.Context, peer Peer) (p *party, err error) {
	p = &party{lane: &lane{peer: peer}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			p = nil
		}
	}()
	l := p.lane
	if err := l.wire(); err != nil {
		return p, err
	}
	if err := errors.Join(l.client.AddRoute("198.51.100.0/24", gatewayInside), l.server.AddRoute("10.20.30.0/24", gatewayOutside)); err != nil {
		return p, err
	}
	if err := s.start(ctx, l); err != nil {
		return p, err
	}
	if l.child != nil {
		p.client = control.NewClient(s.socket(l))
	}
	return p, l.server.Do(func() error {
		p.listen, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", serverAddress, receiverPort))
		return err
	})
}

// round opens the connections, has all of them receive at once, and looks at the
// counters.
func (p *party) round(ctx context.Context) error {
	clients, servers, err := p.connect(ctx)
	defer closeConns(clients)
	defer closeConns(servers)
	if err != nil {
		return err
	}
	before, err := p.look(ctx)
	if err != nil {
		return err
	}
	took, err := serve(clients, servers)
	if err != nil {
		return fmt.Errorf("bench: many receivers, %s: %w", p.lane.peer, err)
	}
	// What the gateway counts is published a little later.
	time.Sleep(published)
	after, err := p.look(ctx)
	if err != nil {
		return err
	}
	sent := float64(after.sent - before.sent)
	p.seconds = append(p.seconds, reading{value: took.Seconds()})
	p.sent = append(p.sent, reading{value: sent})
	p.again = append(p.again, reading{value: float64(after.again-before.again) / sent})
	if p.client != nil {
		p.empty = append(p.empty, reading{value: float64(after.empty - before.empty)})
		p.full = append(p.full, reading{value: float64(after.full - before.full)})
	}
	return nil
}

// connect opens the connections, and returns both ends of each.
func (p *party) connect(ctx context.Context) (clients, servers []net.Conn, err error) {
	done := make(chan error, 1)
	go func() {
		for range receivers {
			c, err := p.listen.Accept()
			if err != nil {
				done <- err
				return
			}
			servers = append(servers, c)
		}
		done <- nil
	}()
	err = p.lane.client.Do(func() error {
		for range receivers {
			c, err := net.DialTimeout("tcp4", p.listen.Addr().String(), childReady)
			if err != nil {
				return err
			}
			clients = append(clients, c)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.listen.Close() // ends the other side
	}
	return clients, servers, errors.Join(err, <-done)
}

// serve sends to all clients at once, and returns how long it took until the last
// one had everything.
func serve(clients, servers []net.Conn) (time.Duration, error) {
	content := make([]byte, receiverBytes)
	deadline := time.Now().Add(receiverTime)
	var running sync.WaitGroup
	var first atomic.Pointer[error]
	end := func(err error) {
		if err != nil {
			first.CompareAndSwap(nil, &err)
		}
		running.Done()
	}
	running.Add(len(clients) + len(servers))
	for _, c := range clients {
		c.SetDeadline(deadline)
		go func() {
			n, err := io.CopyN(io.Discard, c, receiverBytes)
			if err != nil {
				err = fmt.Errorf("a connection got %d of %d bytes in %v: %w", n, receiverBytes, receiverTime, err)
			}
			end(err)
		}()
	}
	start := time.Now()
	for _, c := range servers {
		c.SetDeadline(deadline)
		go func() {
			_, err := c.Write(content)
			end(err)
		}()
	}
	running.Wait()
	if err := first.Load(); err != nil {
		return 0, *err
	}
	return time.Since(start), nil
}

func closeConns(list []net.Conn) {
	for _, c := range list {
		// A reset instead of a FIN: the next round has the ports to itself.
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// seen is what the counters say.
type seen struct {
	sent, again int64 // segments, by the server
	empty, full int64 // by the kernel, of the gateway's sockets
}

func (p *party) look(ctx context.Context) (s seen, err error) {
	var snmp []byte
	err = p.lane.server.Do(func() error {
		snmp, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		return s, err
	}
	tcp := snmpOf(string(snmp), "Tcp")
	s.sent, s.again = tcp["OutSegs"]+tcp["RetransSegs"], tcp["RetransSegs"]
	if p.client == nil {
		return s, nil
	}
	status, err := p.client.Status(ctx)
	if err != nil {
		return s, err
	}
	for _, i := range status.Interfaces {
		for _, q := range i.Queues {
			s.empty += int64(q.Drops.FillRingEmpty)
			s.full += int64(q.Drops.RXRingFull)
		}
	}
	return s, nil
}

// snmpOf are the counters of a protocol in the format of /proc/net/snmp: a line of
// names and a line of values.
func snmpOf(text, protocol string) map[string]int64 {
	counters := make(map[string]int64)
	var names []string
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, protocol+": ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if names == nil {
			names = fields
			continue
		}
		for i, f := range fields {
			var v int64
			if _, err := fmt.Sscan(f, &v); err == nil && i < len(names) {
				counters[names[i]] = v
			}
		}
	}
	return counters
}

func (p *party) close() error {
	if p.listen != nil {
		p.listen.Close()
	}
	return p.lane.close()
}
