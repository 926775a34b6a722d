package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

const (
	survivors    = 100                   // TCP connections, and UDP flows, that are under way when the gateway is killed
	survivorPace = 20 * time.Millisecond // of each
)

// crash is the part of the story in which the gateway is killed. What it was
// carrying must go on when it has been started again: the download that it was in
// the middle of, every connection, the flows without one, and the sessions of the
// host.
type crash struct {
	l   *running
	s   *story
	tcp []*session
	udp []*session

	before map[flowName]netip.AddrPort // when it was killed
}

// flowName tells the flows of a gateway apart.
type flowName struct {
	protocol string
	src, dst netip.AddrPort
}

func (c *crash) checks() []check {
	return []check{
		{fmt.Sprintf("%d TCP, %d UDP flows under way", survivors, survivors), "clients", "server1", masqueraded, c.open},
		{"kill -9 in a 100 MB download", "client1", "server1", masqueraded, c.kill},
		{"TCP connections went on", "clients", "server1", masqueraded, func(context.Context) (outcome, error) { return wentOn(c.tcp) }},
		{"UDP flows went on", "clients", "server1", masqueraded, func(context.Context) (outcome, error) { return wentOn(c.udp) }},
		{"every flow kept its external port", "", "", anyone, c.compare},
	}
}

// close ends what a check that was not made would have.
func (c *crash) close() {
	for _, s := range append(c.tcp, c.udp...) {
		s.stop()
	}
}

// open starts the flows, half from each client.
func (c *crash) open(ctx context.Context) (o outcome, err error) {
	for i := range survivors {
		from := [2]host{c.s.client1, c.s.client2}[i%2]
		t, err := openSession(ctx, from, lab.Server1Address, survivorPace)
		if err != nil {
			return o, err
		}
		c.tcp = append(c.tcp, t)
		u, err := openUDPSession(ctx, from, lab.Server1Address, survivorPace)
		if err != nil {
			return o, err
		}
		c.udp = append(c.udp, u)
		o.saw(t.seen.Addr())
	}
	o.detail = fmt.Sprintf("each exchanges a number every %s", survivorPace)
	return o, nil
}

// kill kills the gateway in the middle of a download, starts it again, and
// returns when the download is complete.
func (c *crash) kill(ctx context.Context) (o outcome, err error) {
	b := newBrake(downloadSize / 2)
	defer b.release()
	type result struct {
		outcome
		err error
	}
	done := make(chan result, 1)
	go func() {
		o, err := c.s.download(ctx, c.s.client1, lab.Server1Address, downloadSize, b)
		done <- result{o, err}
	}()
	select {
	case <-b.reached:
	case r := <-done:
		return r.outcome, errors.Join(errors.New("the download ended before the gateway was killed"), r.err)
	}
	if c.before, err = c.l.externals(ctx); err != nil {
		return o, err
	}
	c.l.gateway.kill()
	b.release()
	if err := c.l.startGateway(ctx); err != nil {
		return o, err
	}
	r := <-done
	r.detail = fmt.Sprintf("ready again in %s; longest pause %s; intact", round(c.l.ready), round(b.longest))
	return r.outcome, r.err
}

// brake is a writer that stops at some byte until it is released, and from then
// on takes the longest time that no byte comes.
type brake struct {
	left    int
	reached chan struct{} // closed at that byte
	resume  chan struct{}
	once    sync.Once
	last    time.Time
	longest time.Duration // read when nobody writes any more
}

func newBrake(at int) *brake {
	return &brake{left: at, reached: make(chan struct{}), resume: make(chan struct{})}
}

func (b *brake) release() { b.once.Do(func() { close(b.resume) }) }

func (b *brake) Write(p []byte) (int, error) {
	now := time.Now()
	switch {
	case b.left > len(p):
		b.left -= len(p)
	case b.left > 0:
		b.left = 0
		close(b.reached)
		<-b.resume
		b.last = time.Now()
	default:
		b.longest = max(b.longest, now.Sub(b.last))
		b.last = now
	}
	return len(p), nil
}

// wentOn ends sessions, and fails unless all of them are well.
func wentOn(list []*session) (o outcome, err error) {
	if len(list) != survivors {
		return o, fmt.Errorf("only %d were ever open", len(list))
	}
	var longest time.Duration
	failed := 0
	for _, s := range list {
		_, e := s.stop()
		if e != nil {
			failed++
			err = e
			continue
		}
		o.saw(s.seen.Addr())
		longest = max(longest, s.longest)
	}
	if failed > 0 {
		return o, fmt.Errorf("%d of %d ended, one of them: %w", failed, len(list), err)
	}
	o.detail = fmt.Sprintf("all %d, with the ports they had; longest pause %s", len(list), round(longest))
	return o, nil
}

// compare holds the flows that the gateway lists now against those that it listed
// before it was killed.
func (c *crash) compare(ctx context.Context) (o outcome, err error) {
	after, err := c.l.externals(ctx)
	if err != nil {
		return o, err
	}
	for f, external := range c.before {
		switch now, ok := after[f]; {
		case !ok:
			return o, fmt.Errorf("the %s flow from %s to %s is gone", f.protocol, f.src, f.dst)
		case now != external:
			return o, fmt.Errorf("the %s flow from %s to %s had %s and has %s", f.protocol, f.src, f.dst, external, now)
		}
	}
	var s control.Status
	if err := c.l.askJSON(ctx, &s, "status"); err != nil {
		return o, err
	}
	o.detail = fmt.Sprintf("%d flows compared; %s", len(c.before), s.StateFile.Start)
	if s.StateFile.Adopted < len(c.before) || len(c.before) < 2*survivors {
		return o, fmt.Errorf("too few: %s", o.detail)
	}
	return o, nil
}

// externals lists the flows by what their far ends see.
func (l *running) externals(ctx context.Context) (map[flowName]netip.AddrPort, error) {
	out, err := l.ask(ctx, "flows", "list")
	if err != nil {
		return nil, err
	}
	list := map[flowName]netip.AddrPort{}
	for f, err := range jsonLines[control.Flow](out) {
		if err != nil {
			return nil, fmt.Errorf("sluice flows list: %w", err)
		}
		if f.Reply != nil {
			o := f.Original
			name := flowName{f.Protocol, netip.AddrPortFrom(o.Src, o.Sport), netip.AddrPortFrom(o.Dst, o.Dport)}
			list[name] = netip.AddrPortFrom(f.Reply.Dst, f.Reply.Dport)
		}
	}
	return list, nil
}
