package config

// checkBehaviour holds the keys about mapping and filtering to what can be done.
func (d *decoder) checkBehaviour(c *Config) {
	m := &c.Masquerade
	const limit, overload = "masquerade.max-flows-per-source", "masquerade.overload-when-exhausted"
	if n := m.MaxFlowsPerSource; n > 0 && c.Conntrack.MaxFlows > 0 && n >= c.Conntrack.MaxFlows && !d.failed(limit) {
		d.warn(d.line(limit), limit, "%d is no limit: the flow table has room for %d (conntrack.max-flows)", n, c.Conntrack.MaxFlows)
	}
	if !m.Overload || d.failed(overload) {
		return
	}
	if m.Filtering == EndpointIndependent {
		d.warn(d.line(overload), overload, "with filtering endpoint-independent, strangers that call a port which several endpoints share reach the one that had it first")
	}
}
