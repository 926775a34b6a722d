package daemon

import (
	"slices"
	"testing"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// shown: status sums the services up, and the address that backends see is listed
// with the ports that its flows hold.
func (l *serviceLab) shown(t *testing.T) {
	t.Helper()
	s, err := l.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := control.ServiceUsage{Count: 1, Modes: []string{l.mode}, Algorithms: []string{"maglev"}, Backends: 2, Selectable: 2}
	if l.mode == "dsr" {
		want.Dispatch = "option"
	}
	if got := s.Services; got.Count != want.Count || !slices.Equal(got.Modes, want.Modes) || !slices.Equal(got.Algorithms, want.Algorithms) ||
		got.Dispatch != want.Dispatch || got.Backends != want.Backends || got.Selectable != want.Selectable {
		t.Errorf("services %+v, want %+v", got, want)
	}
	uses := map[string]control.ExternalAddress{}
	for _, a := range s.Masquerade.Addresses {
		uses[a.Address.String()] = a
	}
	a := uses[lab.GatewayInside]
	if a.Use != control.ForServices || a.Interface != "inside" || a.InUse.TCP == 0 || a.InUse.UDP == 0 || a.Capacity == 0 {
		t.Errorf("the address that backends see: %+v", a)
	}
	if a := uses[lab.GatewayOutside]; a.Use != control.ForMasquerading {
		t.Errorf("the outside address: %+v", a)
	}
	var last control.Mapping
	if err := l.client.Mappings(t.Context(), control.MappingFilter{}, func(m *control.Mapping) error {
		if m.External.Addr().String() == lab.GatewayInside {
			last = *m
		}
		if m.Draining {
			t.Errorf("its address is in use, and it is shown as draining: %+v", *m)
		}
		return nil
	}); err != nil || last.Flows == 0 {
		t.Fatalf("mappings: %+v, %v", last, err)
	}
	held, err := l.client.Who(t.Context(), control.Endpoint{Proto: last.Protocol, Address: last.External})
	if err != nil || len(held.Holders) != 1 || held.Holders[0].Inside != last.Inside {
		t.Errorf("who holds %v: %+v, %v", last.External, held, err)
	}
}
