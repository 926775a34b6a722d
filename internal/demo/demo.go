package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"sluice/internal/lab"
)

// Options says what to run and where to tell of it.
type Options struct {
	Binary string    // the sluice program; "" means the one that is running
	Out    io.Writer // gets the table; nil means standard output
	Queues int       // of the gateway's NICs; 0 means 1
	Driver string    // of the gateway's sockets, as in its configuration; "" means its default

	services string // further lines of the gateway's configuration
}

func (o *Options) defaults() error {
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("demo: find the running program: %w", err)
		}
		o.Binary = exe
	}
	return nil
}

// driver is the line of the configuration that names the driver, if one is asked
// for.
func (o *Options) driver() string {
	if o.Driver == "" {
		return ""
	}
	return "driver: " + o.Driver + "\n"
}

// limit bounds the whole run. It takes some six seconds on two idle cores.
const limit = 2 * time.Minute

// Run builds the lab, runs the gateway on it with real traffic, prints what
// happened and removes everything. The error says how many checks failed, or
// what kept them from being made. SIGINT and SIGTERM end it early, in order.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.defaults(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("demo: not done within %v", limit))
	defer cancel()

	began := time.Now()
	l, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	picture(o.Out, l)
	s, err := newStory(l.top)
	if err != nil {
		return err
	}
	defer s.close()

	t := newTable(o.Out)
	t.head()
	c := &crash{l: l, s: s}
	defer c.close()
	s.tell(ctx, t, c.checks()...)
	l.audit(ctx, t)
	return t.foot(ctx, time.Since(began))
}

// maxFlows is the size of the flow table in the lab: room for its traffic many
// times over, in 10 MB.
const maxFlows = 65536

// running is a lab with the gateway at work on it.
type running struct {
	top     *lab.Topology
	binary  string
	gateway *process // nil: stopped
	steered bool     // the steering program is on the interfaces
	dir     string   // configuration and sockets of this run
	config  string
	socket  string
	ready   time.Duration // from the latest start to READY=1
}

// start builds the lab and starts the gateway; it returns when the gateway
// forwards packets.
func start(ctx context.Context, o Options) (*running, error) {
	if err := lab.Sweep(); err != nil {
		return nil, err
	}
	l := &running{}
	if err := l.start(ctx, o); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *running) start(ctx context.Context, o Options) (err error) {
	if l.top, err = lab.Up(lab.Options{InsideQueues: o.Queues, OutsideQueues: o.Queues}); err != nil {
		return err
	}
	memory, err := lab.Scratch()
	if err != nil {
		return err
	}
	// There, the next run finds it should this one be killed.
	if l.dir, err = os.MkdirTemp(memory, "lab-"); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	l.binary = o.Binary
	l.config = filepath.Join(l.dir, "sluice.yaml")
	l.socket = filepath.Join(l.dir, "control.sock")
	text := lab.PersistentConfig(l.socket, filepath.Join(memory, "flows")) + fmt.Sprintf("conntrack: {max-flows: %d}\n", maxFlows) + o.driver() + o.services
	if err := os.WriteFile(l.config, []byte(text), 0o644); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return l.startGateway(ctx)
}

// startGateway starts the gateway, for the first time or again.
func (l *running) startGateway(ctx context.Context) (err error) {
	began := time.Now()
	l.gateway, err = startGateway(ctx, l.top.Gateway, l.binary, l.config, filepath.Join(l.dir, "notify.sock"))
	if err != nil {
		return err
	}
	l.steered, l.ready = true, time.Since(began)
	return nil
}

// detach takes the steering program off the interfaces, where the gateway leaves
// it, and returns their names.
func (l *running) detach() (names []string, err error) {
	out, err := l.top.Gateway.Exec(l.binary, "detach", "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("sluice detach: %w: %s", err, out)
	}
	l.steered = false
	for d, err := range jsonLines[struct{ Interface string }](out) {
		if err != nil {
			return nil, fmt.Errorf("sluice detach: %w", err)
		}
		names = append(names, d.Interface)
	}
	return names, nil
}

// close stops the gateway, removes the lab and returns what went wrong, the
// checker's verdict included, unless audit has seen to any of it.
func (l *running) close() error {
	var errs []error
	if l.gateway != nil {
		errs = append(errs, l.gateway.stop())
	}
	if l.steered {
		_, err := l.detach()
		errs = append(errs, err)
	}
	if l.top != nil {
		errs = append(errs, l.top.Close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}
