package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"time"

	"sluice/dsr"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/health"
)

// unansweredFor is how long status tells of flows that got no answer.
const unansweredFor = time.Minute

// unanswered is what is known of a backend's flows without an answer.
type unanswered struct {
	counted uint64 // all of them, since the start
	last    time.Time
}

// probes lists the targets that a configuration has probed.
func probes(c *config.Config) map[health.Target]health.Check {
	targets := map[health.Target]health.Check{}
	for i := range c.Services {
		s := &c.Services[i]
		h := &s.HealthCheck
		if h.Type == "none" {
			continue
		}
		check := health.Check{
			Interval: h.Interval.Std(), Timeout: h.Timeout.Std(), Rise: h.Rise, Fall: h.Fall, Path: h.Path, Host: h.Host, Status: h.Status,
		}
		if h.Type == "http" {
			check.Kind = health.HTTP
		}
		for _, b := range s.Backends {
			targets[health.Target{Service: s.Name, Address: netip.AddrPortFrom(b.Address, b.Port)}] = check
		}
	}
	return targets
}

// command is something that the control goroutine does for another, which waits.
type command struct {
	do   func()
	done chan struct{}
}

// command has the control goroutine call f, and returns when it has. The error is
// ctx's, or says that the gateway stops.
func (d *Daemon) command(ctx context.Context, f func()) error {
	c := command{f, make(chan struct{})}
	select {
	case d.commands <- c:
		<-c.done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// probeBackends begins to probe, until ctx is done. What the probes find is done by
// the control goroutine.
func (d *Daemon) probeBackends(ctx context.Context) {
	d.health = health.New(func(change health.Change) {
		_ = d.command(ctx, func() { d.backendChanged(change) }) // it stops: nobody needs to know
	})
	d.health.Set(probes(d.config))
}

// backendChanged follows a backend that went or came back.
func (d *Daemon) backendChanged(change health.Change) {
	// A reload may have come first, by which the backend is not probed any more.
	if r, probed := d.health.Report(change.Target); !probed || r.Healthy != change.Healthy {
		return
	}
	k := backendKey{change.Target.Service, change.Target.Address}
	state := d.balancer.states[k]
	state.dead = !change.Healthy
	level := slog.LevelInfo
	if state.dead {
		level = slog.LevelWarn
	}
	d.log.Log(context.Background(), level, "backend changed", "service", k.service, "backend", k.at, "healthy", change.Healthy, "reason", change.Reason)
	if err := d.setStates(map[backendKey]backendState{k: state}); err != nil {
		d.log.Error("a backend changed, and could not be followed", "error", err)
	}
}

// followProbes takes over what the probes say: a change of their configuration may
// have cut off a report.
func (d *Daemon) followProbes() {
	changes := map[backendKey]backendState{}
	for target := range probes(d.config) {
		k := backendKey{target.Service, target.Address}
		state := d.balancer.states[k]
		if r, probed := d.health.Report(target); probed && state.dead == r.Healthy {
			state.dead = !r.Healthy
			changes[k] = state
		}
	}
	if len(changes) == 0 {
		return
	}
	if err := d.setStates(changes); err != nil {
		d.log.Error("backends changed, and could not be followed", "error", err)
	}
}

// setStates changes what is known of backends and has the workers follow; after an
// error nothing has changed.
func (d *Daemon) setStates(changes map[backendKey]backendState) error {
	b := d.balancer
	before, table := maps.Clone(b.states), b.table
	maps.Copy(b.states, changes)
	if err := b.configure(d.config); err != nil {
		b.states, b.table = before, table
		return err
	}
	if err := d.publish(); err != nil {
		b.states, b.table = before, table
		return errors.Join(err, d.publish())
	}
	return nil
}

// SetDraining implements control.Gateway.
func (d *Daemon) SetDraining(ctx context.Context, service string, backend control.BackendAddress, drain bool) (change control.BackendChange, err error) {
	if stopped := d.command(ctx, func() { change, err = d.setDraining(service, backend, drain) }); stopped != nil {
		return change, stopped
	}
	return change, err
}

func (d *Daemon) setDraining(service string, backend control.BackendAddress, drain bool) (control.BackendChange, error) {
	out := control.BackendChange{Draining: drain}
	changes := map[backendKey]backendState{}
	for i := range d.config.Services {
		s := &d.config.Services[i]
		if service != "" && s.Name != service {
			continue
		}
		for _, b := range s.Backends {
			k := keyOf(s, b)
			if !backend.Is(k.at) {
				continue
			}
			state := d.balancer.states[k]
			changed := state.drained != drain
			state.drained = drain
			changes[k] = state
			out.Backends = append(out.Backends, control.ChangedBackend{Service: s.Name, Backend: k.at, Changed: changed, State: state.state().String()})
		}
	}
	switch {
	case len(out.Backends) > 0:
		if err := d.setStates(changes); err != nil {
			return out, err
		}
		if err := d.balancer.keep(); err != nil {
			return out, fmt.Errorf("it is done; but %w", err)
		}
		return out, nil
	case service == "":
		return out, fmt.Errorf("no service has a backend %s; `sluice services list` names them", backend)
	}
	return out, fmt.Errorf("service %q has no backend %s; `sluice services show %s` names them", service, backend, service)
}

// countUnanswered notes which backends' flows get no answer.
func (d *Daemon) countUnanswered(now time.Time) {
	for _, s := range d.balancer.table.All() {
		for _, b := range s.Backends {
			n := d.backendCounters(b.ID).Unanswered
			if n != d.balancer.silent[b.ID].counted {
				d.balancer.silent[b.ID] = unanswered{n, now}
			}
		}
	}
}

// serviceProblems is what status says of services that do not serve.
func (d *Daemon) serviceProblems(now time.Time) (list []control.Degradation) {
	for _, s := range d.balancer.table.All() {
		name := fmt.Sprintf("service %s (%s)", s.Name, control.Protocol(s.Proto))
		if s.Selectable() == 0 {
			list = append(list, control.Degradation{
				What:   name + " has no backend that takes new flows",
				Remedy: fmt.Sprintf("see which are dead or drained: `sluice services show %s`", s.Name),
			})
		}
		for _, b := range s.Backends {
			if quiet := d.balancer.silent[b.ID]; quiet.last.IsZero() || now.Sub(quiet.last) > unansweredFor {
				continue
			}
			list = append(list, control.Degradation{
				What: fmt.Sprintf("%s: clients of backend %s get no answer, though it gets their packets", name, b.Endpoint()),
				Remedy: "see with `tcpdump` there whether it answers, and where to: a firewall drops it, or the answer takes a way past this gateway, " +
					"as over a bridge without br_netfilter",
			})
		}
	}
	return list
}

// of is how a backend counts: without weight it gets nothing new, as one that is
// drained.
func (s backendState) of(b *dsr.Backend) string {
	if b.Weight == 0 && b.State == dsr.Active {
		return dsr.Draining.String()
	}
	return b.State.String()
}
