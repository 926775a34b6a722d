package hostpeer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/internal/netlinkrequest"
	"sluice/nat"
)

const (
	gather    = 5 * time.Millisecond   // events of a burst are one change
	busyShare = 10                     // at most one part in so many of the time goes into reading
	rest      = 500 * time.Millisecond // after which what could not be read is tried again
)

// Config says how to watch.
type Config struct {
	Logger *slog.Logger
	Poll   time.Duration // between two looks at the sockets; 0 stands for 1 s
}

// Watcher follows what the host speaks.
type Watcher struct {
	log  *slog.Logger
	poll time.Duration

	links  *nl.NetlinkSocket // events of devices
	ipsec  *nl.NetlinkSocket // events of IPsec; nil: a kernel without it
	query  *nl.SocketHandle  // lists of devices
	diag   *nl.SocketHandle  // lists of sockets
	handle *netlink.Handle   // lists of IPsec; nil: a kernel without it
	raw    *os.File          // /proc/net/raw; nil: none

	running sync.Mutex // held by Run: its sockets stay open until it ends
	release sync.Once
	current atomic.Pointer[nat.HostPeers]

	// From here on Run's, and before it New's.
	dirty    sources
	devices  []nat.HostPeer
	security []nat.HostPeer
	sockets  []nat.HostPeer
	absent   [3]time.Time // when a protocol of socketProtocols was found to be unknown
	failed   string       // the last error told
}

// sources names what must be read again.
type sources uint8

const (
	fromDevices sources = 1 << iota
	fromIPsec
	fromSockets

	fromAll = fromDevices | fromIPsec | fromSockets
)

// New opens the sockets in the network namespace of the calling thread, subscribes
// to the events and reads everything. Current is valid from then on; Run follows
// the changes.
func New(cfg Config) (*Watcher, error) {
	w := &Watcher{log: cfg.Logger, poll: cmp.Or(cfg.Poll, time.Second), dirty: fromAll}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	err := w.open()
	for try := 0; err == nil && w.dirty != 0; try++ {
		if err = w.read(); errors.Is(err, netlink.ErrDumpInterrupted) && try < 5 {
			err = nil
		}
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	w.publish()
	return w, nil
}

func (w *Watcher) open() (err error) {
	if w.links, err = nl.Subscribe(syscall.NETLINK_ROUTE, syscall.RTNLGRP_LINK); err != nil {
		return fmt.Errorf("hostpeer: subscribe to events of devices: %w", err)
	}
	if w.ipsec, err = nl.Subscribe(syscall.NETLINK_XFRM, nl.XFRMNLGRP_EXPIRE, nl.XFRMNLGRP_SA, nl.XFRMNLGRP_POLICY); errors.Is(err, syscall.EPROTONOSUPPORT) {
		w.ipsec, w.dirty = nil, w.dirty&^fromIPsec
	} else if err != nil {
		return fmt.Errorf("hostpeer: subscribe to events of IPsec: %w", err)
	} else if w.handle, err = netlink.NewHandle(syscall.NETLINK_XFRM); err != nil {
		return fmt.Errorf("hostpeer: open netlink for IPsec: %w", err)
	}
	if w.query, err = netlinkrequest.Open(syscall.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("hostpeer: open netlink: %w", err)
	}
	if w.diag, err = netlinkrequest.Open(syscall.NETLINK_INET_DIAG); err != nil {
		return fmt.Errorf("hostpeer: open sock_diag: %w", err)
	}
	if w.raw, err = openRaw(); err != nil {
		return fmt.Errorf("hostpeer: raw sockets: %w", err)
	}
	return nil
}

// Close ends Run and releases the sockets. It may be called at any time and more
// than once, but not by onChange.
func (w *Watcher) Close() {
	for _, s := range []*nl.NetlinkSocket{w.links, w.ipsec} {
		if s != nil {
			s.Close() // what Run waits for
		}
	}
	w.running.Lock()
	defer w.running.Unlock()
	w.release.Do(func() {
		for _, h := range []*nl.SocketHandle{w.query, w.diag} {
			if h != nil {
				h.Close()
			}
		}
		if w.handle != nil {
			w.handle.Close()
		}
		if w.raw != nil {
			_ = w.raw.Close() // read only
		}
	})
}

// Current returns what the host speaks now.
func (w *Watcher) Current() *nat.HostPeers { return w.current.Load() }

// Run follows the kernel until ctx ends, and calls onChange with every new state.
// It returns nil when ctx ended, or what made following impossible. It can be
// called once; afterwards the Watcher is closed.
func (w *Watcher) Run(ctx context.Context, onChange func(*nat.HostPeers)) error {
	defer w.Close()
	w.running.Lock()
	defer w.running.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	var readers sync.WaitGroup
	events := make(chan sources, 16)
	readers.Go(func() { cancel(follow(ctx, w.links, fromDevices, events)) })
	if w.ipsec != nil {
		readers.Go(func() { cancel(follow(ctx, w.ipsec, fromIPsec, events)) })
	}
	defer func() {
		cancel(nil)
		w.links.Close() // wakes the readers
		if w.ipsec != nil {
			w.ipsec.Close()
		}
		readers.Wait()
	}()

	poll := time.NewTicker(w.poll)
	defer poll.Stop()
	var gathered <-chan time.Time
	var earliest time.Time
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case <-poll.C:
			w.dirty |= fromSockets
		case source := <-events:
			w.dirty |= source
		case <-gathered:
			gathered = nil
			begun := time.Now()
			w.tell(w.read())
			if w.publish() {
				onChange(w.Current())
			}
			earliest = time.Now().Add((busyShare - 1) * time.Since(begun))
			if w.dirty != 0 {
				gathered = time.After(rest)
			}
			continue
		}
		if gathered == nil {
			gathered = time.After(max(gather, time.Until(earliest)))
		}
	}
}

// follow says that a source changed whenever its event socket has anything, and
// when events were lost. What they say is not looked at. It returns when ctx ends,
// or with the error that ends it.
func follow(ctx context.Context, s *nl.NetlinkSocket, source sources, changed chan<- sources) error {
	for {
		_, _, err := s.Receive()
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return fmt.Errorf("hostpeer: read events: %w", err)
		}
		select {
		case changed <- source:
		case <-ctx.Done():
			return nil
		}
	}
}

// tell logs an error once, as long as it stays the same. What a source said before
// stands until it can be read.
func (w *Watcher) tell(err error) {
	switch {
	case err == nil:
		w.failed = ""
	case errors.Is(err, netlink.ErrDumpInterrupted): // it changed meanwhile, and is read again
	case err.Error() != w.failed:
		w.failed = err.Error()
		w.log.Warn("what the host itself speaks without ports could not be read; NAT goes by what it knew", "error", err)
	}
}

// read reads what changed. What could not be read stays marked.
func (w *Watcher) read() error {
	var errs []error
	for _, s := range []struct {
		source sources
		read   func() ([]nat.HostPeer, error)
		into   *[]nat.HostPeer
	}{
		{fromDevices, w.readDevices, &w.devices}, {fromIPsec, w.readIPsec, &w.security}, {fromSockets, w.readSockets, &w.sockets},
	} {
		if w.dirty&s.source == 0 {
			continue
		}
		peers, err := s.read()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		*s.into = peers
		w.dirty &^= s.source
	}
	return errors.Join(errs...)
}

func (w *Watcher) readDevices() (peers []nat.HostPeer, err error) {
	req := nl.NewNetlinkRequest(syscall.RTM_GETLINK, syscall.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{syscall.NETLINK_ROUTE: w.query}
	req.AddData(nl.NewIfInfomsg(syscall.AF_UNSPEC))
	err = req.ExecuteIter(syscall.NETLINK_ROUTE, syscall.RTM_NEWLINK, func(msg []byte) bool {
		peers = append(peers, decodeDevice(msg)...)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("hostpeer: list devices: %w", err)
	}
	return peers, nil
}

func (w *Watcher) readIPsec() ([]nat.HostPeer, error) {
	states, err := w.handle.XfrmStateList(netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("hostpeer: list IPsec states: %w", err)
	}
	// A policy for IPv6 may have its tunnel over IPv4.
	policies, err := w.handle.XfrmPolicyList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("hostpeer: list IPsec policies: %w", err)
	}
	return association(states, policies), nil
}

// publish makes what was read current, and reports whether it is new.
func (w *Watcher) publish() bool {
	next := nat.NewHostPeers(slices.Concat(w.devices, w.security, w.sockets))
	if now := w.current.Load(); now != nil && now.Equal(next) {
		return false
	}
	w.current.Store(next)
	return true
}
