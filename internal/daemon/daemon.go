package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/health"
	"sluice/internal/hostpeer"
	"sluice/internal/metrics"
	"sluice/internal/packet"
	"sluice/internal/route"
	"sluice/nat"
)

// Options are what the command line adds to the configuration.
type Options struct {
	ConfigPath   string
	DetachOnExit bool
	VerifyFlows  bool   // walk the flow table at the start and at the end, and fail if it is not consistent
	Socket       string // overrides control.socket; "" = as configured
	Version      control.Version
	Logger       *slog.Logger
	Reload       <-chan struct{} // SIGHUP
}

// Daemon is a running gateway.
type Daemon struct {
	options Options
	log     *slog.Logger
	started time.Time

	plane  *plane
	mirror *route.Mirror
	peers  *hostpeer.Watcher
	publisher
	view  view        // what status shows of the control goroutine's state
	links []linkState // of the listed interfaces

	shadows     []control.Degradation // forwarded ports that the host uses, too
	portsUnread string                // why the host's ports could not be read last; "" where they could

	// sockets is held for reading while status looks at the workers' sockets
	// and their rings, and for writing while those are closed and opened.
	sockets sync.RWMutex

	routesChanged chan *fib.Snapshot
	reloads       chan reloadRequest
	commands      chan command
	health        *health.Checker
	looks         looks
	watching      flowWatch
	watchdog      watchdog
	metrics       *metrics.Listener
	conflicts     *conflicts
	dsrAgent      dsrAgent
	backToCPUs    func() error // see shareCPUs; nil before

	hostPeersChanged chan *nat.HostPeers

	// open is held for reading by whoever looks at the data plane for the
	// control socket, and taken for writing before its memory goes away.
	open   sync.RWMutex
	closed bool
}

// Run is `sluice run`: it returns when ctx is done and everything was taken
// down, or with the first error that forwarding cannot survive.
func Run(ctx context.Context, o Options) error {
	began := time.Now()
	c, warnings, err := load(o.ConfigPath)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		o.Logger.Warn(w)
	}
	socket := c.Control.Socket
	if o.Socket != "" {
		socket = o.Socket
	}
	// First of all, since it is what keeps a second daemon from taking the
	// interfaces over.
	listener, err := control.Listen(socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	if len(c.Interfaces) == 0 {
		return runBackend(ctx, o, began, c, warnings, listener)
	}
	d := &Daemon{
		options: o, log: o.Logger, started: began, dsrAgent: dsrAgent{log: o.Logger},
		routesChanged: make(chan *fib.Snapshot, 1), hostPeersChanged: make(chan *nat.HostPeers, 1), reloads: make(chan reloadRequest), commands: make(chan command),
	}
	d.config = c
	if err := d.build(c, warnings); err != nil {
		return err
	}
	err = d.serve(ctx, listener)
	return errors.Join(err, d.takeDown())
}

// load reads a configuration and returns its warnings with it. The mistakes of
// a refused one are a *control.Refusal.
func load(path string) (*config.Config, []string, error) {
	c, mistakes := config.Load(path)
	var lines []string
	for _, m := range mistakes {
		if c != nil || !m.Warning {
			lines = append(lines, m.String())
		}
	}
	if c != nil {
		return c, lines, nil
	}
	reason := lines[0]
	if len(lines) > 1 {
		reason = fmt.Sprintf("%s (and %d more mistakes: `sluice check --config %s`)", reason, len(lines)-1, path)
	}
	return nil, nil, &control.Refusal{Reason: reason, Mistakes: lines}
}

// build brings up the data plane behind the first snapshot.
func (d *Daemon) build(c *config.Config, warnings []string) (err error) {
	pol, err := policy(c)
	if err != nil {
		return err
	}
	took := newSteps(d.started)
	defer took.tell(d.log)
	took.done("configuration")
	balancer := newBalancer()
	balancer.recall(c, d.log)
	if err := balancer.configure(c); err != nil {
		return err
	}
	if d.plane, err = buildPlane(c, balancer.locate, took); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// A start that failed leaves what it found.
			err = errors.Join(err, d.plane.steering.Abandon(), d.takeDown())
		}
	}()
	if d.backToCPUs, err = d.shareCPUs(); err != nil {
		return err
	}
	var names []string
	for _, i := range c.Interfaces {
		names = append(names, i.Name)
	}
	if d.mirror, err = route.New(route.Config{Interfaces: names, Logger: d.log}); err != nil {
		return err
	}
	if d.peers, err = hostpeer.New(hostpeer.Config{Logger: d.log}); err != nil {
		return err
	}
	took.done("routes")
	d.publisher = *newPublisher(d.log, d.plane.table, d.plane.steering, &d.plane.pointer)
	d.publisher.adopted = d.plane.adopted
	d.publisher.now = func() conntrack.Tick { return tick(d.plane.threads[0].clock.Now()) }
	d.plane.table.SharePeers(d.plane.steering.Peers())
	d.balancer = balancer
	if err := balancer.keep(); err != nil { // without those that are no more
		d.log.Warn(err.Error())
	}
	d.config, d.policy, d.routes, d.host = c, pol, d.mirror.Current(), d.peers.Current()
	d.view.warnings, d.view.loaded = warnings, d.started
	// Flows that were left get their addresses back before anything else can
	// claim a port, and their ports' bits before the steering program goes over
	// to these maps: an answer in between is not the host's to reset.
	if err := d.addExternals(d.wanted()); err != nil {
		return err
	}
	d.plane.state.rebuild(tick(d.plane.threads[0].clock.Now()))
	took.done("flows")
	d.plane.state.verify = d.options.VerifyFlows
	if err := d.plane.state.check(); err != nil {
		return err
	}
	d.plane.state.tell(d.log)
	if err := d.publish(); err != nil {
		return err
	}
	d.reserveHostPorts()
	took.done("snapshot")
	for _, nic := range d.plane.nics {
		d.links = append(d.links, linkState{serving: nic.Ifindex, up: true})
	}
	d.conflicts = newConflicts()
	d.refresh()
	defer took.done("attach")
	if err := d.plane.start(d.conflicts.defend); err != nil {
		return err
	}
	return d.dsrAgent.configure(c)
}

// housekeeping is how often the ports of the host's own sockets are read, so
// that NAT does not hand them out, and how often the workers' load is sampled.
const housekeeping = time.Second

// serve answers and follows changes until ctx is done.
func (d *Daemon) serve(ctx context.Context, listener net.Listener) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 3)
	server, listening, err := controlServer(d, d.options, d.config)
	if err != nil {
		return err
	}
	d.metrics = listening
	defer d.metrics.Close()
	d.probeBackends(ctx)
	defer func() {
		cancel() // what a probe found waits for the control goroutine, or for this
		d.health.Close()
	}()
	running.Go(func() { failed <- d.mirror.Run(ctx, d.routeChange) })
	running.Go(func() { failed <- d.peers.Run(ctx, d.hostPeerChange) })
	running.Go(func() { failed <- server.Serve(ctx, listener) })
	running.Go(func() { d.resolveNeighbours(ctx) })
	running.Go(func() { d.plane.punts.run(ctx) })
	if p := d.plane.punts.problem; p != "" {
		d.log.Warn("what a worker gets and the host owns is dropped", "reason", p)
	}
	d.log.Info("forwarding", "interfaces", len(d.plane.nics), "workers", len(d.plane.threads), "control", listener.Addr())
	if err := notify("READY=1\nSTATUS=forwarding"); err != nil {
		d.log.Warn(err.Error())
	}
	var short bool
	if d.watchdog, short = newWatchdog(os.Getenv); short {
		d.log.Warn("WatchdogSec= is shorter than 3 s: systemd will end the service between two signs of life")
	}
	return d.loop(ctx, failed)
}

// controlServer makes what answers for g, a gateway or an agent's node: the control
// server, and the listener for Prometheus, where one is configured.
func controlServer(g interface {
	control.Gateway
	metrics.Source
}, o Options, c *config.Config) (*control.Server, *metrics.Listener, error) {
	server := control.NewServer(g, o.Version, o.Logger)
	scrape := metrics.NewHandler(g)
	server.SetMetrics(scrape)
	listener := metrics.NewListener(scrape, o.Logger)
	if _, err := listener.Move(c.Control.Metrics); err != nil {
		return nil, nil, err
	}
	return server, listener, nil
}

// loop is the control goroutine: the only one that publishes.
func (d *Daemon) loop(ctx context.Context, failed <-chan error) error {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = notify("STOPPING=1")
			return nil
		case err := <-failed:
			if err != nil && ctx.Err() == nil {
				return err
			}
		case s := <-d.routesChanged:
			d.routes = s
			d.followLinks(time.Now())
			if err := d.publish(); err != nil {
				d.log.Error("routes changed, and could not be followed", "error", err)
			}
		case d.host = <-d.hostPeersChanged:
			if err := d.publish(); err != nil {
				d.log.Error("what the host speaks changed, and could not be followed", "error", err)
			}
		case <-d.plane.failed:
			d.followLinks(time.Now())
		case c := <-d.commands:
			c.do()
			close(c.done)
		case r := <-d.reloads:
			r.done <- d.reload("control socket")
		case <-d.options.Reload:
			d.reload("SIGHUP")
		case now := <-tick.C:
			d.followLinks(now)
			d.watchSteering()
			d.followAgent()
			d.reserveHostPorts()
			d.reuseDrained()
			d.countUnanswered(now)
			d.followConflicts(now)
			for _, t := range d.plane.threads {
				t.measure()
			}
			d.feedWatchdog()
		}
		d.refresh()
	}
}

// routeChange hands the newest routes to the control goroutine; an older one
// that was not taken yet is replaced.
func (d *Daemon) routeChange(s *fib.Snapshot) {
	for {
		select {
		case d.routesChanged <- s:
			return
		default:
		}
		select {
		case <-d.routesChanged:
		default:
		}
	}
}

// resolveNeighbours passes on what workers ask for.
func (d *Daemon) resolveNeighbours(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-d.plane.resolve:
			d.mirror.Resolve(n.Port, n.Addr)
		}
	}
}

// reserveHostPorts keeps the ports of the host's own sockets out of the search
// (CVE-2021-3773: a mapping must not shadow a listening port).
func (d *Daemon) reserveHostPorts() {
	ports, err := d.mirror.HostPorts()
	if err != nil {
		if d.portsUnread != err.Error() { // once, and not every second
			d.portsUnread = err.Error()
			d.log.Warn("the host's ports could not be read; NAT may choose one that a local socket uses", "error", err)
		}
		return
	}
	d.portsUnread = ""
	d.shadows = nil
	for addr, x := range d.externals {
		at := ports.At(addr)
		d.shadows = append(d.shadows, d.shadowed(addr, packet.ProtoTCP, &at.TCP)...)
		d.shadows = append(d.shadows, d.shadowed(addr, packet.ProtoUDP, &at.UDP)...)
		x.Reserve(conntrack.ByHost, packet.ProtoTCP, &at.TCP)
		x.Reserve(conntrack.ByHost, packet.ProtoUDP, &at.UDP)
	}
}

// takeDown stops forwarding and gives everything back, but for the pinned
// steering program, which keeps answering as on-failure says until the next
// start or `sluice detach`.
func (d *Daemon) takeDown() error {
	d.open.Lock()
	d.closed = true
	d.open.Unlock()
	agentErr := d.dsrAgent.close(d.options.DetachOnExit)
	left, err := d.plane.close(d.options.DetachOnExit, d.config.OnFailure)
	err = errors.Join(err, agentErr)
	if d.backToCPUs != nil {
		err = errors.Join(err, d.backToCPUs())
	}
	if d.mirror != nil {
		d.mirror.Close()
	}
	if d.peers != nil {
		d.peers.Close()
	}
	if err != nil {
		return err
	}
	d.log.Info("stopped: " + left)
	return nil
}

// look lets f look at the data plane unless it is gone already.
func (d *Daemon) look(f func()) {
	d.open.RLock()
	defer d.open.RUnlock()
	if !d.closed {
		f()
	}
}
