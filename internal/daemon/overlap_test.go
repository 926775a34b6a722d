package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"sluice/internal/config"
	"sluice/internal/fib"
)

// TestNetworkOverlaps: RFC 4787 REQ-7. Networks that are inside and outside at once are
// told; networks of one side, and those of one-armed interfaces, are nobody's conflict.
func TestNetworkOverlaps(t *testing.T) {
	iface := func(name string, addresses ...string) fib.Interface {
		f := fib.Interface{Name: name}
		for _, a := range addresses {
			f.Addresses = append(f.Addresses, netip.MustParsePrefix(a))
		}
		return f
	}
	const in, out, both = config.RoleInside, config.RoleOutside, config.RoleBoth
	for _, tt := range []struct {
		name       string
		interfaces []fib.Interface
		roles      []config.Role
		want       []string
	}{
		{"apart", []fib.Interface{iface("eth1", "10.0.0.1/24"), iface("eth0", "192.0.2.1/24")}, []config.Role{in, out}, nil},
		{"the same network", []fib.Interface{iface("eth1", "192.168.1.1/24"), iface("eth0", "192.168.1.77/24")}, []config.Role{in, out},
			[]string{"192.168.1.0/24, the network of the inside interface eth1, overlaps 192.168.1.0/24, that of the outside interface eth0"}},
		{"one in the other", []fib.Interface{iface("eth0", "203.0.113.9/24", "10.1.2.3/8"), iface("eth1", "10.7.0.1/16", "172.16.0.1/24")}, []config.Role{out, in},
			[]string{"10.7.0.0/16, the network of the inside interface eth1, overlaps 10.0.0.0/8"}},
		{"both inside", []fib.Interface{iface("eth1", "10.0.0.1/24"), iface("eth2", "10.0.0.2/24")}, []config.Role{in, in}, nil},
		{"one-armed", []fib.Interface{iface("eth1", "10.0.0.1/24", "10.0.0.2/24")}, []config.Role{both}, nil},
		{"without addresses", []fib.Interface{iface("eth1"), iface("eth0")}, []config.Role{in, out}, nil},
	} {
		got := networkOverlaps(tt.interfaces, tt.roles)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %v", tt.name, got)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i].What, tt.want[i]) || got[i].Remedy == "" {
				t.Errorf("%s: %+v", tt.name, got[i])
			}
		}
	}
}
