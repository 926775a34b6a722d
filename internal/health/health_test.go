package health

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestJudge: how many probes it takes to go and to come back.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name       string
		rise, fall int
		probes     string // +: answered, -: not
		want       string // what it is after each: H healthy, D dead
	}{
		{"healthy", 2, 3, "+++", "HHH"},
		{"the first probe decides", 2, 3, "-", "D"},
		{"a failure is none", 2, 3, "+--+--+", "HHHHHHH"},
		{"three are", 2, 3, "+---", "HHHD"},
		{"one success is none", 2, 3, "-+-+", "DDDD"},
		{"two are", 2, 3, "-++", "DDH"},
		{"again", 2, 3, "-++---++", "DDHHHDDH"},
		{"at once", 1, 1, "+-+-", "HDHD"},
	} {
		p := &probed{check: Check{Rise: c.rise, Fall: c.fall}, report: Report{Healthy: true}}
		got, changes, healthy := "", 0, true
		for _, r := range c.probes {
			var err error
			if r == '-' {
				err = errors.New("refused")
			}
			change, news := p.judge(Target{}, err, time.Time{})
			if news {
				changes++
				if change.Healthy == healthy {
					t.Errorf("%s: a change that is none", c.name)
				}
				healthy = change.Healthy
			}
			got += map[bool]string{true: "H", false: "D"}[p.report.Healthy]
		}
		if got != c.want {
			t.Errorf("%s: %s gives %s, want %s", c.name, c.probes, got, c.want)
		}
	}
}

// server listens where nobody else does.
func server(t *testing.T) (net.Listener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, netip.MustParseAddrPort(l.Addr().String())
}

// fast is a check that does not make a test wait.
func fast(k Kind) Check {
	return Check{Kind: k, Interval: time.Millisecond, Timeout: 5 * time.Second, Rise: 2, Fall: 2, Path: "/up", Status: 200}
}

// next waits for a change.
func next(t *testing.T, changes chan Change) Change {
	t.Helper()
	select {
	case c := <-changes:
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was reported")
		return Change{}
	}
}

func checker(t *testing.T) (*Checker, chan Change) {
	changes := make(chan Change, 100)
	c := New(func(x Change) { changes <- x })
	t.Cleanup(c.Close)
	return c, changes
}

// TestTCP: a listener that goes away, and comes back.
func TestTCP(t *testing.T) {
	l, at := server(t)
	c, changes := checker(t)
	target := Target{"web", at}
	c.Set(map[Target]Check{target: fast(TCP)})
	l.Close()
	// A connection that was not accepted yet is reset when the listener goes.
	if x := next(t, changes); x.Healthy || x.Target != target || x.Reason != "connection refused" && x.Reason != "connection reset by peer" {
		t.Errorf("%+v", x)
	}
	l, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if x := next(t, changes); !x.Healthy {
		t.Errorf("%+v", x)
	}
	if r, ok := c.Report(target); !ok || !r.Healthy || r.Probes < 3 || r.Failed < 1 {
		t.Errorf("%+v", r)
	}
}

// TestHTTP: the status counts, the path and the host are asked for, and a
// redirection is an answer.
func TestHTTP(t *testing.T) {
	l, at := server(t)
	var status atomic.Int64
	status.Store(200)
	asked := make(chan string, 1000)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Host + r.URL.Path:
		default:
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
	})}
	go s.Serve(l)
	defer s.Close()
	c, changes := checker(t)
	check := fast(HTTP)
	check.Host = "shop.example"
	target := Target{"web", at}
	c.Set(map[Target]Check{target: check})
	if got := <-asked; got != "shop.example/up" {
		t.Errorf("asked for %s", got)
	}
	status.Store(302)
	if x := next(t, changes); x.Healthy || x.Reason != "status 302 instead of 200" {
		t.Errorf("%+v", x)
	}
	// Another check of the same target keeps what it is.
	check.Status = 302
	c.Set(map[Target]Check{target: check})
	if r, _ := c.Report(target); r.Healthy {
		t.Error("a changed check made it healthy without a probe")
	}
	if x := next(t, changes); !x.Healthy {
		t.Errorf("%+v", x)
	}
}

// TestSilence: who accepts and never answers is dead by HTTP.
func TestSilence(t *testing.T) {
	_, at := server(t)
	c, changes := checker(t)
	check := fast(HTTP)
	check.Timeout = 50 * time.Millisecond
	c.Set(map[Target]Check{{"web", at}: check})
	if x := next(t, changes); x.Healthy || !strings.HasPrefix(x.Reason, "no answer within") {
		t.Errorf("%+v", x)
	}
}

// TestRemoved: of what is no target any more nothing is reported or known.
func TestRemoved(t *testing.T) {
	l, at := server(t)
	c, changes := checker(t)
	c.Set(map[Target]Check{{"web", at}: fast(TCP)})
	c.Set(nil)
	l.Close()
	if _, ok := c.Report(Target{"web", at}); ok {
		t.Error("it is still known")
	}
	c.Close()
	select {
	case x := <-changes:
		t.Errorf("%+v", x)
	default:
	}
	c.Set(map[Target]Check{{"web", at}: fast(TCP)}) // after Close: nothing
	if _, ok := c.Report(Target{"web", at}); ok {
		t.Error("a closed checker probes")
	}
}

// The usual errors are told in few words, without the addresses that are known anyway.
func TestErrorsInWords(t *testing.T) {
	c := Check{Timeout: time.Second}
	for want, err := range map[string]error{
		"connection refused":     &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"network is unreachable": &net.OpError{Op: "dial", Net: "tcp4", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)},
		"EOF":                    io.EOF,
	} {
		if got := c.inWords(err).Error(); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// TestSetWhileReporting: who is told of a change may be busy with Set, and take it
// later; so may who asks.
func TestSetWhileReporting(t *testing.T) {
	_, at := server(t)
	reporting, proceed := make(chan struct{}), make(chan struct{})
	c := New(func(Change) {
		close(reporting)
		<-proceed
	})
	t.Cleanup(c.Close)
	dead := Target{"web", netip.AddrPortFrom(at.Addr(), 1)} // nobody listens on port 1
	c.Set(map[Target]Check{dead: fast(TCP)})
	<-reporting
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Set(map[Target]Check{{"web", at}: fast(TCP)})
		if _, ok := c.Report(dead); ok {
			t.Error("it is still known")
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("Set waits for who is told, who may wait for Set")
	}
	close(proceed)
}
