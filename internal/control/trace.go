package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"sluice/internal/packet"
)

// TraceQuestion says what to trace, and for how long.
type TraceQuestion struct {
	Filter  string        // as internal/filter has it; "" is every packet
	Count   int           // packets, 1 to MaxTraced
	Timeout time.Duration // at most MaxTrace; it ends then, however few there were
}

// The bounds of one trace.
const (
	MaxTraced = 1_000_000
	MaxTrace  = time.Hour
)

// Traced is a packet that a worker dealt with, told as an explanation. Its
// verdict, besides an explanation's, can be `answer ARP` (action answer-arp),
// and of a fragment `wait for the first fragment` (await-first-fragment) or `hand
// over to another worker` (hand-over), or of a packet `wait for a port` (await-port);
// protocol and original are empty where the packet is malformed or not IPv4.
type Traced struct {
	Number int       `json:"number"` // from 1
	At     time.Time `json:"at"`     // when it was read: within a few hundredths of a second
	Worker int       `json:"worker"`
	Queue  int       `json:"queue"`  // of the interface, that it was received from; -1 = not known
	Length int       `json:"length"` // of the frame, in bytes
	TTL    int       `json:"ttl"`    // as it arrived
	Flow   string    `json:"flow"`   // ID.GENERATION, the flow's name while it lives; "" for none
	Lost   uint64    `json:"lost"`   // packets that were chosen so far and could not be recorded in time
	Unseen uint64    `json:"unseen"` // packets so far that a worker that was behind did not look at
	Explanation
}

// Protocol is the word for an IP protocol: tcp, udp, icmp, otherwise the number.
func Protocol(p uint8) string {
	switch p {
	case packet.ProtoTCP:
		return "tcp"
	case packet.ProtoUDP:
		return "udp"
	case packet.ProtoICMP:
		return "icmp"
	}
	return strconv.Itoa(int(p))
}

// Values writes the question as a query.
func (q *TraceQuestion) Values() url.Values {
	return url.Values{"filter": {q.Filter}, "count": {strconv.Itoa(q.Count)}, "timeout": {q.Timeout.String()}}
}

// Check holds the question against the bounds of a trace.
func (q *TraceQuestion) Check() error {
	switch {
	case q.Count < 1 || q.Count > MaxTraced:
		return fmt.Errorf("count: %d is not 1 to %d", q.Count, MaxTraced)
	case q.Timeout <= 0 || q.Timeout > MaxTrace:
		return fmt.Errorf("timeout: %s is not more than 0s and at most %s", q.Timeout, MaxTrace)
	}
	return nil
}

// ParseTrace reads a query: filter, count (default 10) and timeout (default 1m).
func ParseTrace(v url.Values) (q TraceQuestion, err error) {
	q = TraceQuestion{Count: 10, Timeout: time.Minute}
	for key, values := range v {
		if len(values) != 1 {
			return q, fmt.Errorf("%s: given %d times; give it once", key, len(values))
		}
		switch key {
		case "filter":
			q.Filter = values[0]
		case "count":
			q.Count, err = strconv.Atoi(values[0])
		case "timeout":
			q.Timeout, err = time.ParseDuration(values[0])
		default:
			return q, fmt.Errorf("%s: not part of a trace; these are: filter, count, timeout", key)
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", key, err)
		}
	}
	return q, q.Check()
}

// getTrace streams one packet a line, each as soon as it is there. The header
// goes out when the trace is on; the stream ends with it.
func (s *Server) getTrace(w http.ResponseWriter, r *http.Request) {
	question, err := ParseTrace(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	control := http.NewResponseController(w)
	out := json.NewEncoder(patient{w, control})
	a := lookAnswer{w: w, r: r, control: control}
	a.end(s.gateway.Trace(r.Context(), question, a.begin("application/x-ndjson"), func(t *Traced) error {
		list(&t.Assumptions)
		list(&t.Decisions)
		if err := out.Encode(t); err != nil {
			return err
		}
		return control.Flush()
	}))
}

// Trace has the packets that the question chooses traced, until there were as
// many as it asks for or its time is over. begun is called when the workers
// trace, yield with each packet; an error of yield ends it and is returned.
func (c *Client) Trace(ctx context.Context, q TraceQuestion, begun func(), yield func(*Traced) error) error {
	return stream(c, ctx, "/v1/trace", q.Values(), begun, yield)
}
