package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Flow is one that came through a service's gateway.
type Flow struct {
	Protocol uint8
	Client   netip.AddrPort
	Service  netip.AddrPort // that the client speaks to
	Backend  netip.AddrPort // of this node, or a pod's
	State    State
	Timeout  time.Duration // until it expires, if nothing comes
	Created  time.Time

	// From the client, and from the server; as the kernel has them, so a reply
	// that a NIC will segment is one packet.
	Packets, Bytes [2]uint64
}

// State is where a flow is.
type State uint8

const (
	Opening State = iota // TCP, the server has not answered
	Established
	HalfClosed // one FIN
	TimeWait   // both
	Reset
	SynReceived
	Unreplied // UDP
	Replied
)

// enum flow_state of the C source.
const (
	answered uint32 = 1 << iota
	opened
	clientFIN
	serverFIN
	reset
)

// stateOf reads the bits of enum flow_state.
func stateOf(protocol uint8, bits uint32) State {
	const fins = clientFIN | serverFIN
	switch {
	case protocol != unix.IPPROTO_TCP && bits&answered != 0:
		return Replied
	case protocol != unix.IPPROTO_TCP:
		return Unreplied
	case bits&reset != 0:
		return Reset
	case bits&fins == fins:
		return TimeWait
	case bits&fins != 0:
		return HalfClosed
	case bits&opened != 0:
		return Established
	case bits&answered != 0:
		return SynReceived
	}
	return Opening
}

func (t *Timeouts) of(s State) time.Duration {
	switch s {
	case Unreplied:
		return t.Unreplied
	case Replied:
		return t.UDP
	case Reset:
		return t.Closed
	case TimeWait:
		return t.TimeWait
	case HalfClosed:
		return t.Closing
	case SynReceived:
		return t.Transitory
	case Established:
		return t.Established
	}
	return t.Opening
}

// endpoint is an address and port as the programs have them, in network order.
func endpoint(address uint32, port uint16) netip.AddrPort {
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], address)
	var p [2]byte
	binary.NativeEndian.PutUint16(p[:], port)
	return netip.AddrPortFrom(netip.AddrFrom4(a), binary.BigEndian.Uint16(p[:]))
}

// now is the programs' clock, CLOCK_MONOTONIC in nanoseconds.
func now() uint64 {
	var ts unix.Timespec
	// It has no way to fail with this clock and a valid pointer.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

const batch = 1024 // flows read by one system call

// Cursor is how far a walk over the flows has come. The zero value begins one.
type Cursor struct {
	Done   bool
	at     ebpf.MapBatchCursor
	keys   []programsFlowKey
	values []programsFlow
}

// read reads the next flows: keys and values of the cursor up to n.
func (a *Agent) read(c *Cursor) (n int, err error) {
	if c.keys == nil {
		c.keys, c.values = make([]programsFlowKey, batch), make([]programsFlow, batch)
	}
	n, err = a.objects.Flows.BatchLookup(&c.at, c.keys, c.values, nil)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		c.Done = true
	case err != nil:
		return 0, fmt.Errorf("flows of the DSR agent: bpf(BPF_MAP_LOOKUP_BATCH): %w", err)
	}
	return n, nil
}

// Next appends some more live flows to list, at least one unless the walk is done.
// A flow that comes or goes meanwhile may be missed.
func (a *Agent) Next(c *Cursor, list []Flow) ([]Flow, error) {
	before, t := len(list), a.timeouts()
	for !c.Done && len(list) == before {
		n, err := a.read(c)
		if err != nil {
			return list, err
		}
		at, wall := now(), time.Now()
		for i := range n {
			if f := flowOf(&c.keys[i], &c.values[i], &t, at, wall); f.Timeout > 0 {
				list = append(list, f)
			}
		}
	}
	return list, nil
}

// flowOf words a flow of the map, at a time of the programs' clock that is wall.
func flowOf(k *programsFlowKey, v *programsFlow, t *Timeouts, at uint64, wall time.Time) Flow {
	s := stateOf(k.Protocol, v.State)
	return Flow{
		Protocol: k.Protocol, State: s, Timeout: t.of(s) - since(at, v.Seen), Created: wall.Add(-since(at, v.Created)),
		Client:  endpoint(k.Client, k.ClientPort),
		Backend: endpoint(k.Backend, k.BackendPort),
		Service: endpoint(v.Vip, v.VipPort),
		Packets: v.Packets, Bytes: v.Bytes,
	}
}

// keyOf is the key of the flow between a client and a backend.
func keyOf(protocol uint8, client, backend netip.AddrPort) programsFlowKey {
	return programsFlowKey{
		Client: networkOrder32(client.Addr()), ClientPort: client.Port()>>8 | client.Port()<<8,
		Backend: networkOrder32(backend.Addr()), BackendPort: backend.Port()>>8 | backend.Port()<<8, Protocol: protocol,
	}
}

// Find is the live flow between a client and a backend, or nil.
func (a *Agent) Find(protocol uint8, client, backend netip.AddrPort) (*Flow, error) {
	k, t := keyOf(protocol, client, backend), a.timeouts()
	var v programsFlow
	err := a.objects.Flows.Lookup(&k, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("flows of the DSR agent: bpf(BPF_MAP_LOOKUP_ELEM): %w", err)
	}
	f := flowOf(&k, &v, &t, now(), time.Now())
	return &f, nil
}

// since is at - then, not negative: the programs' clock is a coarse one, and a
// flow may be seen after it was read.
func since(at, then uint64) time.Duration { return max(time.Duration(at-then), 0) }

// expire removes the flows whose time is over, and backends that have none, and
// returns how many flows there are left.
func (a *Agent) expire() (left int, err error) {
	t, at := a.timeouts(), now()
	var over []programsFlowKey
	backends := map[uint32]bool{}
	var c Cursor
	for !c.Done {
		n, err := a.read(&c)
		if err != nil {
			return left, err
		}
		for i := range n {
			backends[c.keys[i].Backend] = true
			if since(at, c.values[i].Seen) > t.of(stateOf(c.keys[i].Protocol, c.values[i].State)) {
				over = append(over, c.keys[i])
			} else {
				left++
			}
		}
	}
	for i := range over {
		err = errors.Join(err, a.expireOne(&over[i], at, &t))
	}
	return left, errors.Join(err, a.putBackends(backends, at))
}

// rest is how long a backend without flows is remembered: a flow that begins while
// the map is read may be missed.
const rest = time.Minute

// putBackends makes the programs' set of backends that of flows, as read at a time.
func (a *Agent) putBackends(live map[uint32]bool, at uint64) error {
	var errs []error
	var backend uint32
	var began uint64
	var over []uint32
	m := a.objects.Backends
	for it := m.Iterate(); it.Next(&backend, &began); {
		if !live[backend] && since(at, began) > rest {
			over = append(over, backend)
		}
		delete(live, backend)
	}
	for _, backend := range over {
		if err := m.Delete(backend); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("backends of the DSR agent: bpf(BPF_MAP_DELETE_ELEM): %w", err))
		}
	}
	for backend := range live { // of flows that a former version began
		if err := m.Put(backend, at); err != nil {
			errs = append(errs, fmt.Errorf("backends of the DSR agent: bpf(BPF_MAP_UPDATE_ELEM): %w", err))
		}
	}
	return errors.Join(errs...)
}

// expireOne looks again: a packet may have come since the flow was read.
func (a *Agent) expireOne(k *programsFlowKey, at uint64, t *Timeouts) error {
	var v programsFlow
	err := a.objects.Flows.Lookup(k, &v)
	if err == nil && since(at, v.Seen) > t.of(stateOf(k.Protocol, v.State)) {
		err = a.objects.Flows.Delete(k)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("flows of the DSR agent: %w", err)
	}
	return nil
}

func (a *Agent) timeouts() Timeouts {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config.Timeouts
}

// Remove takes a flow away, and says whether it was there.
func (a *Agent) Remove(f *Flow) (bool, error) {
	k := keyOf(f.Protocol, f.Client, f.Backend)
	err := a.objects.Flows.Delete(&k)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("flows of the DSR agent: bpf(BPF_MAP_DELETE_ELEM): %w", err)
	}
	return true, nil
}
