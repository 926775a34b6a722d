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
	c := conntrack.Claim{Proto: proto, Inside: client, InsidePort: port, External: ext, Service: service}
	for attempt := range raceLimit {
		if m := w.FindServiceMapping(service, proto, client, port, ext); m != nil {
			return m, verdict.None
		}
		if !a.candidate(w, &c, attempt == 0, now) {
			break
		}
		m, existed, taken, r := w.Claim(&c, now)
		switch {
		case taken:
			a.counts.Races++
			continue
		case existed || r != verdict.None:
			return m, r
		case c.Port == port:
			a.counts.Kept++
		default:
			a.counts.Searched++
		}
		return m, verdict.None
	}
	a.counts.Exhausted++
	ext.Refuse(proto)
	return nil, verdict.PortsExhausted
}

// ForecastService is Forecast for MapService.
func (r PortRange) ForecastService(w *conntrack.Worker, b Behaviour, ext *conntrack.External, service uint16, proto uint8, client uint32, port uint16) Forecast {
	f := Forecast{External: ext}
	if m := w.FindServiceMapping(service, proto, client, port, ext); m != nil {
		_, f.Port = m.External()
		w.Release(m)
		return f
	}
	c := conntrack.Claim{Proto: proto, Inside: client, InsidePort: port, External: ext, Service: service}
	r.foretellPort(w, Behaviour{Random: b.Random}, &c, nil, 0, &f, w.Now())
	return f
}
