package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// NAT is the part of a Gateway that tells of mappings and external addresses.
type NAT interface {
	// Pools says how much of each external address is in use, and by whom: the
	// `top` sources with most ports.
	Pools(ctx context.Context, top int) (Pools, error)

	// Mappings calls yield for each mapping that filter matches, in bounded
	// memory, until yield fails or ctx ends, and returns that error.
	Mappings(ctx context.Context, filter MappingFilter, yield func(Mapping) error) error

	// Who says which inside endpoint holds an external one.
	Who(Endpoint) (Holders, error)
}

// Pools is the state of the external addresses.
type Pools struct {
	At        time.Time         `json:"at"`
	PortRange string            `json:"port_range"` // of TCP and UDP
	Addresses []ExternalAddress `json:"addresses"`
	Ports     PortSearch        `json:"port_search"`
	Sources   []Source          `json:"top_sources"` // most ports first
	Inside    int               `json:"sources"`     // inside addresses with mappings, or counted flows
	Mappings  Usage             `json:"mappings"`    // of all addresses together
	Failures  []Drop            `json:"failures"`    // new flows refused, by reason
}

// PortSearch counts how the search for external ports went since the start.
type PortSearch struct {
	Kept      uint64 `json:"kept"`      // mappings that got their inside port
	Searched  uint64 `json:"searched"`  // mappings that got another port
	Retries   uint64 `json:"retries"`   // ports lost to another worker, and searched again
	Exhausted uint64 `json:"exhausted"` // no port was free
	Shared    uint64 `json:"shared"`    // mappings that share another's port, where none was free
	Waited    uint64 `json:"waited"`    // packets that were held while ports to share were searched
}

// Source is an inside address that has mappings.
type Source struct {
	Address  netip.Addr `json:"address"`
	External netip.Addr `json:"external"` // that it is paired with
	Ports    int        `json:"ports"`    // external ones, of all protocols
	Flows    int        `json:"flows"`
}

// Mapping ties an inside endpoint to an external one. For ICMP echo the ports are
// identifiers.
type Mapping struct {
	Protocol   string         `json:"protocol"`
	Inside     netip.AddrPort `json:"inside"`
	External   netip.AddrPort `json:"external"`
	Flows      int            `json:"flows"`
	Created    time.Time      `json:"created"`
	AgeSeconds int64          `json:"age_seconds"`
	LastFlow   time.Time      `json:"last_flow"` // when the last flow that uses it began
	Scope      string         `json:"scope"`     // towards whom it is used: the words of masquerade.mapping
	Peer       string         `json:"peer"`      // the address that it is used towards; "" = any
	Shared     bool           `json:"shared"`    // another mapping has the external port, too
	Draining   bool           `json:"draining"`  // its external address was removed: it ends with its flows
}

// Endpoint is an external address and port, with or without a protocol.
type Endpoint struct {
	Proto   string // "": any
	Address netip.AddrPort
}

// Holders answers who holds an external endpoint, for each protocol asked about.
type Holders struct {
	At       time.Time `json:"at"`
	External string    `json:"external"`
	Holders  []Mapping `json:"holders"` // empty: nobody, now
}

// MappingFilter chooses mappings; all that is set must hold. The zero value
// chooses every one.
type MappingFilter struct {
	Proto    string
	Inside   netip.Prefix // invalid: any
	External netip.Prefix
}

// Match reports whether m is chosen.
func (w *MappingFilter) Match(m *Mapping) bool {
	return (w.Proto == "" || w.Proto == m.Protocol) &&
		(!w.Inside.IsValid() || w.Inside.Contains(m.Inside.Addr())) &&
		(!w.External.IsValid() || w.External.Contains(m.External.Addr()))
}

// Values writes the filter as a query.
func (w *MappingFilter) Values() url.Values {
	v := url.Values{}
	if w.Proto != "" {
		v.Set("proto", w.Proto)
	}
	if w.Inside.IsValid() {
		v.Set("inside", w.Inside.String())
	}
	if w.External.IsValid() {
		v.Set("external", w.External.String())
	}
	return v
}

// ParseMappingFilter reads a query: proto, inside, external.
func ParseMappingFilter(v url.Values) (w MappingFilter, err error) {
	for key, values := range v {
		if len(values) != 1 {
			return w, fmt.Errorf("%s: given %d times; give it once", key, len(values))
		}
		switch key {
		case "proto":
			w.Proto, err = parseProtocol(values[0])
		case "inside":
			w.Inside, err = parsePrefix(values[0])
		case "external":
			w.External, err = parsePrefix(values[0])
		default:
			return w, fmt.Errorf("%s: not a filter; these are: proto, inside, external", key)
		}
		if err != nil {
			return w, fmt.Errorf("%s: %w", key, err)
		}
	}
	return w, nil
}

// ParseEndpoint reads ADDRESS:PORT and a protocol, "" for any.
func ParseEndpoint(text, proto string) (e Endpoint, err error) {
	e.Address, err = netip.ParseAddrPort(text)
	if err != nil || !e.Address.Addr().Is4() {
		return e, fmt.Errorf("external: %q is not an IPv4 ADDRESS:PORT", text)
	}
	if proto != "" {
		if e.Proto, err = parseProtocol(proto); err != nil {
			return e, fmt.Errorf("proto: %w", err)
		}
	}
	return e, nil
}

// The default and the bound of the sources that Pools lists.
const (
	TopSources    = 10
	MaxTopSources = 1000
)

func (s *Server) getPools(w http.ResponseWriter, r *http.Request) {
	top := TopSources
	for key, values := range r.URL.Query() {
		n, err := strconv.Atoi(values[0])
		if key != "top" || len(values) != 1 || err != nil || n < 0 || n > MaxTopSources {
			fail(w, http.StatusBadRequest, fmt.Errorf("%s=%s: the query takes top, once, 0 to %d", key, values[0], MaxTopSources))
			return
		}
		top = n
	}
	pools, err := s.gateway.Pools(r.Context(), top)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	list(&pools.Addresses)
	list(&pools.Sources)
	list(&pools.Failures)
	s.reply(w, pools)
}

// getMappings streams one mapping a line.
func (s *Server) getMappings(w http.ResponseWriter, r *http.Request) {
	filter, err := ParseMappingFilter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	s.streamList(w, r, "mappings", func(ctx context.Context, out *bufio.Writer) error {
		enc := json.NewEncoder(out)
		return s.gateway.Mappings(ctx, filter, func(m Mapping) error { return enc.Encode(&m) })
	})
}

func (s *Server) getWho(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	endpoint, err := ParseEndpoint(q.Get("external"), q.Get("proto"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	who, err := s.gateway.Who(endpoint)
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	list(&who.Holders)
	s.reply(w, who)
}

// Pools asks for the state of the external addresses and the top sources.
func (c *Client) Pools(ctx context.Context, top int) (p Pools, err error) {
	return p, c.get(ctx, "/v1/nat/pools", url.Values{"top": {strconv.Itoa(top)}}, &p)
}

// Mappings calls yield for each mapping that filter matches, until yield fails or
// ctx ends, and returns that error.
func (c *Client) Mappings(ctx context.Context, filter MappingFilter, yield func(*Mapping) error) error {
	return stream(c, ctx, "/v1/nat/mappings", filter.Values(), func() {}, yield)
}

// Who asks which inside endpoint holds an external one.
func (c *Client) Who(ctx context.Context, e Endpoint) (h Holders, err error) {
	v := url.Values{"external": {e.Address.String()}}
	if e.Proto != "" {
		v.Set("proto", e.Proto)
	}
	return h, c.get(ctx, "/v1/nat/who", v, &h)
}
