// Package health probes the backends of services, by connecting to them or by an
// HTTP request, and tells whoever asked when one goes or comes back.
//
// A backend counts as healthy until its first probe says otherwise, so that a start
// of the gateway refuses nobody. From then on it takes `fall` failures in a row to
// be dead, and `rise` successes to be alive again. Probes come from the gateway's
// own host, through its kernel, to the backend's address and port: they say that
// the server answers, not that packets of the service arrive.
//
// It knows no service's algorithm or flow: what a dead backend means is others'.
//
// # Concurrency
//
// Each target has a goroutine of its own, and at most maxInFlight of them probe at
// once. The report function is called by these goroutines, one call at a time.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kind is how a backend is probed.
type Kind uint8

const (
	TCP  Kind = iota // a connection is accepted
	HTTP             // a GET is answered with the status that is wanted
)

// Check is how a target is probed.
type Check struct {
	Kind     Kind
	Interval time.Duration // from the end of one probe to the next
	Timeout  time.Duration // of one probe
	Rise     int           // successes in a row that make it healthy
	Fall     int           // failures in a row that make it dead
	Path     string        // HTTP: what is asked for
	Host     string        // HTTP: of which host; "" = the address
	Status   int           // HTTP: the answer's status
}

// Target is one backend of one service.
type Target struct {
	Service string
	Address netip.AddrPort
}

// Change says that a target went or came back, and why.
type Change struct {
	Target  Target
	Healthy bool
	Reason  string // of the last failure; "" when it came back
}

// Report is what is known of a target.
type Report struct {
	Healthy bool
	Probes  uint64
	Failed  uint64
	Reason  string    // of the latest probe, if that failed
	Last    time.Time // of the latest probe; zero before the first
}

// maxInFlight bounds the probes at any moment.
const maxInFlight = 128

// Checker probes targets.
type Checker struct {
	changed func(Change)
	slots   chan struct{}

	telling sync.Mutex // one call of changed at a time

	mu      sync.Mutex // never held while changed is called, which may wait for who calls Set
	ctx     context.Context
	stop    context.CancelFunc
	targets map[Target]*probed
	running sync.WaitGroup
}

// probed is a target under way.
type probed struct {
	check  Check
	cancel context.CancelFunc

	mu     sync.Mutex // of report
	report Report
	streak int // probes in a row that contradict report.Healthy
	judged bool
}

// New has no targets. changed is called when one goes or comes back. It may be late:
// the target can have been taken away meanwhile, which Report tells.
func New(changed func(Change)) *Checker {
	ctx, stop := context.WithCancel(context.Background())
	return &Checker{changed: changed, slots: make(chan struct{}, maxInFlight), ctx: ctx, stop: stop, targets: map[Target]*probed{}}
}

// Set makes these the targets. Those that were there with the same check go on as
// they are; one whose check changed keeps its state.
func (c *Checker) Set(targets map[Target]Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	for t, p := range c.targets {
		if check, stays := targets[t]; !stays || check != p.check {
			p.cancel()
		}
		if _, stays := targets[t]; !stays {
			delete(c.targets, t)
		}
	}
	for t, check := range targets {
		before := c.targets[t]
		if before != nil && before.check == check {
			continue
		}
		ctx, cancel := context.WithCancel(c.ctx)
		p := &probed{check: check, cancel: cancel, report: Report{Healthy: true}}
		if before != nil {
			before.mu.Lock()
			p.report, p.judged = before.report, before.judged
			before.mu.Unlock()
		}
		c.targets[t] = p
		c.running.Go(func() { c.run(ctx, t, p) })
	}
}

// Report is what is known of a target.
func (c *Checker) Report(t Target) (Report, bool) {
	c.mu.Lock()
	p := c.targets[t]
	c.mu.Unlock()
	if p == nil {
		return Report{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report, true
}

// Close ends all probes and waits for them. Nothing is reported afterwards.
func (c *Checker) Close() {
	c.stop()
	c.mu.Lock()
	c.targets = map[Target]*probed{}
	c.mu.Unlock()
	c.running.Wait()
}

// run probes a target until ctx is done.
func (c *Checker) run(ctx context.Context, t Target, p *probed) {
	client := p.check.client()
	for {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		err := p.check.probe(ctx, t.Address, client)
		<-c.slots
		if ctx.Err() != nil {
			return
		}
		if change, news := p.judge(t, err, time.Now()); news {
			c.tell(ctx, change)
		}
		// A tenth of chance, so that many targets spread over the time.
		pause := p.check.Interval + time.Duration(rand.Int64N(int64(p.check.Interval)/5+1)) - p.check.Interval/10
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// tell reports a change, unless the target is none any more.
func (c *Checker) tell(ctx context.Context, change Change) {
	c.telling.Lock()
	defer c.telling.Unlock()
	if ctx.Err() == nil {
		c.changed(change)
	}
}

// judge counts a probe, and says whether it changes what the target is.
func (p *probed) judge(t Target, err error, now time.Time) (change Change, news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.report
	r.Probes++
	r.Last, r.Reason = now, ""
	if err != nil {
		r.Failed++
		r.Reason = err.Error()
	}
	if (err == nil) == r.Healthy {
		p.streak, p.judged = 0, true
		return Change{}, false
	}
	need := p.check.Fall
	if !r.Healthy {
		need = p.check.Rise
	}
	if p.streak++; p.streak < need && p.judged {
		return Change{}, false
	}
	p.streak, p.judged = 0, true
	r.Healthy = err == nil
	return Change{Target: t, Healthy: r.Healthy, Reason: r.Reason}, true
}

// client is for the probes of one target. It follows no redirection and keeps no
// connection: each probe is a client of its own.
func (c *Check) client() *http.Client {
	if c.Kind != HTTP {
		return nil
	}
	return &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// probe asks once. The error says in a few words what is wrong.
func (c *Check) probe(ctx context.Context, to netip.AddrPort, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.Kind == TCP {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp4", to.String())
		if err != nil {
			return c.inWords(err)
		}
		return conn.Close()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.String()+c.Path, nil)
	if err != nil {
		return err
	}
	request.Host = c.Host
	request.Header.Set("User-Agent", "sluice-health")
	answer, err := client.Do(request)
	if err != nil {
		return c.inWords(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != c.Status {
		return fmt.Errorf("status %d instead of %d", answer.StatusCode, c.Status)
	}
	// A body that does not come is no answer either; a long one is not waited for.
	if _, err := io.CopyN(io.Discard, answer.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
		return c.inWords(err)
	}
	return nil
}

// inWords makes the usual errors short.
func (c *Check) inWords(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	case errors.Is(err, syscall.EHOSTUNREACH):
		return errors.New("host unreachable")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", c.Timeout)
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+len(": "):]
	}
	return errors.New(text)
}
