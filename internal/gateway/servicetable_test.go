package gateway

import (
	"testing"

	"sluice/dsr"
	"sluice/internal/packet"
)

// into puts the service into a snapshot.
func (c *serviceSpec) into(t testing.TB, s *Snapshot) {
	t.Helper()
	var list []dsr.ServiceConfig
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		if c.removed {
			break
		}
		service := dsr.ServiceConfig{
			Name: "web", VIP: vip, Port: servedPort, Proto: proto, Mode: c.mode, Algorithm: c.algorithm, Affinity: c.affinity,
			Sources: c.sources, Reject: !c.drop, Reset: !c.drop,
		}
		for i, addr := range c.backends {
			service.Backends = append(service.Backends, dsr.BackendConfig{Address: addr, Port: backendPort, Weight: 1, Agent: !c.noAgent, State: c.state[i]})
		}
		other := service
		other.Name, other.VIP = "other", vip2
		list = append(list, service, other)
	}
	if c.ids == nil {
		c.ids, c.kept = dsr.NewIds(), dsr.NewAffinity(64, 1)
	}
	table, err := dsr.New(list, c.ids, s.Balance.Table, c.kept)
	if err != nil {
		t.Fatal(err)
	}
	s.Balance.Table, s.Balance.Backends, s.Balance.Dispatch = table, c.ids.Backends()+1, c.dispatch
}
