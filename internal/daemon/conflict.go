package daemon

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/xdp"
)

const (
	// conflictFor is how long status tells of another station with an address of
	// ours: it is asked for once a minute, and an answer may get lost.
	conflictFor = 150 * time.Second

	// defendEvery is DEFEND_INTERVAL of RFC 5227 2.4: an address is announced once
	// more when another station claims it, and not again for so long. Both claim it
	// for good otherwise, as two gateways would.
	defendEvery = 10 * time.Second
)

// conflicts are the addresses that other stations say they have, too. It belongs to
// the control goroutine.
type conflicts struct {
	heard    map[xdp.Conflict]claim
	defended map[uint32]time.Time
	defend   chan gateway.Neighbour // to the worker that announces
	failed   bool
	counted  atomic.Uint64 // messages; whoever asks for status reads it
}

// claim is how often a conflict was heard, and when it was heard last.
type claim struct {
	times uint64
	last  time.Time
}

func newConflicts() *conflicts {
	return &conflicts{heard: map[xdp.Conflict]claim{}, defended: map[uint32]time.Time{}, defend: make(chan gateway.Neighbour, 16)}
}

// followConflicts looks at what the steering program heard since the last call.
func (d *Daemon) followConflicts(now time.Time) {
	c := d.conflicts
	all, err := d.plane.steering.Conflicts()
	if err != nil && !c.failed {
		d.log.Warn("other stations with addresses of ours are not noticed", "error", err)
	}
	c.failed = err != nil
	for k, times := range all {
		before := c.heard[k]
		if times == before.times || !d.conflicting(k) {
			continue
		}
		c.heard[k] = claim{times, now}
		if times < before.times {
			before.times = 0 // it was forgotten meanwhile
		}
		c.counted.Add(times - before.times)
		if before.last.IsZero() || now.Sub(before.last) > conflictFor {
			d.log.Warn("another station says that it has an address of this gateway", "address", fib.Addr(k.Address),
				"mac", net.HardwareAddr(k.MAC[:]), "interface", d.config.Interfaces[k.Port].Name)
		}
		d.defend(k, now)
	}
	for k, x := range c.heard {
		if _, there := all[k]; !there && now.Sub(x.last) > conflictFor {
			delete(c.heard, k)
		}
	}
}

// conflicting reports whether a claim is about an address that this gateway answers
// ARP for, by somebody else: two of its interfaces can be on one segment.
func (d *Daemon) conflicting(k xdp.Conflict) bool {
	for i := range d.config.Interfaces {
		if iface := d.routes.Interface(fib.PortID(i)); iface != nil && iface.MAC == k.MAC {
			return false
		}
	}
	_, announced := slices.BinarySearch(d.pointer.Load().Balance.Announced, k.Address)
	return (announced || d.externals[k.Address] != nil) && !d.routes.Local(k.Address)
}

// defend has an address announced where somebody else claimed it, unless that was
// done a moment ago.
func (d *Daemon) defend(k xdp.Conflict, now time.Time) {
	c := d.conflicts
	for addr, at := range c.defended {
		if now.Sub(at) >= defendEvery {
			delete(c.defended, addr)
		}
	}
	if _, done := c.defended[k.Address]; done {
		return
	}
	select {
	case c.defend <- gateway.Neighbour{Port: fib.PortID(k.Port), Addr: k.Address}:
		c.defended[k.Address] = now
	default: // the worker has enough to announce; the claim is repeated
	}
}

// conflictProblems is what status says of them.
func (d *Daemon) conflictProblems(now time.Time) (list []control.Degradation) {
	for k, x := range d.conflicts.heard {
		if now.Sub(x.last) > conflictFor || !d.conflicting(k) {
			continue
		}
		list = append(list, control.Degradation{
			What: fmt.Sprintf("address conflict: the station %s on %s says that it has %s, too",
				net.HardwareAddr(k.MAC[:]), d.config.Interfaces[k.Port].Name, fib.Addr(k.Address)),
			Remedy: "take the address away from one of the two (here: announce: none, or out of masquerade.addresses); " +
				"until then clients reach now the one and now the other. Of two gateways with the same services one alone may announce them",
		})
	}
	slices.SortFunc(list, func(a, b control.Degradation) int { return strings.Compare(a.What, b.What) })
	return list
}
