package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
)

// key is the prefix that stands for s in the map.
func (s Service) key() programsService {
	k := programsService{Length: uint32(s.Prefix.Bits()), Address: networkOrder32(s.Prefix.Masked().Addr())}
	if s.Port != 0 {
		k.Length, k.Port = 48, s.Port>>8|s.Port<<8
	}
	return k
}

// networkOrder32 is an address as the programs have it.
func networkOrder32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func keyOfGateway(ifindex int, mac net.HardwareAddr) programsGateway {
	k := programsGateway{Ifindex: uint32(ifindex)}
	copy(k.Mac[:], mac)
	return k
}

// putSet makes the keys of a map those of wanted: additions first, so that what
// was believed and still is never stops being so. The map is read anew each time,
// since an earlier process may have left more in it.
func putSet[K comparable](m *ebpf.Map, what string, wanted map[K]bool) error {
	var k K
	var there uint8
	old := map[K]bool{}
	for it := m.Iterate(); it.Next(&k, &there); {
		old[k] = true
	}
	for k := range wanted {
		if old[k] {
			continue
		}
		if err := m.Put(k, uint8(1)); err != nil {
			return fmt.Errorf("%s of the DSR agent: bpf(BPF_MAP_UPDATE_ELEM): %w (at most %d fit)", what, err, m.MaxEntries())
		}
	}
	for k := range old {
		if wanted[k] {
			continue
		}
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("%s of the DSR agent: bpf(BPF_MAP_DELETE_ELEM): %w", what, err)
		}
	}
	return nil
}

func (a *Agent) putServices() error {
	wanted := make(map[programsService]bool, len(a.config.Services))
	for _, s := range a.config.Services {
		wanted[s.key()] = true
	}
	return putSet(a.objects.Services, "services", wanted)
}

func (a *Agent) putOwn(addresses []netip.Addr) error {
	wanted := make(map[uint32]bool, len(addresses))
	for _, addr := range addresses {
		wanted[networkOrder32(addr)] = true
	}
	return putSet(a.objects.Own, "addresses of the node", wanted)
}

// putArrivals has the programs know where requests arrive.
func (a *Agent) putArrivals(n *node) error {
	wanted := map[uint32]bool{}
	for _, name := range a.config.Interfaces {
		if l := n.link(name); l != nil {
			wanted[uint32(l.Attrs().Index)] = true
		}
	}
	return putSet(a.objects.Arrivals, "interfaces of requests", wanted)
}

func (a *Agent) putSettings() error {
	settings := a.config.settings()
	if a.rules {
		settings |= sourceRules
	}
	if a.before != nil {
		settings |= handingOver
	}
	if err := a.objects.Settings.Put(uint32(0), settings); err != nil {
		return fmt.Errorf("settings of the DSR agent: bpf(BPF_MAP_UPDATE_ELEM): %w", err)
	}
	return nil
}
