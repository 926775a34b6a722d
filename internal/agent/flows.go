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
	Opening     State = iota // the server has not answered
	Established              // TCP
	HalfClosed               // one FIN
	TimeWait                 // both
	Reset
	Replied // UDP
	SynReceived
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
		return Opening
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

func (t *Timeouts) of(protocol uint8, s State) time.Duration {
	switch {
	case protocol != unix.IPPROTO_TCP && s == Opening:
		return t.Unreplied
	case s == Replied:
		return t.UDP
	case s == Reset:
		return t.Closed
	case s == TimeWait:
		return t.TimeWait
	case s == HalfClosed, s == SynReceived:
		return t.Transitory
	case s == Established:
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

// each calls f with every flow, in no order, until it returns false. A flow that
// comes or goes meanwhile may be missed.
func (a *Agent) each(f func(*programsFlowKey, *programsFlow) bool) error {
	keys, values := make([]programsFlowKey, batch), make([]programsFlow, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := a.objects.Flows.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if !f(&keys[i], &values[i]) {
				return nil
			}
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("flows of the DSR agent: bpf(BPF_MAP_LOOKUP_BATCH): %w", err)
		}
	}
}

// Flows calls yield with every live flow until it returns false.
func (a *Agent) Flows(yield func(Flow) bool) error {
	t, at, wall := a.timeouts(), now(), time.Now()
	return a.each(func(k *programsFlowKey, v *programsFlow) bool {
		s := stateOf(k.Protocol, v.State)
		left := t.of(k.Protocol, s) - since(at, v.Seen)
		if left <= 0 {
			return true
		}
		return yield(Flow{
			Protocol: k.Protocol, State: s, Timeout: left, Created: wall.Add(-since(at, v.Created)),
			Client:  endpoint(k.Client, k.ClientPort),
			Backend: endpoint(k.Backend, k.BackendPort),
			Service: endpoint(v.Vip, v.VipPort),
			Packets: v.Packets, Bytes: v.Bytes,
		})
	})
}

// since is at - then, not negative: the programs' clock is a coarse one, and a
// flow may be seen after it was read.
func since(at, then uint64) time.Duration { return max(time.Duration(at-then), 0) }

// expire removes the flows whose time is over and returns how many there are left.
func (a *Agent) expire() (left int, err error) {
	t, at := a.timeouts(), now()
	var over []programsFlowKey
	err = a.each(func(k *programsFlowKey, v *programsFlow) bool {
		if since(at, v.Seen) > t.of(k.Protocol, stateOf(k.Protocol, v.State)) {
			over = append(over, *k)
		} else {
			left++
		}
		return true
	})
	for i := range over {
		err = errors.Join(err, a.expireOne(&over[i], at, &t))
	}
	return left, err
}

// expireOne looks again: a packet may have come since the flow was read.
func (a *Agent) expireOne(k *programsFlowKey, at uint64, t *Timeouts) error {
	var v programsFlow
	err := a.objects.Flows.Lookup(k, &v)
	if err == nil && since(at, v.Seen) > t.of(k.Protocol, stateOf(k.Protocol, v.State)) {
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
