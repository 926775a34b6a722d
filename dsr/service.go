package dsr

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"sluice/conntrack"
)

// Mode is how the answers of a backend get to the client.
type Mode uint8

const (
	SNAT Mode = iota // through the gateway, whom the backend takes for the client
	DSR              // from the backend straight to the client
)

func (m Mode) String() string {
	if m == DSR {
		return "dsr"
	}
	return "snat"
}

// State is whether a backend gets flows.
type State uint8

const (
	Active   State = iota
	Draining       // those that it has, no new ones
	Dead           // none: its probes fail
)

// String returns the state's kebab-case word.
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Draining:
		return "draining"
	case Dead:
		return "dead"
	}
	return "unknown"
}

// Algorithm is how a new flow's backend is chosen.
type Algorithm uint8

const (
	Maglev     Algorithm = iota // by the flow's five-tuple: any two gateways agree
	Random                      // by chance, as weights say
	RoundRobin                  // in turn, as weights say
)

// String returns the algorithm's word in the configuration.
func (a Algorithm) String() string {
	switch a {
	case Random:
		return "random"
	case RoundRobin:
		return "round-robin"
	}
	return "maglev"
}

// Backend is one server of a service.
type Backend struct {
	ID      BackendID
	Service ServiceID
	Address uint32 // host order, as all addresses here
	Port    uint16
	Weight  int
	Agent   bool // somebody there answers with the service's address
	State   State
	Line    int // of the configuration

	slot uint16 // its number in the service, by which Affinity knows it
}

// Endpoint is the backend's address and port.
func (b *Backend) Endpoint() netip.AddrPort {
	a := b.Address
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), b.Port)
}

// Service is an address, port and protocol that is balanced. Everything in it but
// the turn is immutable once the table is made.
type Service struct {
	ID        ServiceID
	Name      string
	VIP       uint32
	Port      uint16
	Proto     uint8
	Mode      Mode
	Algorithm Algorithm
	Affinity  conntrack.Tick // how long a client keeps its backend; 0 = not at all
	Reject    bool           // without a backend, say so by an ICMP error; else drop
	Reset     bool           // flows of a dead backend are reset; else dropped
	Line      int
	Backends  []*Backend

	sources  *bart.Lite // nil = everybody
	active   []*Backend // those that get new flows, sorted by their Maglev names
	maglev   []uint16   // slot → index in active
	order    []uint16   // of turns, by weights
	bounds   []uint64   // cumulated weights of active
	turn     atomic.Uint32
	affinity *Affinity
	slots    []*Backend // by slot; nil where none has it that gets new flows
}

// AllowedSource reports whether a client may use the service.
func (s *Service) AllowedSource(addr uint32) bool {
	if s.sources == nil {
		return true
	}
	return s.sources.Contains(netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}))
}

// Selectable is how many backends new flows can get.
func (s *Service) Selectable() int { return len(s.active) }

// ServiceConfig describes one service of one protocol.
type ServiceConfig struct {
	Name      string
	VIP       uint32
	Port      uint16
	Proto     uint8
	Mode      Mode
	Algorithm Algorithm
	Affinity  conntrack.Tick
	Sources   []netip.Prefix // clients allowed; empty = all
	Reject    bool
	Reset     bool
	Line      int
	Backends  []BackendConfig
}

// BackendConfig describes one backend. Weight 0 means that it gets no new flows.
type BackendConfig struct {
	Address uint32
	Port    uint16
	Weight  int
	Agent   bool
	State   State
	Line    int
}

// Table is all services. A nil Table has none.
type Table struct {
	Services []*Service // by their place in the configuration

	byID     []*Service // by ServiceID
	backends []*Backend // by BackendID
	keys     set[uint64, *Service]
	vips     set[uint32, struct{}]
	behind   set[uint32, struct{}] // addresses of backends
	sticky   bool                  // a service has affinity
}

// New makes the table of services. ids gives out their numbers; what Maglev tables
// of the previous table (or nil) are still right, are taken over; affinity may be
// nil if no service has any.
func New(services []ServiceConfig, ids *Ids, previous *Table, affinity *Affinity) (*Table, error) {
	t := &Table{}
	t.keys.grow(len(services))
	t.vips.grow(len(services))
	n := 0
	for i := range services {
		n += len(services[i].Backends)
	}
	t.behind.grow(n)
	for i := range services {
		c := &services[i]
		s, err := t.add(c, ids)
		if err != nil {
			return nil, err
		}
		s.affinity = affinity
		t.sticky = t.sticky || s.Affinity > 0
		if len(c.Sources) > 0 {
			s.sources = new(bart.Lite)
			for _, p := range c.Sources {
				s.sources.Insert(p)
			}
		}
		before := previous.Service(s.ID)
		if err := s.number(before); err != nil {
			return nil, err
		}
		s.arrange(before)
	}
	return t, nil
}

// add puts one service and its backends into the table.
func (t *Table) add(c *ServiceConfig, ids *Ids) (*Service, error) {
	id, err := ids.service(c.Name, c.Proto)
	if err != nil {
		return nil, err
	}
	s := &Service{
		ID: id, Name: c.Name, VIP: c.VIP, Port: c.Port, Proto: c.Proto, Mode: c.Mode, Algorithm: c.Algorithm,
		Affinity: c.Affinity, Reject: c.Reject, Reset: c.Reset, Line: c.Line,
	}
	if other, taken := t.keys.get(serviceKey(s.VIP, s.Port, s.Proto)); taken {
		return nil, fmt.Errorf("services %q and %q have the same address, port and protocol: change one of them", other.Name, s.Name)
	}
	t.keys.put(serviceKey(s.VIP, s.Port, s.Proto), s)
	t.vips.put(s.VIP, struct{}{})
	t.Services = append(t.Services, s)
	t.byID = place(t.byID, int(id), s)
	for _, b := range c.Backends {
		out := &Backend{ID: ids.backend(id, b.Address, b.Port), Service: id, Address: b.Address, Port: b.Port,
			Weight: b.Weight, Agent: b.Agent, State: b.State, Line: b.Line}
		s.Backends = append(s.Backends, out)
		t.backends = place(t.backends, int(out.ID), out)
		t.behind.put(b.Address, struct{}{})
	}
	return s, nil
}

// place stores v at index i of a list that grows as needed.
func place[T any](list []*T, i int, v *T) []*T {
	for len(list) <= i {
		list = append(list, nil)
	}
	list[i] = v
	return list
}

// number gives the backends their slots: those that the table before had keep
// theirs.
func (s *Service) number(before *Service) error {
	if len(s.Backends) > MaxBackends {
		return fmt.Errorf("service %q has %d backends: at most %d", s.Name, len(s.Backends), MaxBackends)
	}
	old := map[BackendID]uint16{}
	if before != nil {
		for _, b := range before.Backends {
			old[b.ID] = b.slot
		}
	}
	taken := make([]bool, MaxBackends)
	for _, b := range s.Backends {
		if slot, ok := old[b.ID]; ok {
			b.slot, taken[slot] = slot, true
		}
	}
	next := 0
	for _, b := range s.Backends {
		if _, ok := old[b.ID]; ok {
			continue
		}
		for taken[next] {
			next++
		}
		b.slot, taken[next] = uint16(next), true
	}
	return nil
}

// arrange prepares the choice among the backends that get new flows.
func (s *Service) arrange(before *Service) {
	for _, b := range s.Backends {
		if b.State == Active && b.Weight > 0 {
			s.active = append(s.active, b)
			s.slots = place(s.slots, int(b.slot), b)
		}
	}
	// By the names that Maglev hashes, so that every gateway has one order.
	slices.SortFunc(s.active, func(a, b *Backend) int { return cmp.Compare(maglevName(a, s.Proto), maglevName(b, s.Proto)) })
	if len(s.active) == 0 {
		return
	}
	switch s.Algorithm {
	case Maglev:
		if before != nil && before.maglev != nil && before.Proto == s.Proto && slices.EqualFunc(before.active, s.active, interchangeable) {
			s.maglev = before.maglev
			return
		}
		s.maglev = fillMaglev(s.active, s.Proto, maglevSize)
	case RoundRobin:
		s.order = turns(s.active)
		if before != nil {
			s.turn.Store(before.turn.Load())
		}
	case Random:
		sum := uint64(0)
		for _, b := range s.active {
			sum += uint64(b.Weight)
			s.bounds = append(s.bounds, sum)
		}
	}
}

// interchangeable reports whether Maglev gives both the same slots.
func interchangeable(a, b *Backend) bool {
	return a.Address == b.Address && a.Port == b.Port && a.Weight == b.Weight
}

func serviceKey(vip uint32, port uint16, proto uint8) uint64 {
	return uint64(vip)<<24 | uint64(port)<<8 | uint64(proto)
}

// Find returns the service at an address, port and protocol, or nil.
func (t *Table) Find(vip uint32, port uint16, proto uint8) *Service {
	if t == nil {
		return nil
	}
	s, _ := t.keys.get(serviceKey(vip, port, proto))
	return s
}

// IsVIP reports whether any service has this address.
func (t *Table) IsVIP(addr uint32) bool {
	if t == nil {
		return false
	}
	_, ok := t.vips.get(addr)
	return ok
}

// IsBackend reports whether any backend has this address.
func (t *Table) IsBackend(addr uint32) bool {
	if t == nil {
		return false
	}
	_, ok := t.behind.get(addr)
	return ok
}

// Sticky reports whether any service has session affinity.
func (t *Table) Sticky() bool { return t != nil && t.sticky }

// Service returns the service with this number, or nil.
func (t *Table) Service(id ServiceID) *Service {
	if t == nil || int(id) >= len(t.byID) {
		return nil
	}
	return t.byID[id]
}

// Backend returns the backend with this number, or nil.
func (t *Table) Backend(id BackendID) *Backend {
	if t == nil || int(id) >= len(t.backends) {
		return nil
	}
	return t.backends[id]
}

// set is a hash table with open addressing that is filled once, and then read by
// workers without a lock or an allocation. Keys come from the configuration, so
// nobody can aim at one bucket.
type set[K uint32 | uint64, V any] struct {
	slots []slot[K, V]
}

type slot[K uint32 | uint64, V any] struct {
	key   K
	used  bool
	value V
}

// grow makes room for n keys; it is called once, before put.
func (s *set[K, V]) grow(n int) {
	size := 8
	for size < 2*n {
		size *= 2
	}
	s.slots = make([]slot[K, V], size)
}

func (s *set[K, V]) put(key K, v V) {
	i := s.at(key)
	s.slots[i] = slot[K, V]{key, true, v}
}

func (s *set[K, V]) get(key K) (v V, ok bool) {
	if len(s.slots) == 0 {
		return v, false
	}
	at := &s.slots[s.at(key)]
	return at.value, at.used
}

// at is the slot of key, or the free one where it belongs.
func (s *set[K, V]) at(key K) int {
	const golden = 0x9e3779b97f4a7c15
	mask := len(s.slots) - 1
	i := int(uint64(key)*golden>>32) & mask
	for s.slots[i].used && s.slots[i].key != key {
		i = (i + 1) & mask
	}
	return i
}
