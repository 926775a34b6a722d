package metrics

import "sluice/internal/control"

var (
	serviceBackends    = gauge("service_backends", "Backends of a service by state: active, draining, dead.", "service", "protocol", "state")
	serviceSelectable  = gauge("service_selectable_backends", "Backends of a service that get new flows.", "service", "protocol")
	backendUp          = gauge("backend_up", "Whether the backend gets new flows or keeps those that it has: 0 is dead.", "service", "protocol", "backend")
	backendProbes      = counter("backend_probes_total", "Probes of a backend, by result: answered, failed.", "service", "protocol", "backend", "result")
	backendFlows       = counter("backend_flows_total", "Flows that began on the backend.", "service", "protocol", "backend")
	backendConnections = counter("backend_connections_total", "Of those, the ones that a SYN began.", "service", "protocol", "backend")
	backendPackets     = counter("backend_packets_total", "Packets of the backend's flows: original (from clients) and reply, which with Direct Server Return does not pass here.", "service", "protocol", "backend", "direction")
	backendBytes       = counter("backend_bytes_total", "Bytes of those packets (IPv4 lengths).", "service", "protocol", "backend", "direction")
	backendUnanswered  = counter("backend_unanswered_flows_total", "Flows through the gateway whose clients got no answer.", "service", "protocol", "backend")
)

func (s sink) services(list []control.Service) {
	for i := range list {
		x := &list[i]
		states := map[string]int{"active": 0, "draining": 0, "dead": 0}
		for j := range x.Backends {
			states[x.Backends[j].State]++
			s.backend(x, &x.Backends[j])
		}
		for state, n := range states {
			s.put(serviceBackends, float64(n), x.Name, x.Protocol, state)
		}
		s.put(serviceSelectable, float64(x.Selectable), x.Name, x.Protocol)
	}
}

func (s sink) backend(x *control.Service, b *control.Backend) {
	at := []string{x.Name, x.Protocol, b.Address.String()}
	with := func(more string) []string { return []string{at[0], at[1], at[2], more} }
	s.truth(backendUp, b.State != "dead", at...)
	if h := b.Health; h != nil {
		s.count(backendProbes, h.Probes-h.Failed, with("answered")...)
		s.count(backendProbes, h.Failed, with("failed")...)
	}
	t := &b.Traffic
	s.count(backendFlows, t.Flows, at...)
	s.count(backendConnections, t.Connections, at...)
	s.count(backendPackets, t.Packets.Original, with("original")...)
	s.count(backendPackets, t.Packets.Reply, with("reply")...)
	s.count(backendBytes, t.Bytes.Original, with("original")...)
	s.count(backendBytes, t.Bytes.Reply, with("reply")...)
	s.count(backendUnanswered, t.Unanswered, at...)
}
