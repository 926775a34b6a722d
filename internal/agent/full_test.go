package agent

import (
	"net/netip"
	"testing"

	"sluice/internal/lab"
)

// TestFullTable: a table of 100,000 flows that is full refuses a new one by name, and
// none that is there loses its place: each still has the service's address.
func TestFullTable(t *testing.T) {
	lab.RequireRoot(t)
	const n = 100_000
	spec := programsSpec(t)
	spec.Maps[programsMapFlows].MaxEntries = n
	b := &bed{T: t, o: &programsObjects{}}
	if err := spec.LoadAndAssign(b.o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.o.Close() })
	if err := b.o.Settings.Put(uint32(0), stripOption|anyGateway|anyService); err != nil {
		t.Fatal(err)
	}
	b.delivered(next, question(t, toService))
	keys, values := make([]programsFlowKey, n-1), make([]programsFlow, n-1)
	vip := networkOrder32(netip.MustParseAddr(vipAddress))
	at := now()
	for i := range keys {
		from := netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
		keys[i] = keyOf(17, netip.AddrPortFrom(from, 4000), netip.AddrPortFrom(backend, 80))
		values[i] = programsFlow{Vip: vip, VipPort: 80, Created: at, Seen: at}
	}
	if _, err := b.o.Flows.BatchUpdate(keys, values, nil); err != nil {
		t.Fatal(err)
	}

	syn := segment(t, named, "S", toService) // another protocol: another flow
	for range 3 {
		b.delivered(shot, syn)
	}
	b.counts("table-full", 3)
	b.counts("learned", 1)
	b.leaves(vipAddress, response(t))
	b.delivered(next, question(t, toService))
	var f programsFlow
	for i := range keys {
		if err := b.o.Flows.Lookup(&keys[i], &f); err != nil {
			t.Fatalf("flow %d of %d: %v", i, n, err)
		}
	}
	if err := b.o.Flows.Delete(&keys[n/2]); err != nil {
		t.Fatal(err)
	}
	b.delivered(next, syn)
	b.leaves(vipAddress, answer(t, named+1, "SA"))
}
