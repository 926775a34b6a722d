package nat

import (
	"sluice/conntrack"
	"sluice/internal/verdict"
)

// MapService is Map for a client of a service: the mapping by which its packets
// reach the backends from ext. It is the service's alone (see
// conntrack.Worker.FindServiceMapping), but its port is claimed where those of
// masqueraded endpoints are, so that the two never meet.
func (a *Allocator) MapService(w *conntrack.Worker, ext *conntrack.External, service uint16, proto uint8, client uint32, port uint16, now conntrack.Tick) (*conntrack.Mapping, verdict.Reason) {
	for attempt := range raceLimit {
		if m := w.FindServiceMapping(service, proto, client, port, ext); m != nil {
			return m, verdict.None
		}
		candidate, ok := a.candidate(ext, proto, port, attempt == 0)
		if !ok {
			break
		}
		m, existed, taken, r := w.NewServiceMapping(service, proto, client, port, ext, candidate, now)
		switch {
		case taken:
			a.counts.Races++
			continue
		case existed || r != verdict.None:
			return m, r
		case candidate == port:
			a.counts.Kept++
		default:
			a.counts.Searched++
		}
		return m, verdict.None
	}
	a.counts.Exhausted++
	return nil, verdict.PortsExhausted
}

// ForecastService is Forecast for MapService.
func (r PortRange) ForecastService(w *conntrack.Worker, ext *conntrack.External, service uint16, proto uint8, client uint32, port uint16) Forecast {
	if m := w.FindServiceMapping(service, proto, client, port, ext); m != nil {
		f := Forecast{External: ext}
		_, f.Port = m.External()
		w.Release(m)
		return f
	}
	return r.forecastNew(ext, proto, port)
}
