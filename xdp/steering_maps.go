package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Names of the steps that fill the steering program's maps, for errors.
const (
	callSocketSlot = "bpf(BPF_MAP_UPDATE_ELEM, socket)"
	callMapUpdate  = "bpf(BPF_MAP_UPDATE_ELEM)"
	callMapDelete  = "bpf(BPF_MAP_DELETE_ELEM)"
)

// SetSocket makes an AF_XDP socket the receiver of a port's queue; the kernel
// empties the slot when the socket is closed.
func (s *Steering) SetSocket(port, queue, fd int) error {
	p := &s.config.Ports[port]
	if queue < 0 || queue >= p.Queues {
		return refuse(p.NIC.Name, fmt.Sprintf("queue %d of %d", queue, p.Queues), "steer the queues that the interface has")
	}
	if err := s.maps.Sockets.Put(uint32(port*s.slots+queue), uint32(fd)); err != nil {
		return setupError(p.NIC.Name, queue, callSocketSlot, err)
	}
	return nil
}

// SetMAC follows a change of a port's hardware address.
func (s *Steering) SetMAC(port int, mac [6]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[port].MAC = mac
	return s.putPort(port)
}

// SetOnFailure changes what happens to frames whose worker does not run.
func (s *Steering) SetOnFailure(f Failure) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.ports {
		s.ports[i].Flags &^= passOnFailure
		if f == FailPass {
			s.ports[i].Flags |= passOnFailure
		}
		if err := s.putPort(i); err != nil {
			return err
		}
	}
	return nil
}

func (s *Steering) putPort(i int) error {
	if err := s.maps.Ports.Put(uint32(i), &s.ports[i]); err != nil {
		return setupError(s.config.Ports[i].NIC.Name, -1, callMapUpdate, err)
	}
	return nil
}

// Heartbeat is the word in which a worker stores CLOCK_MONOTONIC nanoseconds,
// atomically and several times per StaleAfter, for as long as it forwards.
func (s *Steering) Heartbeat(worker int) *uint64 {
	return &s.heartbeats[worker*heartbeatWords]
}

// HeldPorts is bitmap i: 1024 words for TCP ports, 1024 for UDP ports, 1024 for
// ICMP echo identifiers. It stays as it was when an address that used it is
// deleted.
func (s *Steering) HeldPorts(i int) []uint64 {
	return s.held[i*heldWords : (i+1)*heldWords : (i+1)*heldWords]
}

// addressEntry is struct address of the C source.
type addressEntry struct {
	Kind AddressKind
	Held uint32
}

// noHeld is beyond the end of held_ports.
const noHeld = ^uint32(0)

// SetAddress adds or changes a local IPv4 address (host byte order). held is
// the index of its HeldPorts, or -1 where NAT holds no ports on it.
func (s *Steering) SetAddress(addr uint32, kind AddressKind, held int) error {
	entry := addressEntry{Kind: kind, Held: noHeld}
	if held >= s.config.HeldAddresses {
		return fmt.Errorf("address %s: bitmap %d of %d: raise HeldAddresses", ip4(addr), held, s.config.HeldAddresses)
	}
	if held >= 0 {
		entry.Held = uint32(held)
	}
	if err := s.maps.Addresses.Put(addressKey(addr), &entry); err != nil {
		return fmt.Errorf("address %s: %s: %w: at most %d addresses fit", ip4(addr), callMapUpdate, err, s.config.MaxAddresses)
	}
	s.changed()
	return nil
}

// DeleteAddress removes an address; one that is not there is no error.
func (s *Steering) DeleteAddress(addr uint32) error {
	if err := s.maps.Addresses.Delete(addressKey(addr)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("address %s: %s: %w", ip4(addr), callMapDelete, err)
	}
	s.changed()
	return nil
}

// addressKey is addr in network byte order.
func addressKey(addr uint32) (key [4]byte) {
	binary.BigEndian.PutUint32(key[:], addr)
	return key
}

func ip4(addr uint32) netip.Addr { return netip.AddrFrom4(addressKey(addr)) }

// prefixKey is struct prefix of the C source.
type prefixKey struct {
	Length  uint32
	Address [4]byte
}

// enum route of the C source.
const (
	routeKernel uint32 = iota
	routeWorker
)

// SetRoutes makes routes the whole set. Only differences are written, in an
// order in which every destination goes over from its old verdict to its new
// one without a third in between: a frame must not reach the kernel because
// some wider prefix changed first. Only where the map has no room for both sets
// some additions wait for the deletions. After an error the set is between the
// old and the new one; calling again goes on from there.
func (s *Steering) SetRoutes(routes []SteeringRoute) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[netip.Prefix]bool, len(routes))
	for _, r := range routes {
		if !r.Prefix.IsValid() || !r.Prefix.Addr().Is4() {
			return fmt.Errorf("route %s: steering takes IPv4 prefixes", r.Prefix)
		}
		wanted[r.Prefix.Masked()] = r.ToWorker
	}
	var waiting []routeChange
	for _, c := range routeChanges(s.routes, wanted) {
		err := s.changeRoute(c)
		if errors.Is(err, unix.ENOSPC) {
			waiting = append(waiting, c)
		} else if err != nil {
			return err
		}
	}
	for _, c := range waiting {
		if err := s.changeRoute(c); err != nil {
			return err
		}
	}
	return nil
}

// routeChange is one write to the prefix map.
type routeChange struct {
	prefix   netip.Prefix
	toWorker bool
	remove   bool
}

// routeChanges is what makes wanted of old: first all additions and changes,
// the longest prefix first, so that what decides for a destination in the new
// set is there before any wider prefix that would; then all deletions, the
// shortest first, so that the last one that goes is what decided in the old set.
func routeChanges(old, wanted map[netip.Prefix]bool) []routeChange {
	var puts, deletes []routeChange
	for p, toWorker := range wanted {
		if was, there := old[p]; !there || was != toWorker {
			puts = append(puts, routeChange{prefix: p, toWorker: toWorker})
		}
	}
	for p := range old {
		if _, stays := wanted[p]; !stays {
			deletes = append(deletes, routeChange{prefix: p, remove: true})
		}
	}
	slices.SortFunc(puts, func(a, b routeChange) int { return b.prefix.Bits() - a.prefix.Bits() })
	slices.SortFunc(deletes, func(a, b routeChange) int { return a.prefix.Bits() - b.prefix.Bits() })
	return append(puts, deletes...)
}

// changeRoute writes one change to the map and remembers it.
func (s *Steering) changeRoute(c routeChange) error {
	if c.remove {
		if err := s.maps.Routes.Delete(routeKey(c.prefix)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("route %s: %s: %w", c.prefix, callMapDelete, err)
		}
		s.changed()
		delete(s.routes, c.prefix)
		return nil
	}
	verdict := routeKernel
	if c.toWorker {
		verdict = routeWorker
	}
	if err := s.maps.Routes.Put(routeKey(c.prefix), verdict); err != nil {
		return fmt.Errorf("route %s: %s: %w: at most %d routes fit", c.prefix, callMapUpdate, err, s.config.MaxRoutes)
	}
	s.changed()
	s.routes[c.prefix] = c.toWorker
	return nil
}

func routeKey(p netip.Prefix) prefixKey {
	return prefixKey{Length: uint32(p.Bits()), Address: p.Addr().As4()}
}
