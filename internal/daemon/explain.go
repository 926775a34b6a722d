package daemon

import (
	"errors"

	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/explain"
	"sluice/internal/fib"
	"sluice/internal/gateway"
)

// Explain implements control.Gateway: by what the workers use now.
func (d *Daemon) Explain(q control.Question) (e control.Explanation, err error) {
	err = errors.New("the gateway is stopping")
	d.look(func() {
		now := d.inForce.Load()
		e, err = explain.Explain(&explain.Gateway{
			Config: now.config, Snapshot: now.snapshot, Table: d.plane.table,
			Now: tick(d.plane.threads[0].clock.Now()),
		}, q)
	})
	return e, err
}

// Config implements control.Gateway.
func (d *Daemon) Config() (control.ConfigText, error) {
	c := d.inForce.Load().config
	text, err := config.Show(c)
	return control.ConfigText{Path: c.Path, Text: text}, err
}

// ExplainFile explains a packet by a configuration alone.
func ExplainFile(c *config.Config, q control.Question) (control.Explanation, error) {
	if len(c.Interfaces) == 0 {
		return explainBackend(c, q, nil)
	}
	pol, err := policy(c)
	if err != nil {
		return control.Explanation{}, err
	}
	var roles [gateway.MaxPorts]gateway.Role
	for i := range c.Interfaces {
		roles[i] = role(c.Interfaces[i].Role)
	}
	g, err := explain.Assume(c, pol, roles)
	if err != nil {
		return control.Explanation{}, err
	}
	g.Snapshot.Other = otherProtocols(c.Masquerade.OtherProtocols)
	list, _ := forwards(c, func(fib.PortID) uint32 { return noAddress })
	if err := g.AssumeForwards(list); err != nil {
		return control.Explanation{}, err
	}
	services := newBalancer()
	if err := services.configure(c); err != nil {
		return control.Explanation{}, err
	}
	if err := g.AssumeServices(services.table, dispatch(c.DSR.Dispatch)); err != nil {
		return control.Explanation{}, err
	}
	return explain.Explain(g, q)
}
