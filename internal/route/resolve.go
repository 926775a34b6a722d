package route

import (
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/fib"
)

const (
	askAgain     = time.Second // the kernel probes three times in three seconds; asking more often is in vain
	askedMost    = 4096        // neighbours asked for in a second, whatever is scanned
	probesAtOnce = 64          // stale neighbours probed in one round
)

// target is a neighbour to resolve.
type target struct {
	addr uint32
	port fib.PortID
}

// Resolve has the kernel resolve the neighbour addr on a port. It returns at
// once: the answer, if one comes, comes with a later snapshot. Requests for the
// same neighbour within a second are one; more than 1,024 waiting are dropped.
func (m *Mirror) Resolve(port fib.PortID, addr uint32) {
	select {
	case m.wanted <- target{addr, port}:
	default:
	}
}

// recent remembers the targets of the last second, and of the one before.
type recent struct {
	now, before map[target]time.Time
	since       time.Time
}

// first reports whether t is to be asked for now: it was not in the last
// second, and not too many others were.
func (r *recent) first(t target, now time.Time) bool {
	if r.now == nil || now.Sub(r.since) >= askAgain {
		r.now, r.before, r.since = make(map[target]time.Time), r.now, now
	}
	last, ok := r.now[t]
	if !ok {
		last, ok = r.before[t]
	}
	if ok && now.Sub(last) < askAgain || len(r.now) >= askedMost {
		return false
	}
	r.now[t] = now
	return true
}

// ask passes a target on to the kernel, at most once a second, and reports
// whether it did.
func (m *Mirror) ask(t target, now time.Time) bool {
	if int(t.port) >= len(m.links) || !m.links[t.port].up || !m.asked.first(t, now) {
		return false
	}
	// NTF_USE makes an entry where there is none and starts ARP, or has a stale
	// one probed, as a packet sent by the kernel itself would (neigh_event_send).
	err := m.handle.NeighSet(&netlink.Neigh{
		LinkIndex: int(m.links[t.port].index), Family: syscall.AF_INET,
		State: nudNone, Flags: ntfUse, IP: fib.Addr(t.addr).AsSlice(),
	})
	if err != nil {
		m.log.Debug("neighbour could not be asked for", "interface", m.cfg.Interfaces[t.port], "address", fib.Addr(t.addr), "error", err)
	}
	return true
}

// gatewaysOf lists the gateways that listed interfaces are routed by.
func (m *Mirror) gatewaysOf(routes []fib.Route) []target {
	var all []target
	seen := make(map[target]bool)
	for i := range routes {
		if routes[i].Type != fib.RouteUnicast {
			continue
		}
		for _, p := range routes[i].Paths {
			t := target{p.Gateway, m.portOf(p.Ifindex)}
			if t.addr != 0 && t.port != fib.NoPort && !p.Dead && !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		}
	}
	return all
}

// resolveGateways asks for the gateways that the kernel has no entry of, so that
// the first packet to them does not wait.
func (m *Mirror) resolveGateways(now time.Time) {
	for _, t := range m.gateways {
		if _, ok := m.neighbours[neighKey{t.addr, m.links[t.port].index}]; !ok {
			m.ask(t, now)
		}
	}
}

// refresh has stale neighbours probed, a bounded number in a round, and those
// that moved asked for where it was too soon when they did.
func (m *Mirror) refresh(now time.Time) {
	m.resolveGateways(now)
	probes := 0
	for k, n := range m.neighbours {
		stale := n.state&nudStale != 0 && now.Sub(n.since) >= m.cfg.Refresh
		if !stale && !n.moved {
			continue
		}
		if probes++; probes > probesAtOnce {
			return
		}
		if m.ask(target{k.addr, m.portOf(k.index)}, now) {
			n.since, n.moved = now, false
			m.neighbours[k] = n
		}
	}
}

// neighbourEvent applies one event of the ARP table. The kernel probes a stale
// neighbour at the MAC address it knows; where that one does not answer,
// everybody on the link is asked once, since the address may have moved.
func (m *Mirror) neighbourEvent(msg syscall.NetlinkMessage, now time.Time) {
	if len(msg.Data) == 0 || msg.Data[0] != syscall.AF_INET {
		return
	}
	k, n, err := decodeNeighbour(msg.Data)
	if err != nil {
		m.dirty |= neighbourTable
		return
	}
	port := m.portOf(k.index)
	if port == fib.NoPort || n.proxy {
		return
	}
	if msg.Header.Type == syscall.RTM_DELNEIGH {
		delete(m.neighbours, k)
		m.builder.DeleteNeighbour(port, k.addr)
		return
	}
	n.since = now
	n.moved = n.state&nudFailed != 0 && m.neighbours[k].state&nudValid != 0
	if n.moved && m.ask(target{k.addr, port}, now) {
		n.moved = false
	}
	m.neighbours[k] = n
	m.builder.SetNeighbour(n.entry(port, k.addr))
}
