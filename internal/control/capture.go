package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CapturePoints are the places where packets can be captured: as they are received,
// as they leave, and as they were received where they were dropped or given back to
// the kernel.
var CapturePoints = []string{"rx", "tx", "drop", "punt"}

// CaptureQuestion says what to capture, and for how long.
type CaptureQuestion struct {
	Filter   string        // as internal/filter has it; "" is every packet
	Points   []string      // of CapturePoints, each once, at least one
	Count    int           // packets; 0 = without end
	Snaplen  int           // bytes that are kept of a frame, 0 to MaxSnaplen; 0 = all
	Sample   int           // one packet in so many, by chance, 1 to MaxSample
	Duration time.Duration // it ends then; 0 = without end
}

// The bounds of a capture. A snaplen beyond the longest frame is all of it.
const (
	MaxSnaplen = 262144
	MaxSample  = 1_000_000
)

// DefaultCapture captures all packets where they are received and where they leave.
func DefaultCapture() CaptureQuestion {
	return CaptureQuestion{Points: []string{"rx", "tx"}, Sample: 1}
}

// Values writes the question as a query.
func (q *CaptureQuestion) Values() url.Values {
	return url.Values{
		"filter": {q.Filter}, "point": {strings.Join(q.Points, ",")}, "count": {strconv.Itoa(q.Count)}, "snaplen": {strconv.Itoa(q.Snaplen)},
		"sample": {strconv.Itoa(q.Sample)}, "duration": {q.Duration.String()},
	}
}

// Check holds the question against the bounds of a capture. An error begins with
// the parameter's name.
func (q *CaptureQuestion) Check() error {
	for i, p := range q.Points {
		if !slices.Contains(CapturePoints, p) {
			return fmt.Errorf("point: %q is none; these are: %s", p, strings.Join(CapturePoints, ", "))
		}
		if slices.Contains(q.Points[:i], p) {
			return fmt.Errorf("point: %s is given twice", p)
		}
	}
	switch {
	case len(q.Points) == 0:
		return fmt.Errorf("point: none is given; these are: %s", strings.Join(CapturePoints, ", "))
	case q.Count < 0:
		return fmt.Errorf("count: %d is negative; 0 is without end", q.Count)
	case q.Snaplen < 0 || q.Snaplen > MaxSnaplen:
		return fmt.Errorf("snaplen: %d is not 0 (all of a frame) to %d", q.Snaplen, MaxSnaplen)
	case q.Sample < 1 || q.Sample > MaxSample:
		return fmt.Errorf("sample: 1/%d is not 1/1 to 1/%d", q.Sample, MaxSample)
	case q.Duration < 0:
		return fmt.Errorf("duration: %s is negative; 0 is without end", q.Duration)
	}
	return nil
}

// ParseCapture reads a query. What is not given is DefaultCapture's.
func ParseCapture(v url.Values) (q CaptureQuestion, err error) {
	q = DefaultCapture()
	for key, values := range v {
		if len(values) != 1 {
			return q, fmt.Errorf("%s: given %d times; give it once", key, len(values))
		}
		switch value := values[0]; key {
		case "filter":
			q.Filter = value
		case "point":
			q.Points = strings.Split(value, ",")
		case "count":
			q.Count, err = strconv.Atoi(value)
		case "snaplen":
			q.Snaplen, err = strconv.Atoi(value)
		case "sample":
			q.Sample, err = strconv.Atoi(value)
		case "duration":
			q.Duration, err = time.ParseDuration(value)
		default:
			return q, fmt.Errorf("%s: not part of a capture; these are: count, duration, filter, point, sample, snaplen", key)
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", key, err)
		}
	}
	return q, q.Check()
}

// getCapture streams a capture as a pcapng file. The header goes out when the
// workers capture; the stream ends with the capture.
func (s *Server) getCapture(w http.ResponseWriter, r *http.Request) {
	question, err := ParseCapture(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	control := http.NewResponseController(w)
	a := lookAnswer{w: w, r: r, control: control}
	a.end(s.gateway.Capture(r.Context(), question, a.begin("application/x-pcapng"), flushing{patient{w, control}}))
}

// flushing sends what is written at once.
type flushing struct{ patient }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.patient.Write(b)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// Capture has the packets that the question chooses captured, and returns them as
// a pcapng stream when the workers do. The stream ends as the question says, or
// with ctx. Closing it ends the capture.
func (c *Client) Capture(ctx context.Context, q CaptureQuestion) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/capture", q.Values())
	if err != nil {
		return nil, err
	}
	return captured{resp.Body, c}, nil
}

// captured is a capture's stream, whose errors say what to do.
type captured struct {
	io.ReadCloser
	client *Client
}

func (b captured) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.client.explain(err)
	}
	return n, err
}
