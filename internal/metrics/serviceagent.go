package metrics

import "sluice/internal/control"

var (
	agentFlows      = gauge("dsr_agent_flows", "Flows that the DSR agent of this node serves, counted every few seconds.")
	agentFlowsLimit = gauge("dsr_agent_flows_limit", "Flows that the DSR agent has room for.")
	agentPackets    = counter("dsr_agent_packets_total", "Packets at the DSR agent by what became of them; the section on it in operations.md explains each word.", "event")
	agentPinned     = gauge("dsr_agent_pinned", "Whether the DSR agent's programs and flows outlive the daemon.")
)

func (s sink) agent(a *control.DSRAgent) {
	if a == nil {
		return
	}
	s.put(agentFlows, float64(a.Flows.Used))
	s.put(agentFlowsLimit, float64(a.Flows.Capacity))
	s.truth(agentPinned, a.Pinned)
	for _, c := range a.Counters {
		s.count(agentPackets, c.Packets, c.Name)
	}
}
