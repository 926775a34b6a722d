package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// ServicePort is an address and port that a service is reached at, both in host
// byte order.
type ServicePort struct {
	Address  uint32
	Port     uint16
	Protocol uint8 // IP protocol number: TCP or UDP

	// Dispatch makes it the port (0: the protocol has none) of others that Address
	// sends requests to in outer headers of Protocol. Errors about them are workers'.
	Dispatch bool
}

// serviceKey is struct service of the C source.
type serviceKey struct {
	Address  [4]byte
	Port     [2]byte
	Protocol uint8
	Dispatch bool
}

func (p ServicePort) key() serviceKey {
	k := serviceKey{Address: addressKey(p.Address), Protocol: p.Protocol, Dispatch: p.Dispatch}
	binary.BigEndian.PutUint16(k.Port[:], p.Port)
	return k
}

// SetServices makes list the whole set of services. Additions come first, so
// that a service which goes over from one entry to another is never the
// kernel's. The address of each must have been told to SetAddress, as shared or
// pool. After an error the set is between the old and the new one; calling again
// goes on from there.
func (s *Steering) SetServices(list []ServicePort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[ServicePort]bool, len(list))
	// The program asks for services where there are any: what is counted is never
	// fewer than there are.
	s.list(len(s.services) + len(list))
	defer func() { s.list(len(s.services)) }()
	for _, p := range list {
		wanted[p] = true
		if s.services[p] {
			continue
		}
		if err := s.maps.Services.Put(p.key(), uint8(1)); err != nil {
			return fmt.Errorf("service %s:%d: %s: %w: at most %d services fit", ip4(p.Address), p.Port, callMapUpdate, err, s.config.MaxServices)
		}
		s.services[p] = true
	}
	for p := range s.services {
		if wanted[p] {
			continue
		}
		if err := s.maps.Services.Delete(p.key()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("service %s:%d: %s: %w", ip4(p.Address), p.Port, callMapDelete, err)
		}
		delete(s.services, p)
	}
	return nil
}

// list tells the program how many services there may be.
func (s *Steering) list(n int) { atomic.StoreUint64(&s.state[stateServices], uint64(n)) }
