package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCapture(t *testing.T) {
	q := CaptureQuestion{Filter: "tcp port 443", Points: []string{"drop", "rx"}, Count: 3, Snaplen: 96, Sample: 10, Duration: 90 * time.Second}
	var asked CaptureQuestion
	ended := make(chan error, 1)
	next := make(chan struct{})
	g := &scripted{capture: func(ctx context.Context, q CaptureQuestion, begun func() error, out io.Writer) error {
		asked = q
		if err := begun(); err != nil {
			return err
		}
		for range q.Count {
			select { // each is seen before the next one is there
			case <-next:
			case <-ctx.Done():
				ended <- ctx.Err()
				return nil
			}
			if _, err := io.WriteString(out, "block"); err != nil {
				return err
			}
		}
		return nil
	}}
	c, _ := serve(t, g)
	stream, err := c.Capture(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	for range q.Count {
		next <- struct{}{}
		if _, err := io.ReadFull(stream, b); err != nil || string(b) != "block" {
			t.Errorf("%s, %v", b, err)
		}
	}
	if n, err := stream.Read(b); n != 0 || err != io.EOF || !reflect.DeepEqual(asked, q) {
		t.Errorf("%d, %v, asked %+v", n, err, asked)
	}
	stream.Close()
	// A client that leaves ends the capture.
	if stream, err = c.Capture(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	stream.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the capture goes on without its client")
	}
}

// TestCaptureRefused: by the gateway, by the bounds, and for who may not.
func TestCaptureRefused(t *testing.T) {
	refusal := errors.New("filter, position 1: no")
	g := &scripted{capture: func(context.Context, CaptureQuestion, func() error, io.Writer) error { return refusal }}
	c, path := serve(t, g)
	for want, status := range map[error]int{refusal: 400, TooManyLooks("capture", nil): 409} {
		refusal = want
		if _, err := c.Capture(t.Context(), DefaultCapture()); err == nil || err.Error() != want.Error() {
			t.Errorf("%v, want %v", err, want)
		}
		if code, body := request(t, path, "GET", "/v1/capture"); code != status {
			t.Errorf("%d %s", code, body)
		}
	}
	if _, err := c.Capture(t.Context(), CaptureQuestion{}); err == nil || !strings.HasPrefix(err.Error(), "point: ") {
		t.Error(err)
	}
	stranger, _ := serve(t, g, func(s *Server) {
		s.peer = func(net.Conn) (Peer, bool) { return Peer{UID: uint32(os.Geteuid()) + 4711}, true }
	})
	if _, err := stranger.Capture(t.Context(), DefaultCapture()); err == nil || !strings.Contains(err.Error(), "capture packets; run the command with sudo") {
		t.Error(err)
	}
}

func TestParseCapture(t *testing.T) {
	for query, want := range map[string]string{
		"": "", "count=10&duration=1h&filter=tcp&sample=1000000&snaplen=262144&point=rx,tx,drop,punt": "",
		"count=-1": "count: -1 is negative", "count=x": "count: ", "duration=-1s": "duration: -1s is negative", "duration=1": "duration: ",
		"sample=0": "sample: 1/0 is not", "sample=1000001": "sample: 1/1000001 is not", "snaplen=-1": "snaplen: -1 is not",
		"point=": `point: "" is none`, "point=rx,rx": "point: rx is given twice", "point=rx, tx": `point: " tx" is none`,
		"filtre=tcp": "filtre: not part of a capture", "filter=a&filter=b": "filter: given 2 times",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseCapture(v)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", query, err)
		}
		if again, err2 := ParseCapture(q.Values()); err == nil && (err2 != nil || !reflect.DeepEqual(again, q)) {
			t.Errorf("%q: %+v came back as %+v, %v", query, q, again, err2)
		}
	}
}
