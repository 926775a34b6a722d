package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Balancing is the part of a Gateway that tells of services and their backends.
type Balancing interface {
	// Services describes every service, by its place in the configuration: one
	// entry for each protocol.
	Services() []Service

	// SetDraining has a backend get no new flows, or get them again: in one
	// service, or in all where service is "". It says which it changed. The choice
	// lasts until it is taken back: a reload keeps it, and where flows outlive the
	// daemon, a restart.
	SetDraining(ctx context.Context, service string, backend BackendAddress, drain bool) (BackendChange, error)
}

// Service is a service of one protocol, and what it did since the daemon began.
type Service struct {
	Name      string         `json:"name"`
	Protocol  string         `json:"protocol"` // tcp or udp
	Address   netip.AddrPort `json:"address"`  // that clients connect to
	Mode      string         `json:"mode"`     // snat or dsr
	Dispatch  string         `json:"dispatch"` // with mode dsr; "" else
	Algorithm string         `json:"algorithm"`
	Announce  string         `json:"announce"`

	SessionAffinitySeconds float64  `json:"session_affinity_seconds"` // 0 = none
	SourceRanges           []string `json:"source_ranges"`            // empty = all
	NoBackend              string   `json:"no_backend"`
	DeadBackend            string   `json:"dead_backend"`
	HealthCheck            string   `json:"health_check"` // none, tcp or http
	Line                   int      `json:"line"`         // of the configuration

	Selectable int       `json:"selectable"` // backends that get new flows
	Traffic    Traffic   `json:"traffic"`
	Backends   []Backend `json:"backends"`
}

// Backend is one server of a service.
type Backend struct {
	Address    netip.AddrPort `json:"address"`
	Weight     int            `json:"weight"`
	State      string         `json:"state"`       // active, draining or dead
	Drained    bool           `json:"drained"`     // by an operator
	ReturnPath string         `json:"return_path"` // of most flows: dsr (straight to the client) or gateway
	Health     *Health        `json:"health"`      // null without a health check
	Line       int            `json:"line"`
	Traffic    Traffic        `json:"traffic"`
}

// Traffic counts packets and bytes (IPv4 lengths). With Direct Server Return
// answers do not pass the gateway, and count nowhere here.
type Traffic struct {
	Live        int      `json:"live"`        // flows now
	Flows       uint64   `json:"flows"`       // that began
	Connections uint64   `json:"connections"` // of those, by a SYN
	Packets     Directed `json:"packets"`
	Bytes       Directed `json:"bytes"`
	Unanswered  uint64   `json:"unanswered"` // flows through the gateway of which the client got no answer
}

// Directed is a count in each direction.
type Directed struct {
	Original uint64 `json:"original"` // from clients
	Reply    uint64 `json:"reply"`
}

// Health is what the probes of a backend say.
type Health struct {
	Healthy bool      `json:"healthy"`
	Reason  string    `json:"reason"` // of the latest failure; "" where the latest probe was answered
	Probes  uint64    `json:"probes"`
	Failed  uint64    `json:"failed"`
	Last    time.Time `json:"last"`
}

// BackendAddress names a backend: by address and port, or by address alone (Port
// 0), which is all ports there.
type BackendAddress struct {
	Addr netip.Addr
	Port uint16
}

// ParseBackendAddress reads ADDRESS or ADDRESS:PORT.
func ParseBackendAddress(text string) (BackendAddress, error) {
	if at, err := netip.ParseAddrPort(text); err == nil && at.Addr().Is4() && at.Port() != 0 {
		return BackendAddress{at.Addr(), at.Port()}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() {
		return BackendAddress{Addr: addr}, nil
	}
	return BackendAddress{}, fmt.Errorf("%q is no backend; write ADDRESS or ADDRESS:PORT, as `sluice services list` shows them", text)
}

// String writes what ParseBackendAddress reads.
func (b BackendAddress) String() string {
	if b.Port == 0 {
		return b.Addr.String()
	}
	return netip.AddrPortFrom(b.Addr, b.Port).String()
}

// Is reports whether at is the backend that b names.
func (b BackendAddress) Is(at netip.AddrPort) bool {
	return at.Addr() == b.Addr && (b.Port == 0 || at.Port() == b.Port)
}

// BackendChange says what SetDraining did.
type BackendChange struct {
	Draining bool             `json:"draining"` // what was asked for
	Backends []ChangedBackend `json:"backends"`
}

// ChangedBackend is one backend of one service that an operator drained or
// enabled.
type ChangedBackend struct {
	Service string         `json:"service"`
	Backend netip.AddrPort `json:"backend"`
	Changed bool           `json:"changed"` // false: it was so before
	State   string         `json:"state"`   // now: an enabled one can be dead
}

// takes refuses a query with keys that the endpoint does not know, or given twice.
func takes(q url.Values, known ...string) error {
	for key, values := range q {
		if !slices.Contains(known, key) {
			return fmt.Errorf("%s: not taken; the query takes %s", key, strings.Join(known, ", "))
		}
		if len(values) != 1 {
			return fmt.Errorf("%s: given %d times; give it once", key, len(values))
		}
	}
	return nil
}

// getServices streams one service a line.
func (s *Server) getServices(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := takes(q, "name"); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	name, all := q.Get("name"), s.gateway.Services()
	if q.Has("name") && !slices.ContainsFunc(all, func(x Service) bool { return x.Name == name }) {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no service %q; `sluice services list` names them", name))
		return
	}
	s.streamList(w, r, "services", func(_ context.Context, out *bufio.Writer) error {
		enc := json.NewEncoder(out)
		for i := range all {
			if q.Has("name") && all[i].Name != name {
				continue
			}
			list(&all[i].SourceRanges)
			list(&all[i].Backends)
			if err := enc.Encode(&all[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// postBackends drains or enables a backend.
func (s *Server) postBackends(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	err := takes(q, "service", "backend", "draining")
	var backend BackendAddress
	if err == nil {
		backend, err = ParseBackendAddress(q.Get("backend"))
	}
	drain := q.Get("draining") == "true"
	if err == nil && !drain && q.Get("draining") != "false" {
		err = fmt.Errorf("draining: %q is neither true nor false", q.Get("draining"))
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	change, err := s.gateway.SetDraining(r.Context(), q.Get("service"), backend, drain)
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	s.reply(w, change)
}

// Services lists the services, or those of one name where that is not "".
func (c *Client) Services(ctx context.Context, name string) (all []Service, err error) {
	q := url.Values{}
	if name != "" {
		q.Set("name", name)
	}
	err = stream(c, ctx, "/v1/services", q, func() {}, func(s *Service) error {
		all = append(all, *s)
		return nil
	})
	return all, err
}

// SetDraining drains or enables a backend of a service, or of all where service is
// "".
func (c *Client) SetDraining(ctx context.Context, service string, backend BackendAddress, drain bool) (change BackendChange, err error) {
	q := url.Values{"backend": {backend.String()}, "draining": {strconv.FormatBool(drain)}}
	if service != "" {
		q.Set("service", service)
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/backends", q)
	if err != nil {
		return change, err
	}
	defer resp.Body.Close()
	return change, c.decode(resp.Body, &change)
}
