package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Flow is one flow as `sluice flows list` shows it.
type Flow struct {
	Protocol       string    `json:"protocol"` // tcp, udp, icmp, otherwise the number
	State          string    `json:"state"`    // kebab-case word
	Original       Tuple     `json:"original"`
	Reply          *Tuple    `json:"reply"` // as it arrives at the gateway; null for service-dsr
	Kind           string    `json:"kind"`
	TimeoutSeconds int64     `json:"timeout_seconds"` // until it ends if nothing more comes
	Packets        Pair      `json:"packets"`
	Bytes          Pair      `json:"bytes"`
	Created        time.Time `json:"created"`
	Service        string    `json:"service"` // "" where none
	Backend        string    `json:"backend"` // ADDRESS:PORT, "" where none
}

// Tuple is one direction of a flow. For ICMP echo, Sport is the identifier and
// Dport 0.
type Tuple struct {
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Sport uint16     `json:"sport"`
	Dport uint16     `json:"dport"`
}

// Pair is a count for each direction.
type Pair struct {
	Original uint64 `json:"original"`
	Reply    uint64 `json:"reply"`
}

// Natted reports whether the flow's addresses or ports are changed on the way:
// its replies are then not the mirror image of its originals.
func (f *Flow) Natted() bool {
	r := f.Reply
	return r == nil || r.Src != f.Original.Dst || r.Dst != f.Original.Src ||
		f.Protocol != "icmp" && (r.Sport != f.Original.Dport || r.Dport != f.Original.Sport) ||
		f.Protocol == "icmp" && r.Sport != f.Original.Sport
}

// FlowCount is how many flows a filter matches.
type FlowCount struct {
	Count    int `json:"count"`
	Capacity int `json:"capacity"` // of the table, whatever the filter
}

// Filter chooses flows; all that is set must hold. Addresses and ports are those
// of the original direction. The zero value chooses every flow.
type Filter struct {
	Proto   string       // "" any; tcp, udp, icmp or a number
	Src     netip.Prefix // invalid: any
	Dst     netip.Prefix
	Sport   *uint16 // nil: any
	Dport   *uint16
	State   string // "" any
	Service string // "" any
	Natted  bool   // true: only translated flows
}

// Match reports whether f is chosen.
func (w *Filter) Match(f *Flow) bool {
	return (w.Proto == "" || w.Proto == f.Protocol) &&
		(!w.Src.IsValid() || w.Src.Contains(f.Original.Src)) &&
		(!w.Dst.IsValid() || w.Dst.Contains(f.Original.Dst)) &&
		(w.Sport == nil || *w.Sport == f.Original.Sport) &&
		(w.Dport == nil || *w.Dport == f.Original.Dport) &&
		(w.State == "" || w.State == f.State) &&
		(w.Service == "" || w.Service == f.Service) &&
		(!w.Natted || f.Natted())
}

// All reports whether the filter chooses every flow, so that a count needs no
// walk over the table.
func (w *Filter) All() bool { return *w == Filter{} }

// FlowStates are the words of Flow.State: a filter with another one would choose
// nothing, as if there were no such flow.
var FlowStates = []string{
	"syn-sent", "syn-received", "established", "fin-wait", "last-ack", "time-wait", "close", "unreplied", "replied", "icmp", "other",
}

// filterKeys are the names in a query; the flags of `flows list` are the same.
var filterKeys = []string{"proto", "src", "dst", "sport", "dport", "state", "service", "natted"}

// Values writes the filter as a query.
func (w *Filter) Values() url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	set("proto", w.Proto)
	if w.Src.IsValid() {
		set("src", w.Src.String())
	}
	if w.Dst.IsValid() {
		set("dst", w.Dst.String())
	}
	if w.Sport != nil {
		set("sport", strconv.Itoa(int(*w.Sport)))
	}
	if w.Dport != nil {
		set("dport", strconv.Itoa(int(*w.Dport)))
	}
	set("state", w.State)
	set("service", w.Service)
	if w.Natted {
		set("natted", "true")
	}
	return v
}

// ParseFilter reads a query. An unknown key is an error: a filter that is
// misspelt must not choose every flow.
func ParseFilter(v url.Values) (w Filter, err error) {
	for key, values := range v {
		if len(values) != 1 {
			return Filter{}, fmt.Errorf("%s: given %d times; give it once", key, len(values))
		}
		if err := w.set(key, values[0]); err != nil {
			return Filter{}, err
		}
	}
	return w, nil
}

func (w *Filter) set(key, value string) (err error) {
	switch key {
	case "proto":
		w.Proto, err = parseProtocol(value)
	case "src":
		w.Src, err = parsePrefix(value)
	case "dst":
		w.Dst, err = parsePrefix(value)
	case "sport":
		w.Sport, err = parsePort(value)
	case "dport":
		w.Dport, err = parsePort(value)
	case "state":
		w.State = strings.ToLower(value)
		if !slices.Contains(FlowStates, w.State) {
			err = fmt.Errorf("%q is not a state; these are: %s", value, strings.Join(FlowStates, ", "))
		}
	case "service":
		w.Service = value
	case "natted":
		w.Natted, err = strconv.ParseBool(value)
		if err != nil {
			err = fmt.Errorf("%q is not true or false", value)
		}
	default:
		return fmt.Errorf("%s: not a filter; these are: %s", key, strings.Join(filterKeys, ", "))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// protocolNumbers has the words of Flow.Protocol for the numbers that have one, and
// the numbers of names that have none there (IANA's, as in /etc/protocols).
var protocolNumbers = map[string]string{
	"1": "icmp", "6": "tcp", "17": "udp",
	"ipip": "4", "dccp": "33", "gre": "47", "esp": "50", "ah": "51", "sctp": "132", "udplite": "136",
}

func parseProtocol(s string) (string, error) {
	s = strings.ToLower(s)
	if name, ok := protocolNumbers[s]; ok {
		return name, nil
	}
	switch s {
	case "tcp", "udp", "icmp":
		return s, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return "", fmt.Errorf("%q is not a protocol; use tcp, udp, icmp, gre, esp, ah, sctp, dccp, udplite, ipip or a number up to 255", s)
	}
	return strconv.FormatUint(n, 10), nil
}

// parsePrefix reads an address or a prefix; host bits are ignored, as every
// listing tool does.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return netip.PrefixFrom(a, 32), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 address or prefix", s)
	}
	return p.Masked(), nil
}

func parsePort(s string) (*uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q is not a port; use 0 to 65535", s)
	}
	p := uint16(n)
	return &p, nil
}
