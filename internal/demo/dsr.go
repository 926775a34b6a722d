package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// The services of the lab of Direct Server Return: one address, as in the capture
// that the sequence is known by, and a port for each backend and mode.
const (
	dsrVIP      = "172.18.0.2"
	dsrHostPort = 32000 // mode dsr, the backend node's own server
	dsrPodPort  = 32001 // mode dsr, the pod's
	snatPort    = 32002 // mode snat, the backend node's own
)

// dsrServices is what the gateway's configuration has besides masquerading.
var dsrServices = fmt.Sprintf(`services:
  - {name: node, address: %[1]s, port: %[2]d, protocols: [tcp, udp], mode: dsr, backends: [{address: %[5]s, port: %[7]d}]}
  - {name: pod, address: %[1]s, port: %[3]d, protocols: [tcp, udp], mode: dsr, backends: [{address: %[6]s, port: %[7]d}]}
  - {name: contrast, address: %[1]s, port: %[4]d, protocols: [tcp], mode: snat, backends: [{address: %[5]s, port: %[7]d}]}
`, dsrVIP, dsrHostPort, dsrPodPort, snatPort, lab.Client1Address, lab.PodAddress, portHTTP)

// dsrLab is a lab whose client1 is a backend node: the DSR agent runs there, beside
// a server of the node itself and one in a pod. The client is server1, outside.
type dsrLab struct {
	*running
	pod     *lab.Namespace
	agent   *process // nil: not running
	agentAt string   // the agent's control socket
	servers servers
}

// RunDSR shows Direct Server Return as Run shows masquerading: requests by way of
// the gateway, answers straight from the backend's node, captured at each place.
func RunDSR(ctx context.Context, o Options) (err error) {
	if err := o.defaults(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("demo: not done within %v", limit))
	defer cancel()

	began := time.Now()
	o.services = dsrServices
	r, err := start(ctx, o)
	if err != nil {
		return err
	}
	l := &dsrLab{running: r}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.startBackend(ctx); err != nil {
		return err
	}
	l.picture(o)
	t := newTable(o.Out)
	t.head()
	for _, c := range slices.Concat(l.checks(), l.ending()) {
		if ctx.Err() != nil {
			break
		}
		o, err := guarded(ctx, c.run)
		t.row(c, o, err)
	}
	return t.foot(ctx, time.Since(began))
}

func (l *dsrLab) picture(o Options) {
	fmt.Fprintf(o.Out, `
  client %s ── VIP %s on the gateway ── backend node %s ── pod %s
       │                                                            │
       └──────────── answers, from the VIP, straight ───────────────┘ %s

  network namespaces %s and so on; the gateway was ready in %s

`, lab.Server1Address, dsrVIP, lab.Client1Address, lab.PodAddress, lab.DirectAddress,
		l.top.Gateway.Name(), round(l.ready))
}

// startBackend makes client1 the backend node, and returns when agent and gateway
// are ready for requests.
func (l *dsrLab) startBackend(ctx context.Context) (err error) {
	if l.pod, err = l.top.DSRBackend(); err != nil {
		return err
	}
	for h, address := range map[host]string{{l.top.Client1}: lab.Client1Address, {l.pod}: lab.PodAddress} {
		if err := errors.Join(l.servers.who(h, at(address, portHTTP)), l.servers.whoUDP(h, at(address, portHTTP))); err != nil {
			return err
		}
	}
	l.agentAt = filepath.Join(l.dir, "agent.sock")
	config := filepath.Join(l.dir, "agent.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `dsr-agent:
  interfaces: [%s]
  trusted-gateways: [%s]
  services: ["%s"]
control: {socket: %s}
`, lab.HostNIC, lab.GatewayInside, dsrVIP, l.agentAt), 0o644); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if l.agent, err = startGateway(ctx, l.top.Client1, l.binary, config, filepath.Join(l.dir, "agent-notify.sock")); err != nil {
		return fmt.Errorf("the DSR agent: %w", err)
	}
	return l.awaitReady(ctx)
}

// awaitReady waits until the agent knows the gateway's MAC address, without which
// it trusts nobody, and every service has a backend.
func (l *dsrLab) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("demo: agent and services were not ready within %v", readyTimeout))
	defer cancel()
	agent, gateway := control.NewClient(l.agentAt), control.NewClient(l.socket)
	for {
		status, err := agent.Status(ctx)
		if err == nil && len(status.Degraded) == 0 {
			services, err := gateway.Services(ctx, "")
			if err == nil && len(services) > 0 && !slices.ContainsFunc(services, func(s control.Service) bool { return s.Selectable == 0 }) {
				return nil
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-l.agent.Done:
			return fmt.Errorf("demo: the DSR agent ended (%w):\n%s", l.agent.cause(), l.agent.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%w: %v, %+v", context.Cause(ctx), err, status.Degraded)
		}
	}
}

// ending is what the gateway says of it all, and the end of both daemons.
func (l *dsrLab) ending() []check {
	return []check{
		{"sluice services show: no replies", "", "", anyone, l.counted},
		{"sluice status of agent and gateway", "", "", anyone, l.well},
		{"SIGTERM ends the DSR agent", "", "", anyone, l.endAgent},
		{"SIGTERM ends the gateway", "", "", anyone, l.end},
		{"sluice detach", "", "", anyone, l.detached},
		{"no inside source left outside", "", "", anyone, l.invariant},
	}
}

// counted: of the services with mode dsr the gateway counted requests and no reply;
// of that with mode snat both.
func (l *dsrLab) counted(ctx context.Context) (o outcome, err error) {
	client := control.NewClient(l.socket)
	var requests, replies uint64
	for { // workers publish what they counted a moment later
		services, err := client.Services(ctx, "")
		if err != nil {
			return o, err
		}
		requests, replies = 0, 0
		waiting := false
		for _, s := range services {
			n := s.Traffic.Packets
			waiting = waiting || n.Original == 0
			if s.Mode == "dsr" {
				requests, replies = requests+n.Original, replies+n.Reply
			} else {
				waiting = waiting || n.Reply == 0
			}
		}
		if !waiting {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return o, fmt.Errorf("a service has counted nothing: %w", ctx.Err())
		}
	}
	o.detail = fmt.Sprintf("dsr: %d packets of requests, %d of replies", requests, replies)
	if replies != 0 {
		return o, errors.New(o.detail)
	}
	return o, nil
}

// well: neither daemon is degraded, and the agent has translated.
func (l *dsrLab) well(ctx context.Context) (o outcome, err error) {
	if o, err = l.status(ctx); err != nil {
		return o, err
	}
	s, err := control.NewClient(l.agentAt).Status(ctx)
	if err != nil {
		return o, err
	}
	for _, d := range s.Degraded {
		err = errors.Join(err, fmt.Errorf("the agent is degraded: %s", d.What))
	}
	if s.DSRAgent == nil {
		return o, errors.Join(err, errors.New("the agent says nothing of itself"))
	}
	var replies uint64
	for _, c := range s.DSRAgent.Counters {
		if c.Name == "reply" {
			replies = c.Packets
		}
	}
	o.detail = fmt.Sprintf("not degraded; the agent translated %d replies", replies)
	if replies == 0 {
		err = errors.Join(err, errors.New("the agent translated no reply"))
	}
	return o, err
}

// endAgent stops the agent, which must exit 0, and takes its programs away.
func (l *dsrLab) endAgent(context.Context) (o outcome, err error) {
	if l.agent == nil {
		return o, errors.New("it does not run")
	}
	err = l.agent.stop()
	l.agent = nil
	if out, e := l.top.Client1.Exec(l.binary, "detach"); e != nil {
		err = errors.Join(err, fmt.Errorf("sluice detach on the backend node: %w: %s", e, out))
	}
	o.detail = "exit status 0; its programs are taken away"
	return o, err
}

// close removes what is left.
func (l *dsrLab) close() error {
	var errs []error
	if l.agent != nil {
		_, err := l.endAgent(context.Background())
		errs = append(errs, err)
	}
	l.servers.close()
	if l.pod != nil {
		errs = append(errs, l.pod.Close())
	}
	return errors.Join(append(errs, l.running.close())...)
}
