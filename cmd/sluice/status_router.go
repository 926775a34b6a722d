package main

import (
	"io"

	"sluice/internal/control"
)

// writeRouter writes what the gateway sent as a router besides what it
// forwarded, where there was any.
func writeRouter(w io.Writer, r *control.Router) {
	rows := append([]control.Counter(nil), r.ICMPErrors...)
	for i := range rows {
		rows[i].Name = "ICMP " + rows[i].Name
	}
	rows = append(rows,
		control.Counter{Name: "ICMP errors beyond the limit, not sent", Packets: r.ICMPErrorsLimited},
		control.Counter{Name: "packets fragmented", Packets: r.FragmentedPackets},
		control.Counter{Name: "fragments", Packets: r.Fragments},
		control.Counter{Name: "fragments that followed the first one of their datagram", Packets: r.FragmentsFollowed},
		control.Counter{Name: "  of them, those that came before it and waited", Packets: r.FragmentsHeld},
		control.Counter{Name: "  and those that another worker had received", Packets: r.FragmentsHandedOver},
		control.Counter{Name: "TCP segments out of window, passed", Packets: r.TCPOutOfWindow},
		control.Counter{Name: "TCP SYNs with a lowered MSS", Packets: r.MSSClamped},
		control.Counter{Name: "unsolicited SYNs, answered after 6 s or never", Packets: r.SYNsHeld},
		control.Counter{Name: "answers to pings of addresses that the host does not hold", Packets: r.EchoReplies},
		control.Counter{Name: "service addresses announced, by ARP", Packets: r.Announcements},
		control.Counter{Name: "resets to clients of services whose connections cannot go on", Packets: r.ServiceResets},
		control.Counter{Name: "foreign DSR options taken from packets", Packets: r.OptionsStripped},
		control.Counter{Name: "errors that told the MTU of a path to a backend", Packets: r.PathMTUs},
		control.Counter{Name: "ARP of another station with an address of ours (address conflict)", Packets: r.AddressConflicts},
		control.Counter{Name: "unanswered flows ended to make room (early-drop)", Packets: r.EarlyDrops})
	for _, c := range r.ServiceFlows {
		rows = append(rows, control.Counter{Name: "flows to services began, return path " + c.Name, Packets: c.Packets})
	}
	t := newTable(w, right("PACKETS"), left("WHAT"))
	t.indent = "  "
	any := false
	for _, c := range rows {
		if c.Packets == 0 {
			continue
		}
		if !any {
			section(w, "Sent as a router")
		}
		any = true
		t.row(number(c.Packets), c.Name)
	}
	if any {
		flush(t)
	}
}
