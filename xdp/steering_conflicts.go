package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Conflict is another station that says by ARP that it has a pool address (RFC 5227
// 2.4). A port of ours on the same segment is one, too: its MAC tells.
type Conflict struct {
	Address uint32 // host byte order
	MAC     [6]byte
	Port    int // that it was heard on
}

// conflictKey is struct conflict of the C source.
type conflictKey struct {
	Address [4]byte
	MAC     [6]byte
	Port    uint16
}

// Conflicts says how often each was heard since the program was loaded. Only so many
// are remembered: those that were heard last.
func (s *Steering) Conflicts() (map[Conflict]uint64, error) {
	all := map[Conflict]uint64{}
	var key conflictKey
	var n uint64
	list := s.maps.Conflicts.Iterate()
	for list.Next(&key, &n) {
		all[Conflict{binary.BigEndian.Uint32(key.Address[:]), key.MAC, int(key.Port)}] = n
	}
	// Packets change the map meanwhile; what is missed now is there the next time.
	if err := list.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("address conflicts: bpf(BPF_MAP_GET_NEXT_KEY): %w", err)
	}
	return all, nil
}
