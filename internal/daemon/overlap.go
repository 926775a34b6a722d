package daemon

import (
	"fmt"
	"net/netip"

	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/fib"
)

// networkOverlaps says which networks are inside and outside at once: an address of
// such a one has two hosts, and the routes lead to one of them. It happens where the
// outside address is leased, and a provider's network has the numbers of the one
// inside (RFC 4787 REQ-7). Sluice hands out no addresses and has one world of routes: it
// can but say so.
func networkOverlaps(interfaces []fib.Interface, roles []config.Role) (list []control.Degradation) {
	for i := range interfaces {
		for j := range interfaces {
			if roles[i] != config.RoleInside || roles[j] != config.RoleOutside {
				continue
			}
			for _, in := range interfaces[i].Addresses {
				for _, out := range interfaces[j].Addresses {
					if in.Overlaps(out) {
						list = append(list, overlap(interfaces[i].Name, interfaces[j].Name, in.Masked(), out.Masked()))
					}
				}
			}
		}
	}
	return list
}

func overlap(inside, outside string, in, out netip.Prefix) control.Degradation {
	return control.Degradation{
		What:   fmt.Sprintf("%s, the network of the inside interface %s, overlaps %s, that of the outside interface %s: of two hosts with one address the routes reach one", in, inside, out, outside),
		Remedy: "give one of the networks other addresses",
	}
}
