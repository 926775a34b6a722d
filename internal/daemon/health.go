package daemon

import (
	"fmt"

	"sluice/internal/control"
)

// pressure is the share of a table or pool in use from which on status is
// degraded.
const pressure = 0.9

// staleSeconds is the age of a heartbeat at which the steering program stops
// trusting a worker.
const staleSeconds = 1.0

// degraded lists what is not as it should be, each with what to do about it; also
// what is about to run out (RFC 6888 REQ-11C).
func degraded(s *control.Status) (list []control.Degradation) {
	add := func(remedy, format string, args ...any) {
		list = append(list, control.Degradation{What: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	for _, w := range s.Workers {
		switch {
		case !w.Running:
			add("restart: `systemctl restart sluice`, and look for the cause in `journalctl -u sluice`", "worker %d is not running", w.ID)
		case w.HeartbeatAgeSeconds > staleSeconds:
			add("its CPU is taken by something else: see `top -H`, or choose others with cpus",
				"worker %d has not moved for %.1f s", w.ID, w.HeartbeatAgeSeconds)
		}
	}
	for _, i := range s.Interfaces {
		if !i.Up {
			add("`ip link set "+i.Name+" up`, or mend the cable", "interface %s is down or gone", i.Name)
		}
		for _, q := range i.Queues {
			if q.Mode == "generic" {
				add("use mode: auto, if the driver has native XDP", "interface %s queue %d is in generic mode: super-frames of a peer are dropped", i.Name, q.Queue)
			}
		}
	}
	full := func(what, remedy string, used, capacity int) {
		if capacity > 0 && float64(used) > pressure*float64(capacity) {
			add(remedy, "%s: %d of %d in use", what, used, capacity)
		}
	}
	full("flow table", "raise conntrack.max-flows", s.Flows.Used, s.Flows.Capacity)
	full("mapping table", "raise conntrack.max-flows", s.Mappings.Used, s.Mappings.Capacity)
	full("source table", "raise conntrack.max-flows", s.Sources.Used, s.Sources.Capacity)
	masquerading := false
	for _, a := range s.Masquerade.Addresses {
		remedy := "add addresses to masquerade.addresses, or widen masquerade.port-range"
		if a.Use == control.ForServices {
			remedy = "widen masquerade.port-range, or have services with mode snat answer directly (mode: dsr)"
		}
		full("TCP ports of "+a.Address.String(), remedy, a.InUse.TCP, a.Capacity)
		full("UDP ports of "+a.Address.String(), remedy, a.InUse.UDP, a.Capacity)
		if a.Use == control.ForMasquerading {
			full("ICMP identifiers of "+a.Address.String(), "add addresses to masquerade.addresses", a.InUse.ICMP, 1<<16)
			masquerading = true
		}
	}
	if s.Masquerade.Enabled && len(s.Masquerade.Sources) > 0 && !masquerading {
		add("give an outside interface an address (`ip address add`), or list some in masquerade.addresses",
			"there is no external address to masquerade to: new flows are dropped")
	}
	return append(list, refusedReload(s.Config.LastReload)...)
}
