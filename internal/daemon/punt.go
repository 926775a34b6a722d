package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/gateway"
	"sluice/internal/verdict"
	"sluice/xdp"
)

const (
	// puntLimit is how many packets a second are given back to the kernel at
	// most. Each costs a system call of 13 to 18 µs, so this is under a fifth
	// of a CPU.
	puntLimit = 10_000

	// puntBurst is how many may go at once after a quiet time.
	puntBurst = puntSlots

	// puntPause is how long the goroutine rests when the limit is reached.
	puntPause = time.Millisecond
)

// punts gives packets that the workers got, and that are the kernel's, back to
// the kernel. The limit needs no decision of the workers: frames are taken out of
// the rings no faster than it allows, and a worker whose ring is full drops.
type punts struct {
	punter   *xdp.Punter            // nil: the kernel takes nothing back
	problem  string                 // why not, or on which interface not
	able     [gateway.MaxPorts]bool // by port
	rings    []*puntRing            // by worker
	bell     doorbell
	snapshot *atomic.Pointer[gateway.Snapshot] // knows the ports' devices

	passed, failed [verdict.Count]atomic.Uint64 // by the reason to drop otherwise
}

// newPunts makes the way back for a number of workers. Where there is none, the
// gateway goes without, and the packets are dropped.
func newPunts(c *config.Config, workers int, snapshot *atomic.Pointer[gateway.Snapshot]) *punts {
	p := &punts{snapshot: snapshot, bell: doorbell{wake: make(chan struct{}, 1)}}
	var err error
	if p.punter, err = xdp.NewPunter(); err != nil {
		p.problem = err.Error()
		return p
	}
	for i := range c.Interfaces {
		// In generic mode the frame would meet the steering program again.
		if p.able[i] = c.Interfaces[i].Mode != config.ModeGeneric; !p.able[i] {
			p.problem = c.Interfaces[i].Name + " is in generic mode, where a packet given back would return to the worker"
		}
	}
	for range workers {
		p.rings = append(p.rings, &puntRing{bell: &p.bell, able: &p.able})
	}
	return p
}

// ring is the way back of a worker, or nil.
func (p *punts) ring(worker int) gateway.Punter {
	if p.punter == nil {
		return nil // not a nil *puntRing
	}
	return p.rings[worker]
}

// run gives back what the workers put into their rings, until ctx is done.
func (p *punts) run(ctx context.Context) {
	if p.punter == nil {
		return
	}
	allowed := allowance{filled: time.Now()}
	for ctx.Err() == nil {
		allowed.fill(time.Now())
		passed := p.drain(allowed.tokens)
		allowed.tokens -= passed
		switch {
		case allowed.tokens == 0:
			time.Sleep(puntPause)
		case passed == 0:
			p.sleep(ctx)
		}
	}
}

// allowance is a token bucket: puntLimit a second, and no more than puntBurst
// saved up.
type allowance struct {
	tokens int
	filled time.Time
}

// fill adds what was earned since, in whole tokens; the rest stays due.
func (a *allowance) fill(now time.Time) {
	const interval = time.Second / puntLimit
	earned := now.Sub(a.filled) / interval
	a.filled = a.filled.Add(earned * interval)
	a.tokens = min(a.tokens+int(min(earned, puntBurst)), puntBurst)
}

// drain gives back up to most frames, one of each worker in turn, and returns how
// many there were.
func (p *punts) drain(most int) (passed int) {
	for more := true; more; {
		more = false
		for _, r := range p.rings {
			if passed == most {
				return passed
			}
			if s := r.first(); s != nil {
				p.pass(s)
				r.done()
				passed++
				more = true
			}
		}
	}
	return passed
}

// pass gives one frame to the kernel, on the device that its port has now.
func (p *punts) pass(s *puntSlot) {
	iface := p.snapshot.Load().Routes.Interface(s.in)
	if iface == nil || p.punter.Punt(int(iface.Ifindex), s.bytes[:s.length]) != nil {
		p.failed[s.reason].Add(1) // the device is gone, or memory is
		return
	}
	p.passed[s.reason].Add(1)
}

// sleep returns when a frame has come or ctx is done.
func (p *punts) sleep(ctx context.Context) {
	p.bell.asleep.Store(true)
	// A worker that did not see that yet has not rung; but then its frame is
	// seen here.
	for _, r := range p.rings {
		if r.first() != nil {
			p.bell.asleep.Store(false)
			return
		}
	}
	select {
	case <-p.bell.wake:
	case <-ctx.Done():
	}
}

// close unloads the program. run must have returned.
func (p *punts) close() error {
	if p.punter == nil {
		return nil
	}
	return p.punter.Close()
}

// puntStatus says what became of the packets for the kernel.
func (d *Daemon) puntStatus(s *control.Status) {
	p := d.plane.punts
	s.Punts = control.Punts{Problem: p.problem, LimitPerSecond: puntLimit}
	refused := [verdict.Count]uint64{}
	for _, t := range d.plane.threads {
		c := t.worker.Counters()
		for r, n := range c.PuntsRefused {
			refused[r] += n
		}
	}
	for _, r := range verdict.All() {
		n := control.Punt{Reason: r.String(), Passed: p.passed[r].Load(), Refused: refused[r], Failed: p.failed[r].Load()}
		if n.Passed+n.Refused+n.Failed > 0 {
			s.Punts.Reasons = append(s.Punts.Reasons, n)
		}
	}
}
