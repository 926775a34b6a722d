package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice/internal/config"
	"sluice/internal/control"
)

// reloadRequest asks the control goroutine to read the configuration again.
type reloadRequest struct {
	done chan reloadAnswer
}

type reloadAnswer struct {
	result control.ReloadResult
	err    error
}

// Reload implements control.Gateway: it returns when every worker uses the new
// configuration, or with the reason why nothing changed.
func (d *Daemon) Reload(ctx context.Context) (control.ReloadResult, error) {
	return request(ctx, d.reloads)
}

// request has a loop reload, and waits for its answer.
func request(ctx context.Context, reloads chan<- reloadRequest) (control.ReloadResult, error) {
	r := reloadRequest{done: make(chan reloadAnswer, 1)}
	select {
	case reloads <- r:
	case <-ctx.Done():
		return control.ReloadResult{}, ctx.Err()
	}
	a := <-r.done
	return a.result, a.err
}

// reload reads the file again, and keeps how it went for status.
func (d *Daemon) reload(by string) reloadAnswer {
	// The time lets Type=notify-reload tell this reload's READY=1 from an older one.
	_ = notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", d.plane.threads[0].clock.Now()/1000))
	defer func() { _ = notify("READY=1") }()
	result, err := d.tryReload()
	d.view.lastReload = tellReload(d.log, by, &result, err)
	return reloadAnswer{result, err}
}

// tellReload logs how a reload ended, and words it for status.
func tellReload(log *slog.Logger, by string, result *control.ReloadResult, err error) *control.LastReload {
	if err != nil {
		log.Error("reload refused, nothing changed", "by", by, "error", err)
		return &control.LastReload{At: time.Now(), Error: err.Error()}
	}
	log.Info("reloaded", "by", by, "file", result.Path, "changed", result.Changed)
	if result.Changed { // else they were logged when it came into force
		for _, w := range result.Warnings {
			log.Warn(w)
		}
	}
	return &control.LastReload{At: time.Now()}
}

// refusedReload is what status says of a reload that was refused.
func refusedReload(r *control.LastReload) []control.Degradation {
	if r == nil || r.Error == "" {
		return nil
	}
	return []control.Degradation{{What: "the last reload was refused: " + r.Error, Remedy: "correct the file and reload again: `sluice reload`"}}
}

// restartKeys refuses a file that changes what a running daemon cannot.
func restartKeys(path string, old, new *config.Config) error {
	keys := needRestart(old, new)
	if len(keys) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s cannot change while running: `systemctl restart sluice`; nothing was changed", path, strings.Join(keys, ", "))
}

// tryReload changes nothing until all that can be refused was not.
func (d *Daemon) tryReload() (control.ReloadResult, error) {
	path := d.options.ConfigPath
	c, warnings, err := load(path)
	if err != nil {
		return control.ReloadResult{}, err
	}
	if err := restartKeys(path, d.config, c); err != nil {
		return control.ReloadResult{}, err
	}
	pol, err := policy(c)
	if err != nil {
		return control.ReloadResult{}, err
	}
	old, oldPolicy, oldTable := d.config, d.policy, d.balancer.table
	states := maps.Clone(d.balancer.states)
	d.balancer.forget(c)
	d.collectIds()
	if err := d.balancer.configure(c); err != nil {
		d.balancer.states = states
		return control.ReloadResult{}, err
	}
	back, err := d.metrics.Move(c.Control.Metrics)
	if err != nil {
		d.balancer.table, d.balancer.states = oldTable, states
		return control.ReloadResult{}, fmt.Errorf("%s: %w; nothing was changed", path, err)
	}
	if err := d.dsrAgent.configure(c); err != nil {
		back()
		d.balancer.table = oldTable
		return control.ReloadResult{}, errors.Join(err, d.dsrAgent.configure(old))
	}
	d.config, d.policy = c, pol
	if err := d.publish(); err != nil {
		back()
		err = errors.Join(err, d.dsrAgent.configure(old))
		d.config, d.policy, d.balancer.table, d.balancer.states = old, oldPolicy, oldTable, states
		return control.ReloadResult{}, errors.Join(err, d.publish())
	}
	d.health.Set(probes(c))
	d.followProbes()
	if err := d.balancer.keep(); err != nil {
		d.log.Warn(err.Error())
	}
	d.view.warnings, d.view.loaded = warnings, time.Now()
	return control.ReloadResult{
		Path: path, Loaded: d.view.loaded, Changed: len(config.Diff(old, c)) > 0, Warnings: warnings,
	}, nil
}

// needRestart names the keys that differ and that a running gateway cannot
// change.
func needRestart(old, new *config.Config) (keys []string) {
	for _, c := range config.Diff(old, new) {
		if c.Restart && !slices.Contains(keys, c.Key) {
			keys = append(keys, c.Key)
		}
	}
	return keys
}
