package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Question is a packet that `sluice explain` asks about: the first of its flow,
// or one of a flow that is there.
type Question struct {
	Proto string // tcp, udp, icmp, otherwise the number

	// Src and Dst are the packet's as it arrives. The port of Src is the
	// identifier of an ICMP echo; other protocols have port 0.
	Src, Dst netip.AddrPort

	In string // the interface that it arrives on; "": the one by which its source is reached

	// Flags are those of a TCP segment, as `--flags` has them: syn,ack. "": it opens
	// a connection, unless it belongs to a flow.
	Flags string
}

// Explanation says what becomes of a packet, and why.
type Explanation struct {
	// Verdict is one of: forward, masquerade to A:P, drop: REASON, pass to
	// kernel. A is auto where the address is that of an interface and nobody
	// looked, P is * where the port will be searched for.
	Verdict     string `json:"verdict"`
	Action      string `json:"action"`      // forward, masquerade, drop, pass-to-kernel
	Reason      string `json:"reason"`      // the drop reason, "" where none
	Explanation string `json:"explanation"` // what the reason means, "" where none

	Protocol   string `json:"protocol"`
	Original   Tuple  `json:"original"`   // as it arrives
	Translated *Tuple `json:"translated"` // as it leaves; null where it does not; src "" and sport 0 where not known
	In         string `json:"in"`
	Out        string `json:"out"` // "" where it does not leave

	Config      string     `json:"config"`      // the configuration file
	Assumptions []string   `json:"assumptions"` // what nobody looked up
	Decisions   []Decision `json:"decisions"`   // in the order in which they are made
}

// Decision is one step on the way to a verdict.
type Decision struct {
	Stage string `json:"stage"` // kebab-case word
	Rule  string `json:"rule"`  // the rule of the policy that decided, a kebab-case word; "" elsewhere
	Line  int    `json:"line"`  // of the configuration; 0: a default, or not from there
	Text  string `json:"text"`
}

var questionKeys = []string{"proto", "src", "dst", "in", "flags"}

// Values writes the question as a query.
func (q *Question) Values() url.Values {
	v := url.Values{"proto": {q.Proto}, "src": {q.endpoint(q.Src)}, "dst": {q.endpoint(q.Dst)}}
	if q.In != "" {
		v.Set("in", q.In)
	}
	if q.Flags != "" {
		v.Set("flags", q.Flags)
	}
	return v
}

func (q *Question) endpoint(a netip.AddrPort) string {
	if q.hasPorts() || a.Port() != 0 {
		return a.String()
	}
	return a.Addr().String()
}

func (q *Question) hasPorts() bool { return q.Proto == "tcp" || q.Proto == "udp" }

// ParseQuestion reads a query.
func ParseQuestion(v url.Values) (q Question, err error) {
	for key, values := range v {
		if len(values) != 1 {
			return Question{}, fmt.Errorf("%s: given %d times; give it once", key, len(values))
		}
		switch key {
		case "proto", "src", "dst", "in", "flags":
		default:
			return Question{}, fmt.Errorf("%s: not part of a question; these are: %s", key, strings.Join(questionKeys, ", "))
		}
	}
	q.In = v.Get("in")
	proto := "tcp" // as the flag's default
	if v.Has("proto") {
		proto = v.Get("proto")
	}
	if q.Proto, err = parseProtocol(proto); err != nil {
		return Question{}, fmt.Errorf("proto: %w", err)
	}
	if q.Flags = v.Get("flags"); q.Flags != "" {
		if q.Proto != "tcp" {
			return Question{}, fmt.Errorf("flags: %s has none; they are TCP's", q.Proto)
		}
		if _, err := parseTCPFlags(q.Flags); err != nil {
			return Question{}, fmt.Errorf("flags: %w", err)
		}
	}
	if q.Src, err = q.parseEndpoint(v.Get("src"), q.Proto == "icmp"); err != nil {
		return Question{}, fmt.Errorf("src: %w", err)
	}
	if q.Dst, err = q.parseEndpoint(v.Get("dst"), false); err != nil {
		return Question{}, fmt.Errorf("dst: %w", err)
	}
	return q, nil
}

// parseEndpoint reads ADDRESS:PORT for protocols with ports, ADDRESS or, where
// there may be an identifier, ADDRESS:IDENTIFIER for others.
func (q *Question) parseEndpoint(s string, identifier bool) (netip.AddrPort, error) {
	host, port, cut := strings.Cut(s, ":")
	addr, err := netip.ParseAddr(host)
	switch {
	case s == "":
		return netip.AddrPort{}, fmt.Errorf("is missing; write %s", q.wanted(identifier))
	case err != nil || !addr.Is4():
		return netip.AddrPort{}, fmt.Errorf("%q is not %s with an IPv4 address", s, q.wanted(identifier))
	case !cut && !q.hasPorts():
		return netip.AddrPortFrom(addr, 0), nil
	case !cut:
		return netip.AddrPort{}, fmt.Errorf("%q has no port; write %s:PORT", s, s)
	case !q.hasPorts() && !identifier:
		return netip.AddrPort{}, fmt.Errorf("%q has a port, which %s has not; write %s", s, q.Proto, host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !identifier {
		return netip.AddrPort{}, fmt.Errorf("%q does not end in a port; use 1 to 65535", s)
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

func (q *Question) wanted(identifier bool) string {
	switch {
	case q.hasPorts():
		return "ADDRESS:PORT"
	case identifier:
		return "ADDRESS or ADDRESS:IDENTIFIER"
	}
	return "ADDRESS"
}
