package daemon

import (
	"sluice/internal/control"
	"sluice/internal/gateway"
)

// routerStatus adds up what the workers sent as a router.
func (d *Daemon) routerStatus(s *control.Status) {
	var kinds [gateway.ErrorKinds]uint64
	var returns [gateway.ReturnPaths]uint64
	r := &s.Router
	for _, t := range d.plane.threads {
		c := t.worker.Counters()
		for k, n := range c.Errors {
			kinds[k] += n
		}
		r.ICMPErrorsLimited += c.ErrorsLimited
		r.FragmentedPackets += c.Fragmented
		r.Fragments += c.Fragments
		r.FragmentsFollowed += c.FragmentsFollowed
		r.FragmentsHeld += c.FragmentsHeld
		r.FragmentsHandedOver += c.FragmentsHandedOver
		r.TCPOutOfWindow += c.OutOfWindow
		r.MSSClamped += c.Clamped
		r.EarlyDrops += c.EarlyDrops
		r.SYNsHeld += c.SYNsHeld
		r.EchoReplies += c.EchoReplies
		r.ServiceResets += c.Services.Resets
		r.Announcements += c.Services.Announcements
		r.OptionsStripped += c.Services.OptionsStripped
		r.PathMTUs += c.Services.PathMTUs
		for way, n := range c.Services.Returns {
			returns[way] += n
		}
	}
	r.AddressConflicts = d.conflicts.counted.Load()
	for k := gateway.NoError + 1; k < gateway.ErrorKinds; k++ {
		r.ICMPErrors = append(r.ICMPErrors, control.Counter{Name: k.String(), Packets: kinds[k]})
	}
	for way := gateway.ReturnNone + 1; way < gateway.ReturnPaths; way++ {
		r.ServiceFlows = append(r.ServiceFlows, control.Counter{Name: way.String(), Packets: returns[way]})
	}
}
