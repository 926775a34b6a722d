package dsr

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
)

// TestIdsStayFew: however many reloads with other names and addresses there are,
// numbers are as few as what they stand for, with some to spare; and one that a flow
// has is not given to anything else.
func TestIdsStayFew(t *testing.T) {
	const reloads, each = 10000, 3
	ids, memory := NewIds(), NewAffinity(1<<8, 7)
	var table *Table
	held, heldService := BackendID(0), ServiceID(0)
	for n := range reloads {
		services, backends := map[ServiceID]bool{heldService: true}, map[BackendID]bool{held: true}
		if ids.Crowded(table) {
			ids.Collect(table, services, backends, memory)
		}
		c := ServiceConfig{Name: fmt.Sprint("s", n), VIP: vip, Port: 80, Proto: packet.ProtoTCP, Algorithm: Random}
		for b := range uint32(each) {
			c.Backends = append(c.Backends, BackendConfig{Address: uint32(n)*each + b + 1, Port: 80, Weight: 1})
		}
		next, err := New([]ServiceConfig{c}, ids, table, memory)
		if err != nil {
			t.Fatalf("reload %d: %v", n, err)
		}
		table = next
		s := table.Services[0]
		if n == 10 {
			heldService, held = s.ID, s.Backends[1].ID // a flow begins, and lasts
		} else if n > 10 {
			for _, b := range s.Backends {
				if b.ID == held || s.ID == heldService {
					t.Fatalf("reload %d: the flow's numbers were given away", n)
				}
			}
		}
	}
	if most := 2*each + collectAt + 2*each; ids.Backends() > most || int(ids.topService) > most {
		t.Errorf("%d numbers of backends and %d of services after %d reloads, want at most %d", ids.Backends(), ids.topService, reloads, most)
	}
	if len(table.backends) > ids.Backends()+1 || len(table.byID) > int(ids.topService)+1 {
		t.Errorf("the table has room for %d backends and %d services", len(table.backends), len(table.byID))
	}
}

// TestIdsAgainstModel: two that are there, or that a flow has, never share a
// number, and who stays keeps its own.
func TestIdsAgainstModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		ids := NewIds()
		var table *Table
		flows := map[BackendID]string{} // what each has been sent to
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			services, backends := map[ServiceID]bool{}, map[BackendID]bool{}
			for id, what := range flows {
				backends[id] = true
				var service ServiceID
				fmt.Sscanf(what, "%d", &service)
				services[service] = true
			}
			if rapid.Bool().Draw(r, "collect") {
				for _, id := range ids.Collect(table, services, backends, nil) {
					if flows[id] != "" || table.Backend(id) != nil {
						r.Fatalf("backend %d was taken back, and is in use", id)
					}
				}
			}
			var list []ServiceConfig
			for s := range 4 {
				if !rapid.Bool().Draw(r, fmt.Sprint("service ", s)) {
					continue
				}
				c := ServiceConfig{Name: fmt.Sprint(s), VIP: vip, Port: uint16(80 + s), Proto: packet.ProtoTCP, Algorithm: Random}
				for b := range uint32(3) {
					if rapid.Bool().Draw(r, fmt.Sprint("backend ", b)) {
						c.Backends = append(c.Backends, BackendConfig{Address: 10 + b, Port: 80, Weight: 1})
					}
				}
				list = append(list, c)
			}
			next, err := New(list, ids, table, nil)
			if err != nil {
				r.Fatal(err)
			}
			seen := map[BackendID]bool{}
			for _, s := range next.Services {
				if old := table.Service(s.ID); old != nil && old.Name != s.Name {
					r.Fatalf("service %s has the number of %s, whose flows may have just begun", s.Name, old.Name)
				}
				for _, b := range s.Backends {
					what := fmt.Sprintf("%d %s %d", s.ID, s.Name, b.Address)
					if was := flows[b.ID]; was != "" && was != what || seen[b.ID] {
						r.Fatalf("backend %d is %s, and flows say %q", b.ID, what, was)
					}
					if seen[b.ID] = true; rapid.IntRange(0, 3).Draw(r, "flow") == 0 {
						flows[b.ID] = what
					}
				}
			}
			table = next
			for id := range flows {
				if rapid.IntRange(0, 4).Draw(r, "ends") == 0 {
					delete(flows, id)
				}
			}
		}
	})
}
