package control

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestTrace(t *testing.T) {
	q := TraceQuestion{Filter: "host 10.0.0.5 and tcp port 443", Count: 3, Timeout: 90 * time.Second}
	var asked TraceQuestion
	ended := make(chan error, 1)
	next := make(chan struct{})
	g := &scripted{trace: func(ctx context.Context, q TraceQuestion, begun func() error, yield func(*Traced) error) error {
		asked = q
		if err := begun(); err != nil {
			return err
		}
		for n := 1; n <= q.Count; n++ {
			select { // each is seen before the next one is there
			case <-next:
			case <-ctx.Done():
				ended <- ctx.Err()
				return nil
			}
			if err := yield(&Traced{Number: n, Explanation: Explanation{Verdict: "forward", Original: Tuple{Src: netip.MustParseAddr("10.0.0.5")}}}); err != nil {
				return err
			}
		}
		return nil
	}}
	c, _ := serve(t, g)
	n, begun := 0, false
	err := c.Trace(t.Context(), q, func() { begun = true; next <- struct{}{} }, func(p *Traced) error {
		if n++; p.Number != n || p.Verdict != "forward" || p.Decisions == nil || !begun {
			t.Errorf("packet %d: %+v", n, p)
		}
		if n < q.Count {
			next <- struct{}{}
		}
		return nil
	})
	if err != nil || n != 3 || asked != q {
		t.Errorf("%v, %d packets, asked %+v", err, n, asked)
	}
	// A client that leaves ends the trace.
	enough := errors.New("enough")
	err = c.Trace(t.Context(), q, func() { next <- struct{}{} }, func(*Traced) error { return enough })
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the trace goes on without its client")
	}
}

func TestTraceRefused(t *testing.T) {
	refusal := errors.New("filter, position 1: no")
	g := &scripted{trace: func(context.Context, TraceQuestion, func() error, func(*Traced) error) error { return refusal }}
	c, _ := serve(t, g)
	for _, want := range []error{refusal, TooManyLooks("trace", nil)} {
		refusal = want
		err := c.Trace(t.Context(), TraceQuestion{Count: 1, Timeout: time.Second}, func() { t.Error("begun") }, nil)
		if err == nil || err.Error() != want.Error() {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if err := c.Trace(t.Context(), TraceQuestion{Count: 0, Timeout: time.Second}, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "count: 0 is not") {
		t.Error(err)
	}
}

func TestParseTrace(t *testing.T) {
	for query, want := range map[string]string{
		"": "", "count=1000000&timeout=1h&filter=tcp": "",
		"count=1000001": "count: 1000001 is not", "count=x": "count: ", "timeout=0s": "timeout: 0s is not", "timeout=61m": "timeout: ",
		"filtre=tcp": "filtre: not part of a trace", "filter=a&filter=b": "filter: given 2 times",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseTrace(v)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", query, err)
		}
		if again, err2 := ParseTrace(q.Values()); err == nil && (err2 != nil || again != q) {
			t.Errorf("%q: %+v came back as %+v, %v", query, q, again, err2)
		}
	}
}
