package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/metrics"
	"sluice/xdp"
)

// backendNode is the daemon of a node that is a DSR agent and no gateway: no
// interfaces are listed, so there are no workers, mappings or routes. Its loop is
// the only one that changes the configuration.
type backendNode struct {
	options  Options
	started  time.Time
	dsr      dsrAgent
	reloads  chan reloadRequest
	metrics  *metrics.Listener
	watchdog watchdog
	clock    xdp.Clock

	inForce atomic.Pointer[config.Config]

	mu   sync.Mutex
	view control.ConfigStatus
}

// errNoGateway answers what only a gateway has.
var errNoGateway = errors.New("this node is a DSR agent and no gateway: its configuration lists no interfaces; ask the gateway")

func runBackend(ctx context.Context, o Options, began time.Time, c *config.Config, warnings []string, listener net.Listener) error {
	clock, err := xdp.NewClock()
	if err != nil {
		return err
	}
	n := &backendNode{options: o, started: began, dsr: dsrAgent{log: o.Logger}, clock: clock, reloads: make(chan reloadRequest)}
	n.inForce.Store(c)
	n.view = control.ConfigStatus{Path: o.ConfigPath, Loaded: began, Warnings: warnings}
	if err := n.dsr.configure(c); err != nil {
		return err
	}
	err = n.serve(ctx, listener)
	if err := errors.Join(err, n.dsr.close(o.DetachOnExit)); err != nil {
		return err
	}
	left := "the DSR agent's programs stay and serve its flows; `sluice detach` takes them away"
	if o.DetachOnExit {
		left = "the DSR agent's programs are taken away"
	}
	o.Logger.Info("stopped: " + left)
	return nil
}

func (n *backendNode) serve(ctx context.Context, listener net.Listener) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log := n.options.Logger
	server, listening, err := controlServer(n, n.options, n.inForce.Load())
	if err != nil {
		return err
	}
	n.metrics = listening
	defer n.metrics.Close()
	failed := make(chan error, 1)
	running.Go(func() { failed <- server.Serve(ctx, listener) })
	log.Info("answering clients for services", "interfaces", strings.Join(n.inForce.Load().DSRAgent.Interfaces, " "), "control", listener.Addr())
	if err := notify("READY=1\nSTATUS=answering clients for services"); err != nil {
		log.Warn(err.Error())
	}
	n.watchdog, _ = newWatchdog(os.Getenv)
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
		case r := <-n.reloads:
			r.done <- n.reload("control socket")
		case <-n.options.Reload:
			n.reload("SIGHUP")
		case <-tick.C:
			n.watchdog.feed(-1, notify)
		}
	}
}

// Reload implements control.Gateway.
func (n *backendNode) Reload(ctx context.Context) (control.ReloadResult, error) {
	return request(ctx, n.reloads)
}

func (n *backendNode) reload(by string) reloadAnswer {
	_ = notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", n.clock.Now()/1000))
	defer func() { _ = notify("READY=1") }()
	result, err := n.tryReload()
	n.mu.Lock()
	n.view.LastReload = tellReload(n.options.Logger, by, &result, err)
	if err == nil {
		n.view.Loaded, n.view.Warnings = result.Loaded, result.Warnings
	}
	n.mu.Unlock()
	return reloadAnswer{result, err}
}

func (n *backendNode) tryReload() (control.ReloadResult, error) {
	path, old := n.options.ConfigPath, n.inForce.Load()
	c, warnings, err := load(path)
	if err != nil {
		return control.ReloadResult{}, err
	}
	if err := restartKeys(path, old, c); err != nil {
		return control.ReloadResult{}, err
	}
	back, err := n.metrics.Move(c.Control.Metrics)
	if err != nil {
		return control.ReloadResult{}, fmt.Errorf("%s: %w; nothing was changed", path, err)
	}
	if err := n.dsr.configure(c); err != nil {
		back()
		return control.ReloadResult{}, err
	}
	n.inForce.Store(c)
	return control.ReloadResult{Path: path, Loaded: time.Now(), Changed: len(config.Diff(old, c)) > 0, Warnings: warnings}, nil
}

// Status implements control.Gateway.
func (n *backendNode) Status() control.Status { return n.Measure() }

// Measure implements metrics.Source.
func (n *backendNode) Measure() (s control.Status) {
	n.mu.Lock()
	view := n.view
	n.mu.Unlock()
	c := n.inForce.Load()
	s = control.Status{
		Version: n.options.Version, PID: os.Getpid(), Started: n.started, UptimeSeconds: time.Since(n.started).Seconds(),
		Config: view, Timeouts: timeoutStatus(&c.Conntrack.Timeouts), Process: processStatus(),
	}
	s.Degraded = refusedReload(view.LastReload)
	n.dsr.status(&s)
	if s.DSRAgent != nil {
		s.Flows.Usage = s.DSRAgent.Flows
	}
	return s
}

// Flows implements control.Gateway.
func (n *backendNode) Flows(ctx context.Context, filter control.Filter, yield func(control.Flow) error) (err error) {
	failed := n.dsr.flows(func(f *control.Flow) bool {
		if err = ctx.Err(); err == nil && filter.Match(f) {
			err = yield(*f)
		}
		return err == nil
	})
	return errors.Join(err, failed)
}

// CountFlows implements control.Gateway.
func (n *backendNode) CountFlows(ctx context.Context, filter control.Filter) (control.FlowCount, error) {
	out := control.FlowCount{Capacity: n.inForce.Load().Conntrack.MaxFlows}
	err := n.Flows(ctx, filter, func(control.Flow) error { out.Count++; return nil })
	return out, err
}

// FlushFlows implements control.Gateway.
func (n *backendNode) FlushFlows(_ context.Context, filter control.Filter) (control.Flush, error) {
	flushed, err := n.dsr.flush(filter)
	return control.Flush{Flushed: flushed}, err
}

// Drops implements control.Gateway.
func (n *backendNode) Drops() control.Drops {
	return control.Drops{At: time.Now(), Reasons: n.dsr.drops()}
}

// Config implements control.Gateway.
func (n *backendNode) Config() (control.ConfigText, error) {
	c := n.inForce.Load()
	text, err := config.Show(c)
	return control.ConfigText{Path: c.Path, Text: text}, err
}

// Explain implements control.Gateway.
func (n *backendNode) Explain(q control.Question) (control.Explanation, error) {
	return explainBackend(n.inForce.Load(), q, &n.dsr)
}

// The rest of control.Gateway is a gateway's alone.

func (n *backendNode) WatchFlows(context.Context, control.Filter, func() error, func(*control.FlowEvent) error) error {
	return errNoGateway
}

func (n *backendNode) Trace(context.Context, control.TraceQuestion, func() error, func(*control.Traced) error) error {
	return errNoGateway
}

func (n *backendNode) Capture(context.Context, control.CaptureQuestion, func() error, io.Writer) error {
	return errNoGateway
}

func (n *backendNode) Pools(context.Context, int) (control.Pools, error) {
	return control.Pools{}, errNoGateway
}

func (n *backendNode) Mappings(context.Context, control.MappingFilter, func(control.Mapping) error) error {
	return errNoGateway
}

func (n *backendNode) Who(control.Endpoint) (control.Holders, error) {
	return control.Holders{}, errNoGateway
}

func (n *backendNode) Services() []control.Service { return nil }

// MeasureServices implements metrics.Source.
func (n *backendNode) MeasureServices() []control.Service { return nil }

func (n *backendNode) SetDraining(context.Context, string, control.BackendAddress, bool) (control.BackendChange, error) {
	return control.BackendChange{}, errNoGateway
}
