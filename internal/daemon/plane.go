package daemon

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/fragment"
	"sluice/internal/gateway"
	"sluice/xdp"
)

// plane is the data plane: the interfaces, the steering program, the flow table
// and the worker threads.
type plane struct {
	driver   config.Driver
	nics     []*xdp.NIC
	steering *xdp.Steering
	state    *state
	table    *conntrack.Table // state's
	threads  []*thread
	resolve  chan gateway.Neighbour
	punts    *punts
	failed   chan struct{} // has a value when a port failed: see failure
	pointer  atomic.Pointer[gateway.Snapshot]
}

// staleAfter is how old a worker's heartbeat may be before the steering program
// stops sending it packets.
const staleAfter = time.Second

// spareFrames are the frames of a worker beyond those in its rings: a burst, and
// those that wait for neighbours.
const spareFrames = 512

// buildPlane sets everything up that needs the configuration alone. Nothing is
// attached yet: no packet is touched before start.
func buildPlane(c *config.Config, locate conntrack.Services, took *steps) (_ *plane, err error) {
	p := &plane{driver: c.Driver, resolve: make(chan gateway.Neighbour, 256), failed: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			_, problem := p.close(true, c.OnFailure)
			err = errors.Join(err, problem)
		}
	}()
	for _, i := range c.Interfaces {
		nic, err := xdp.Probe(i.Name)
		if err != nil {
			return nil, err
		}
		if n := int(i.Queues); n != 0 && n != nic.RXQueues {
			return nil, fmt.Errorf("interfaces: %s: queues: %d is configured and the interface has %d; set it with `ethtool -L %s combined %d` or write queues: all",
				i.Name, n, nic.RXQueues, i.Name, n)
		}
		p.nics = append(p.nics, nic)
	}
	cpus, err := allowedCPUs(c.CPUs)
	if err != nil {
		return nil, err
	}
	plans, err := xdp.Plan(p.nics, len(cpus))
	if err != nil {
		return nil, err
	}
	took.done("interfaces")
	if p.state, err = openState(c, len(plans), locate); err != nil {
		return nil, err
	}
	p.table = p.state.table
	took.done("flow memory")
	if err := p.loadSteering(c, len(plans)); err != nil {
		return nil, err
	}
	p.punts = newPunts(c, len(plans), &p.pointer)
	took.done("programs")
	defer took.done("sockets")
	return p, p.makeThreads(c, plans, cpus)
}

func (p *plane) loadSteering(c *config.Config, workers int) error {
	cfg := xdp.SteeringConfig{
		Workers: workers, OnFailure: failure(c.OnFailure), StaleAfter: staleAfter,
		MaxAddresses: maxExternals + config.MaxServices, MaxServices: 2 * config.MaxServices, HeldAddresses: maxExternals,
	}
	for i, nic := range p.nics {
		mode, _ := xdp.ParseMode(string(c.Interfaces[i].Mode))
		cfg.Ports = append(cfg.Ports, xdp.SteeringPort{
			NIC: nic, Queues: nic.RXQueues, Mode: mode,
		})
	}
	var err error
	p.steering, err = xdp.LoadSteering(cfg)
	return err
}

func (p *plane) makeThreads(c *config.Config, plans []xdp.WorkerPlan, cpus []int) error {
	clock, err := xdp.NewClock()
	if err != nil {
		return err
	}
	modes := make([]xdp.Mode, len(p.nics))
	for i := range modes {
		modes[i], _ = xdp.ParseMode(string(c.Interfaces[i].Mode))
	}
	for id, plan := range plans {
		t := &thread{id: id, cpu: workerCPU(c.CPUs, cpus, id, len(plans)), clock: clock, beat: p.steering.Heartbeat(id)}
		t.nap = p.table.Count().FlowCapacity/len(plans)/int(sweepTime/napTime) + 1
		t.umem, t.ports, err = openPorts(c.Driver, plan, xdp.PortsConfig{Modes: modes, Spare: spareFrames, HugePages: true}, p.failed)
		if err != nil {
			return err
		}
		t.waiter, err = xdp.NewWaiter(xdp.WaiterConfig{Yield: crowded(cpus, len(plans))})
		if err != nil {
			return errors.Join(err, closePorts(t.umem, t.ports))
		}
		t.watch()
		p.threads = append(p.threads, t)
	}
	return nil
}

// start connects the workers to their queues and attaches the steering program:
// from here on packets flow. The first snapshot must have been published. defend has
// addresses to announce once more.
func (p *plane) start(defend <-chan gateway.Neighbour) error {
	var seed [16]byte
	rand.Read(seed[:])
	fragments := fragment.NewExchange(len(p.threads), [2]uint64{binary.NativeEndian.Uint64(seed[:]), binary.NativeEndian.Uint64(seed[8:])})
	for _, t := range p.threads {
		cfg := gateway.Config{
			ID: t.id, Workers: len(p.threads), Table: p.table, Memory: t.umem, Snapshot: &p.pointer, Resolve: p.resolve,
			Punt: p.punts.ring(t.id), Fragments: fragments, Wake: p.wakeWorker,
		}
		if rand.Read(cfg.Seed[:]); t.id == 0 {
			cfg.Defend = defend // the first worker announces
		}
		for _, port := range t.ports {
			cfg.Ports = append(cfg.Ports, port)
		}
		t.worker = gateway.New(cfg)
		if err := t.start(); err != nil {
			return err
		}
	}
	for i := range p.nics {
		if err := p.connect(i); err != nil {
			return err
		}
		if err := p.steering.Attach(i); err != nil {
			return err
		}
	}
	return nil
}

// wakeWorker ends the sleep of one worker.
func (p *plane) wakeWorker(id int) {
	_ = p.threads[id].waiter.Wake() // the nap ends by itself otherwise
}

// wake ends the sleep of every worker, so that a new snapshot is seen at once.
func (p *plane) wake() {
	for _, t := range p.threads {
		if t.done != nil {
			_ = t.waiter.Wake() // the nap ends by itself otherwise
		}
	}
}

// adopted returns when every running worker uses s, so that nothing that only
// older snapshots name is in use any more.
func (p *plane) adopted(s *gateway.Snapshot) {
	p.wake()
	for _, t := range p.threads {
		for t.running() && t.worker.Adopted() != s {
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// close stops the workers and gives everything back. It says in words what
// happens to packets from now on.
func (p *plane) close(detach bool, onFailure config.Failure) (left string, err error) {
	var errs []error
	for _, t := range p.threads {
		errs = append(errs, t.halt())
	}
	if p.state != nil {
		// At rest now, and the steering program's bits still mapped.
		errs = append(errs, p.state.check())
	}
	left = "the kernel has the packets again"
	if p.steering != nil {
		pinned, where := p.steering.Pinned()
		switch {
		case detach:
			for i := range p.nics {
				errs = append(errs, p.steering.Detach(i))
			}
		case pinned && onFailure == config.FailPass:
			left = "the steering program stays in " + where + " and passes packets to the kernel, untranslated (on-failure: pass); `sluice detach` removes it"
		case pinned:
			left = "the steering program stays in " + where + " and drops what a worker would get (on-failure: drop); `sluice detach` removes it"
		}
		errs = append(errs, p.steering.Close())
	}
	for _, t := range p.threads {
		errs = append(errs, t.close())
	}
	if p.punts != nil {
		errs = append(errs, p.punts.close())
	}
	if p.state != nil {
		left += p.state.left()
		errs = append(errs, p.state.close())
	}
	return left, errors.Join(errs...)
}

// crowded reports whether workers share their CPUs with the control plane, the
// host's programs and the softirqs that feed them.
func crowded(cpus []int, workers int) bool { return len(cpus) <= 2*workers }

// workerCPU is the CPU that a worker is bound to, or -1 for none. Where CPUs are
// few and nobody chose among them, the scheduler chooses: whatever else runs on a
// worker's only CPU would hold it up while another one idles.
func workerCPU(asked, cpus []int, id, workers int) int {
	if len(asked) == 0 && crowded(cpus, workers) {
		return -1
	}
	return cpus[id]
}

// allowedCPUs lists the CPUs for workers: those asked for, or those that the
// process may run on.
func allowedCPUs(asked []int) ([]int, error) {
	allowed, err := xdp.AllowedCPUs()
	if err != nil || len(asked) == 0 {
		return allowed, err
	}
	for _, cpu := range asked {
		if !slices.Contains(allowed, cpu) {
			return nil, fmt.Errorf("cpus: CPU %d does not exist or this process may not use it; see `taskset -cp $$`", cpu)
		}
	}
	return asked, nil
}
