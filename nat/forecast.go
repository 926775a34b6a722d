package nat

import (
	"sluice/conntrack"
	"sluice/internal/verdict"
)

// PortOrigin says how an external port is come by.
type PortOrigin uint8

// The origins.
const (
	PortMapped   PortOrigin = iota // the inside endpoint has a mapping already
	PortKept                       // the inside port is free and is kept
	PortSearched                   // it is not; a free one is taken at random
)

// Forecast is what MapFrom or Map would return for an endpoint, as far as it can
// be known without doing it.
type Forecast struct {
	External *conntrack.External // nil where there is none
	Origin   PortOrigin
	Port     uint16         // 0 where Origin is PortSearched
	Reason   verdict.Reason // why there will be no mapping, or None
}

// Forecast says what the mapping of an inside endpoint will be: at ext, or where
// that is nil, at the address of the pool. It makes none.
func (r PortRange) Forecast(w *conntrack.Worker, pool *Pool, ext *conntrack.External, proto uint8, inside uint32, port uint16) Forecast {
	if ext == nil {
		ext = pool.now(w, inside)
	}
	if ext == nil {
		return Forecast{Reason: verdict.NoExternalAddress}
	}
	if m := w.FindMapping(proto, inside, port, ext); m != nil {
		f := Forecast{External: ext}
		_, f.Port = m.External()
		w.Release(m)
		return f
	}
	return r.forecastNew(ext, proto, port)
}

// forecastNew is about an endpoint that has no mapping at ext.
func (r PortRange) forecastNew(ext *conntrack.External, proto uint8, port uint16) Forecast {
	f := Forecast{External: ext}
	if r.keeps(ext, proto, port) {
		f.Origin, f.Port = PortKept, port
		return f
	}
	f.Origin = PortSearched
	own, rest := r.classes(proto, port)
	if _, ok := ext.NextFree(proto, own.Low, own.Low, own.High); ok {
		return f
	}
	if _, ok := ext.NextFree(proto, rest.Low, rest.Low, rest.High); !ok {
		f.Reason = verdict.PortsExhausted
	}
	return f
}

// keeps reports whether a new mapping of the inside port gets the same port.
func (r PortRange) keeps(ext *conntrack.External, proto uint8, inside uint16) bool {
	own, _ := r.classes(proto, inside)
	if !own.contains(inside) {
		return false
	}
	_, free := ext.NextFree(proto, inside, inside, inside)
	return free
}

// now is the address for the next mapping of an inside address, nil where the
// pool is empty or nil.
func (p *Pool) now(w *conntrack.Worker, inside uint32) *conntrack.External {
	if p == nil {
		return nil
	}
	source := w.FindSource(inside)
	if source == nil {
		return p.External(inside)
	}
	defer w.ReleaseSource(source)
	return p.paired(source)
}
