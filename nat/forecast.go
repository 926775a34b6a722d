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
	PortShared                     // none is free; one is shared with another endpoint
)

// Forecast is what MapFrom or Map would return for an endpoint, as far as it can
// be known without doing it.
type Forecast struct {
	External *conntrack.External // nil where there is none
	Origin   PortOrigin
	Port     uint16         // 0 where Origin is PortSearched or PortShared
	Reason   verdict.Reason // why there will be no mapping, or None
}

// Forecast says what MapFlow will return for a flow under these ports and this
// behaviour; key and ext are as there. It makes nothing. For a port to share it looks
// at so many ports, and takes it that there is one where these are not all.
func (r PortRange) Forecast(w *conntrack.Worker, b Behaviour, pool *Pool, ext *conntrack.External, key, target *conntrack.Tuple, ports int, now conntrack.Tick) Forecast {
	if ext == nil {
		ext = pool.now(w, key.Src)
	}
	if ext == nil {
		return Forecast{Reason: verdict.NoExternalAddress}
	}
	f := Forecast{External: ext}
	c := conntrack.Claim{Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: ext, Peer: key.Dst}
	switch b.Mapping {
	case MapAddress:
		c.Scope, c.Listed = conntrack.ScopeAddress, b.Filtering != FilterEndpoint
	case MapAddressAndPort:
		c.Scope, c.Listed = conntrack.ScopeFlow, b.Filtering == FilterAddress
	default:
		c.Listed = b.Filtering == FilterAddress
	}
	if m := find(w, &c); m != nil {
		_, f.Port = m.External()
		if source := w.Table().SourceOf(m); source != nil && w.Table().Full(source) {
			f.Reason = verdict.SourceLimit
		}
		w.Release(m)
		return f
	}
	if source := w.FindSource(key.Src); source != nil {
		if w.Table().Full(source) {
			f.Reason = verdict.SourceLimit
		}
		w.ReleaseSource(source)
	}
	r.foretellPort(w, b, &c, target, ports, &f, now)
	return f
}

// ForecastShare says what ShareFlow will return: which port, where the one of f, that
// MapFlow would return, is another's towards the flow's peer.
func (r PortRange) ForecastShare(w *conntrack.Worker, b Behaviour, f *Forecast, key, target *conntrack.Tuple, ports int, now conntrack.Tick) Forecast {
	if !b.shares() {
		return Forecast{External: f.External, Reason: verdict.ReplyTupleTaken}
	}
	c := conntrack.Claim{
		Proto: key.Proto, Inside: key.Src, InsidePort: key.SrcPort, External: f.External, Peer: key.Dst,
		Scope: conntrack.ScopeFlow, Listed: b.Filtering == FilterAddress,
	}
	other := Forecast{External: f.External, Origin: PortShared}
	if !r.sharable(w, &c, target, ports, now) {
		other.Reason = verdict.PortsExhausted
	}
	return other
}

// foretellPort says which port a new mapping will have, in the order in which an
// Allocator looks.
func (r PortRange) foretellPort(w *conntrack.Worker, b Behaviour, c *conntrack.Claim, target *conntrack.Tuple, ports int, f *Forecast, now conntrack.Tick) {
	own, rest := r.classes(c.Proto, c.InsidePort)
	if !b.Random && own.contains(c.InsidePort) && w.Available(c.External, c.Proto, c.InsidePort, c.Inside, c.InsidePort, now) {
		f.Origin, f.Port = PortKept, c.InsidePort
		return
	}
	f.Origin = PortSearched
	for _, r := range [2]PortRange{own, rest} {
		if _, ok := c.External.NextFree(c.Proto, r.Low, r.Low, r.High); ok {
			return
		}
		if _, ok := c.External.LongestResting(c.Proto, r.Low, r.Low, r.High, now); ok {
			return
		}
	}
	f.Origin = PortShared
	if f.Reason == verdict.None && !(b.shares() && r.sharable(w, c, target, ports, now)) {
		f.Reason = verdict.PortsExhausted
	}
}

// sharable reports whether any port can be shared, or one that is not among the
// first of so many could.
func (r PortRange) sharable(w *conntrack.Worker, c *conntrack.Claim, target *conntrack.Tuple, ports int, now conntrack.Tick) bool {
	r = r.shareable(c.Proto)
	for port := int(r.Low); port <= int(r.High); port++ {
		if ports--; ports < 0 {
			return true
		}
		if c.Port = uint16(port); usable(w, c, target, now) {
			return true
		}
	}
	return false
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
