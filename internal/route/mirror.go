package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/internal/fib"
	"sluice/internal/netlinkrequest"
)

const (
	gather     = 3 * time.Millisecond // events of a burst become one snapshot
	busyShare  = 2                    // at most one part in so many of the time goes into reading tables
	retryAfter = time.Second          // a table could not be read

	// After a loss, the events that waited before it are older than the tables
	// read because of it, and nothing newer may follow. So for this long events
	// of neighbours are not applied, but have the table read again.
	settle = time.Second

	receiveBuffer = 4 << 20 // bytes of events that may wait: some 20,000
	batches       = 64      // reads of the event socket that may wait for Run

	rtnlgrpNexthop = 32 // RTNLGRP_NEXTHOP (linux/rtnetlink.h)
)

// Config says what to mirror.
type Config struct {
	// Interfaces are the listed ones, by name. A name's place in the list is its
	// fib.PortID. They need not exist; their index, address and MTU are followed.
	Interfaces []string
	Logger     *slog.Logger

	// Refresh is how long a neighbour may be stale before the kernel is asked to
	// probe it; 0 stands for 30 s.
	Refresh time.Duration
}

// Mirror follows the kernel's tables.
type Mirror struct {
	cfg Config
	log *slog.Logger

	events *nl.NetlinkSocket // subscribed to all groups, so that their order is kept
	handle *netlink.Handle   // requests about links, addresses, neighbours
	query  *nl.SocketHandle  // dumps that this package decodes itself
	diag   *nl.SocketHandle  // sock_diag

	running sync.Mutex // held by Run: its sockets stay open until it ends
	release sync.Once

	current     atomic.Pointer[fib.Snapshot]
	unsupported atomic.Pointer[[]string]
	wanted      chan target

	// From here on Run's, and before it New's.
	builder    fib.Builder
	dirty      tables
	links      []link // by fib.PortID
	neighbours map[neighKey]neighbour
	gateways   []target
	asked      recent

	// What cannot be followed, by where it comes from.
	linkWords, ruleWords, routeWords []string

	earliest     time.Time // when the next snapshot may be built
	earliestRead time.Time // when tables may be read again
	lost         time.Time // when events were lost
}

// tables names tables of the kernel that must be read again.
type tables uint8

const (
	linkTable tables = 1 << iota
	addressTable
	routeTable
	ruleTable
	neighbourTable

	allTables = linkTable | addressTable | routeTable | ruleTable | neighbourTable
)

// New opens the sockets in the network namespace of the calling thread,
// subscribes to the events and reads all tables. Current is valid from then on;
// Run follows the changes.
func New(cfg Config) (*Mirror, error) {
	if len(cfg.Interfaces) >= int(fib.NoPort) {
		return nil, fmt.Errorf("route: %d interfaces are listed, at most %d can be", len(cfg.Interfaces), fib.NoPort)
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = 30 * time.Second
	}
	m := &Mirror{
		cfg: cfg, log: cfg.Logger,
		wanted: make(chan target, 1024),
		links:  make([]link, len(cfg.Interfaces)), neighbours: make(map[neighKey]neighbour),
		dirty: allTables,
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := m.open(); err != nil {
		m.Close()
		return nil, err
	}
	// A table that changes all the time while it is read needs another try.
	for try := 0; m.dirty != 0; try++ {
		if err := m.sync(); err != nil && (try == 5 || !errors.Is(err, netlink.ErrDumpInterrupted)) {
			m.Close()
			return nil, err
		}
	}
	m.publish()
	return m, nil
}

func (m *Mirror) open() (err error) {
	m.events, err = nl.Subscribe(syscall.NETLINK_ROUTE, syscall.RTNLGRP_LINK, syscall.RTNLGRP_IPV4_IFADDR,
		syscall.RTNLGRP_IPV4_ROUTE, syscall.RTNLGRP_IPV4_RULE, syscall.RTNLGRP_NEIGH, rtnlgrpNexthop)
	if err != nil {
		return fmt.Errorf("route: subscribe to routing events: %w", err)
	}
	// Beyond net.core.rmem_max where we may, up to it where we may not.
	if m.events.SetReceiveBufferSize(receiveBuffer, true) != nil {
		if err := m.events.SetReceiveBufferSize(receiveBuffer, false); err != nil {
			return fmt.Errorf("route: receive buffer for routing events: %w", err)
		}
	}
	if m.handle, err = netlink.NewHandle(syscall.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("route: open netlink: %w", err)
	}
	if m.query, err = netlinkrequest.Open(syscall.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("route: open netlink: %w", err)
	}
	if m.diag, err = netlinkrequest.Open(syscall.NETLINK_INET_DIAG); err != nil {
		return fmt.Errorf("route: open sock_diag (is the kernel module inet_diag there?): %w", err)
	}
	return nil
}

// Close ends Run, with an error unless its context ended before, and releases the
// sockets. It may be called at any time and more than once, but not by onChange.
func (m *Mirror) Close() {
	if m.events != nil {
		m.events.Close() // what Run waits for
	}
	m.running.Lock()
	defer m.running.Unlock()
	m.release.Do(func() {
		if m.handle != nil {
			m.handle.Close()
		}
		for _, h := range []*nl.SocketHandle{m.query, m.diag} {
			if h != nil {
				h.Close()
			}
		}
	})
}

// Current returns the last snapshot.
func (m *Mirror) Current() *fib.Snapshot { return m.current.Load() }

// Unsupported says in words which rules and routes of the kernel are not
// followed, each with what happens instead. It is empty where all are.
func (m *Mirror) Unsupported() []string { return *m.unsupported.Load() }

// Run follows the kernel until ctx ends, and calls onChange with every new
// snapshot. It returns nil when ctx ended, or what made following impossible. It
// can be called once; afterwards the Mirror is closed.
func (m *Mirror) Run(ctx context.Context, onChange func(*fib.Snapshot)) error {
	defer m.Close()
	m.running.Lock()
	defer m.running.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	incoming := make(chan batch, batches)
	reader.Go(func() { m.read(ctx, incoming) })
	defer func() {
		cancel()
		m.events.Close() // wakes the reader
		reader.Wait()
	}()

	refresh := time.NewTicker(max(m.cfg.Refresh/8, 10*time.Millisecond))
	defer refresh.Stop()
	m.refresh(time.Now())
	// When the gathered events are used; when tables that had to wait are read.
	var gathered, waited <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-incoming:
			if err := m.take(b, time.Now()); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if gathered == nil {
				gathered = time.After(max(gather, time.Until(m.earliest)))
			}
			continue
		case t := <-m.wanted:
			m.ask(t, time.Now())
			continue
		case now := <-refresh.C:
			m.refresh(now)
			continue
		case <-gathered:
			gathered = nil
		case <-waited:
		}
		changed, again := m.update()
		if waited = nil; again != 0 {
			waited = time.After(again)
		}
		if changed {
			onChange(m.Current())
		}
	}
}

// update reads the tables that changed, unless they were read a moment ago and
// it took long, and publishes what is known. It reports whether that is new, and
// after how long it must be called again in any case, 0 for never.
func (m *Mirror) update() (changed bool, again time.Duration) {
	begun := time.Now()
	reading := m.dirty != 0 && !begun.Before(m.earliestRead)
	var err error
	if reading {
		err = m.sync()
	}
	changed = m.publish()
	now := time.Now()
	m.resolveGateways(now)
	m.earliest = now.Add((busyShare - 1) * now.Sub(begun))
	if reading {
		// Neighbours need not wait for the tables' sake.
		m.earliest, m.earliestRead = now, m.earliest
	}
	switch {
	case m.dirty == 0:
		return changed, 0
	case err != nil && !errors.Is(err, netlink.ErrDumpInterrupted):
		m.log.Warn("routing tables could not be read, trying again", "error", err)
		return changed, retryAfter
	}
	return changed, max(gather, time.Until(m.earliestRead))
}

// publish makes the builder's state the current snapshot and reports whether
// anything is new.
func (m *Mirror) publish() bool {
	words := append(append(append([]string{}, m.linkWords...), m.ruleWords...), m.routeWords...)
	m.unsupported.Store(&words)
	s := m.builder.Build()
	return m.current.Swap(s) != s
}

// batch is what one read of the event socket gave.
type batch struct {
	messages []syscall.NetlinkMessage
	err      error
}

// read passes events on until ctx ends or the socket fails.
func (m *Mirror) read(ctx context.Context, to chan<- batch) {
	for {
		messages, _, err := m.events.Receive()
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		select {
		case to <- batch{messages, err}:
		case <-ctx.Done():
			return
		}
		if err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return
		}
	}
}

// take notes what a batch of events changed.
func (m *Mirror) take(b batch, now time.Time) error {
	switch {
	case errors.Is(b.err, syscall.ENOBUFS):
		m.log.Warn("routing events were lost, reading all tables again")
		m.dirty, m.lost = allTables, now
	case b.err != nil:
		return fmt.Errorf("route: read routing events: %w", b.err)
	}
	for _, msg := range b.messages {
		switch msg.Header.Type {
		case syscall.RTM_NEWLINK, syscall.RTM_DELLINK:
			// The kernel removes the routes of a link that went down in silence.
			m.dirty |= linkTable | addressTable | routeTable
		case syscall.RTM_NEWADDR, syscall.RTM_DELADDR:
			m.dirty |= addressTable | routeTable
		case syscall.RTM_NEWROUTE, syscall.RTM_DELROUTE, rtmNewNexthop, rtmDelNexthop:
			m.dirty |= routeTable
		case syscall.RTM_NEWRULE, syscall.RTM_DELRULE:
			m.dirty |= ruleTable
		case syscall.RTM_NEWNEIGH, syscall.RTM_DELNEIGH:
			if now.Sub(m.lost) < settle {
				m.dirty |= neighbourTable
				continue
			}
			m.neighbourEvent(msg, now)
		}
	}
	return nil
}
