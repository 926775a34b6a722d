package daemon

import (
	"slices"

	"sluice/internal/config"
	"sluice/internal/control"
)

// agentFile is the ip-masq-agent file as the control goroutine follows it.
type agentFile struct {
	file    config.IPMasqFile
	problem string // why what it says now is not in force; "" where it is
}

// followAgent reads the ip-masq-agent file, and puts what changed into force. A
// file that is broken changes nothing: what it said before stays, as with the
// agent itself. A file that is gone stands for the built-in list.
func (d *Daemon) followAgent() {
	path := d.config.Masquerade.IPMasqAgentConfig
	if path == "" {
		d.agent = agentFile{}
		return
	}
	m, changed, err := d.agent.file.Load(path)
	switch {
	case !changed:
		return
	case err != nil:
		d.agent.problem = err.Error()
		d.log.Warn("the ip-masq-agent file cannot be read; what it said before stays in force", "error", err)
		return
	}
	d.agent.problem = ""
	next := compile(d.config, &m)
	if slices.Equal(next.IPMasq(), d.policy.IPMasq()) {
		return // in force since the start or a reload, or worded otherwise
	}
	old := d.policy
	d.policy = next
	if err := d.publish(); err != nil {
		d.policy = old
		d.agent.problem = err.Error()
		d.log.Error("the ip-masq-agent file changed, and could not be followed", "error", err)
		return
	}
	d.log.Info("the ip-masq-agent file changed", "file", path, "prefixes", len(next.IPMasq()))
}

// agentProblem is what status says of a file that is not in force.
func (d *Daemon) agentProblem() []control.Degradation {
	if d.agent.problem == "" {
		return nil
	}
	return []control.Degradation{{
		What: "the ip-masq-agent file is not followed, what it said before is in force: " + d.agent.problem, Remedy: "correct the file; it is read every second",
	}}
}
